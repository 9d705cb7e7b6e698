"""One stream to a server: commands go out as they come, answers are matched to them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis
import outcome
import trio

from postman.errors import StoreUnavailable

type Command = tuple[Any, ...]
"""Of text, numbers and bytes."""

_CHUNK: Final = 65_536
_NOTHING: Final = object()


class Wire:
    """A stream and all that is under way on it. It breaks once, and for good.

    Args:
        stream: connected.
        timeout: seconds that an answer may take; then the wire breaks, since nobody knows what comes when.
        on_message: told of each message that the server publishes.

    Attributes:
        broken: why; None: it works.
        ended: set when it broke.
    """

    def __init__(self, stream: trio.abc.Stream, timeout: float, on_message: Callable[[], None] = lambda: None) -> None:
        self.broken: str | None = None
        self.ended = trio.Event()
        self._stream = stream
        self._timeout = timeout
        self._on_message = on_message
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._unsent: list[_Question] = []
        self._asked: deque[_Question] = deque()
        self._something = trio.Event()
        self._patience = trio.CancelScope()
        self._running = trio.CancelScope()

    async def run(self) -> None:
        """Carry questions and answers until the wire breaks or this is cancelled; who still waits is told."""
        try:
            with self._running:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send)
                    await self._receive()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as group:
            self.break_off(f"the connection broke: {type(group.exceptions[0]).__name__}")
        except* hiredis.ProtocolError:
            self.break_off("what answers does not speak the protocol of Redis")
        finally:
            self.break_off("the connection was closed")
            await trio.aclose_forcefully(self._stream)

    def break_off(self, why: str) -> None:
        """End it now. What was sent may have happened; what was not has not."""
        if self.broken is not None:
            return
        self.broken = why
        self.ended.set()
        self._running.cancel()
        for question in self._asked:
            question.fail(StoreUnavailable(why, may_have_happened=True))
        for question in self._unsent:
            question.fail(StoreUnavailable(why))

    async def ask(self, *commands: Command) -> list[Any]:
        """Ask, and wait for the answers, one for each command; those that are errors are `hiredis.ReplyError` values.

        A cancelled caller withdraws what was not sent; what was sent is done, and its answers are dropped.

        Raises:
            StoreUnavailable: the wire broke.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.broken is not None:
            raise StoreUnavailable(self.broken)
        data = b"".join(map(hiredis.pack_command, commands))  # here, so that what cannot be packed breaks no wire
        question = _Question(trio.lowlevel.current_task(), data, len(commands))
        self._unsent.append(question)
        self._something.set()

        def abort(_: object) -> trio.lowlevel.Abort:
            question.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        answers: list[Any] = await trio.lowlevel.wait_task_rescheduled(abort)
        return answers

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something = trio.Event()
            batch = [question for question in self._unsent if question.task is not None]
            self._unsent = []
            for question in batch:
                question.deadline = trio.current_time() + self._timeout
            if not self._asked and batch:
                self._patience.deadline = batch[0].deadline
            self._asked += batch
            if batch:
                await self._stream.send_all(b"".join(question.data for question in batch))

    async def _receive(self) -> None:
        while True:
            deadline = self._asked[0].deadline if self._asked else float("inf")
            with trio.CancelScope(deadline=deadline) as self._patience:
                data = await self._stream.receive_some(_CHUNK)
            if self._patience.cancelled_caught:
                return self.break_off(f"no answer within {self._timeout:g} s")
            if not data:
                return self.break_off("the server closed the connection")
            self._reader.feed(bytes(data))
            while (answer := self._reader.gets()) is not _NOTHING:
                self._dispatch(answer)

    def _dispatch(self, answer: Any) -> None:  # noqa: ANN401  # whatever the server says
        if isinstance(answer, hiredis.PushNotification) and answer[0] != b"subscribe":
            self._on_message()
        elif not self._asked:
            self.break_off(f"the server said something unasked: {str(answer)[:100]}")
        elif self._asked[0].take(answer):
            self._asked.popleft()


class _Question:
    """Commands of one task, and the answers that came."""

    __slots__ = ("answers", "data", "deadline", "task", "wanted")

    def __init__(self, task: trio.lowlevel.Task, data: bytes, wanted: int) -> None:
        self.task: trio.lowlevel.Task | None = task
        """None: nobody waits any more."""
        self.data = data
        self.wanted = wanted
        self.answers: list[Any] = []
        self.deadline = 0.0

    def take(self, answer: Any) -> bool:  # noqa: ANN401  # whatever the server says
        """Take an answer; whether it was the last."""
        self.answers.append(answer)
        if len(self.answers) < self.wanted:
            return False
        if self.task is not None:
            trio.lowlevel.reschedule(self.task, outcome.Value(self.answers))
        self.task = None
        return True

    def fail(self, error: StoreUnavailable) -> None:
        if self.task is not None:
            trio.lowlevel.reschedule(self.task, outcome.Error(error))
        self.task = None
