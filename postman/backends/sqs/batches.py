"""Gathers what many tasks want done into calls of ten.

A full call goes out at once, as long as not too many are under way; one that is not full waits while another is, unless
that one is late. So an idle queue answers at once, a busy one is asked as rarely as can be, and a call that hangs holds
the others up for a moment only.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import trio

from postman.errors import StoreError, StoreUnavailable

FULL: Final = 10
"""Entries that SQS takes at once."""
CALLS: Final = 8
"""Under way at once, of each kind."""
LATE: Final = 0.5
"""Seconds after which a call that is under way is not waited for."""

type Entry = Mapping[str, Any]
type Call = Callable[[Sequence[Entry]], Awaitable[Sequence[StoreError | None]]]


class Batches:
    """Entries on their way. They run in `nursery`, so a cancelled caller's entries are done all the same.

    Args:
        call: does up to `FULL` entries, and says of each why it was not done.
        nursery: ends after every caller.
    """

    def __init__(self, call: Call, nursery: trio.Nursery) -> None:
        self._call = call
        self._nursery = nursery
        self._waiting: deque[tuple[Entry, Group]] = deque()
        self._under_way = 0
        self._began = 0.0
        self._timed = False
        self._idle = trio.Event()

    def submit(self, entries: Sequence[Entry]) -> Group:
        """Have entries done; one at least. The group tells who waits when they are."""
        group = Group(len(entries))
        self._waiting.extend((entry, group) for entry in entries)
        self._start()
        return group

    async def wait_idle(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            self._idle = trio.Event()
            await self._idle.wait()

    def _start(self) -> None:
        while self._waiting and self._under_way < CALLS and (len(self._waiting) >= FULL or self._is_time):
            self._under_way += 1
            self._began = trio.current_time()
            chosen = [self._waiting.popleft() for _ in range(min(FULL, len(self._waiting)))]
            self._nursery.start_soon(self._do, chosen)
        if self._waiting and not self._timed:
            self._timed = True
            self._nursery.start_soon(self._start_later)

    @property
    def _is_time(self) -> bool:
        return not self._under_way or trio.current_time() >= self._began + LATE

    async def _start_later(self) -> None:
        await trio.sleep(LATE)
        self._timed = False
        self._start()

    async def _do(self, chosen: Sequence[tuple[Entry, Group]]) -> None:
        errors: Sequence[StoreError | None] = [StoreUnavailable("the queue was closed", may_have_happened=True)] * FULL
        try:
            errors = await self._call([entry for entry, _ in chosen])
        except StoreError as error:
            errors = [error] * FULL
        finally:
            self._under_way -= 1
            for (_, group), wrong in zip(chosen, errors, strict=False):
                group.tell(wrong)
            self._start()
            self._idle.set()


class Group:
    """Entries that one task waits for.

    Attributes:
        done: all of them were tried.
    """

    def __init__(self, left: int) -> None:
        self.done = trio.Event()
        self.error: StoreError | None = None
        self._left = left

    async def wait(self) -> None:
        """Wait until all are done.

        Raises:
            StoreError: of the first that was not done, when all others were tried.
        """
        await self.done.wait()
        if self.error is not None:
            raise copy.copy(self.error)  # several tasks may raise one and the same

    def tell(self, error: StoreError | None) -> None:
        """One of them was tried."""
        self.error = self.error or error
        self._left -= 1
        if not self._left:
            self.done.set()
