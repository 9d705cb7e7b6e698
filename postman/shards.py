"""Several queues as one, so that no queue is a point of contention, and one that is down stops nothing.

Notes are spread by a hash of their ids. While a queue is down its share goes to the next one: a note is a wake-up, and
any queue will do. What a durable queue still holds is shown again when it is back, which is harmless; what it lost, or
keeps to itself for long, the clerk puts again.

Takers are asked for at every queue at once. What came for nobody, because another queue was quicker, is spare: it is
the next taker's, which makes all queues take turns, and is given back when nobody wants it for `HOLD` seconds.
"""

from __future__ import annotations

import math
import random
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Final

import structlog
import trio

from postman.errors import ConfigError, LeaseLost, StoreError, StoreUnavailable, leaf
from postman.queue import Lease, Note, Queue, QueueStatistics
from postman.takers import Takers

HOLD: Final = 1.0
"""Seconds that a spare note waits for a taker here, before it is shown to other processes again."""

PAUSES: Final = (0.5, 15.0)
"""Seconds between two looks at a queue that is down: the first, the longest; doubling."""

CLOSING: Final = 1.0
"""Seconds that giving back the spare notes may take at the end."""

type Opening = Callable[[], AbstractAsyncContextManager[Queue]]

_log = structlog.get_logger()


class ShardedQueue:
    """See `postman.queue.Queue`. Opened by `open_shards`.

    Durable and shared is what all of its queues are. Raises `StoreUnavailable` only when all of them are down.
    """

    def __init__(self, shards: Sequence[_Shard], nursery: trio.Nursery) -> None:
        self.durable = self.shared = False
        self._shards = shards
        self._nursery = nursery
        self._takers = Takers()
        self._spare: deque[tuple[float, Lease]] = deque()
        self._surplus = trio.Event()

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """See `Queue.put`. Each queue's share is put whole, or to the next queue."""
        shares: dict[int, list[Note]] = {}
        for note in notes:
            shares.setdefault(zlib.crc32(note.id.encode()) % len(self._shards), []).append(note)
        errors: list[StoreError] = []
        async with trio.open_nursery() as nursery:
            for number, share in shares.items():
                nursery.start_soon(self._put, number, share, delay, errors)
        if errors:
            raise errors[0]

    async def take(self) -> Lease:
        """See `Queue.take`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._spare:
            _, lease = self._spare.popleft()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return lease
        self._refuse_if_all_are_down()
        try:
            return await self._takers.wait(self._ask)
        except trio.Cancelled:
            self._surplus.set()
            raise

    async def ack(self, lease: Lease) -> None:
        """See `Queue.ack`."""
        with _leased(lease) as (queue, held):
            await queue.ack(held)

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """See `Queue.release`."""
        with _leased(lease) as (queue, held):
            await queue.release(held, delay)

    async def bury(self, lease: Lease, reason: str) -> None:
        """See `Queue.bury`."""
        with _leased(lease) as (queue, held):
            await queue.bury(held, reason)

    async def statistics(self) -> QueueStatistics:
        """See `Queue.statistics`. Of the queues that answer; `troubles` names the others, and what these say."""
        found: list[QueueStatistics] = []
        async with trio.open_nursery() as nursery:
            for shard in self._shards:
                nursery.start_soon(shard.count_into, found)
        self._refuse_if_all_are_down()
        down = [f"The queue {s.name} is down; the others do its work: {s.down}" for s in self._shards if s.down]
        ready = [sum(counts) for counts in zip(*(one.ready for one in found), strict=True)] or [0, 0, 0]
        leased = sum(one.leased for one in found)
        for _, lease in self._spare:
            if lease.note is not None:
                ready[lease.note.lane] += 1
                leased -= 1
        return QueueStatistics(
            (ready[0], ready[1], ready[2]),
            sum(one.delayed for one in found),
            max(0, leased),
            sum(one.buried for one in found),
            (*down, *(trouble for one in found for trouble in one.troubles)),
        )

    def came_up(self) -> None:
        """A queue can be asked again."""
        self._ask()

    async def tidy(self) -> None:
        """Give back what nobody wants, again and again, until cancelled."""
        while True:
            await self._surplus.wait()
            self._surplus = trio.Event()
            await trio.sleep(HOLD)
            for shard in self._shards:
                shard.ask_for_no_more_than(len(self._takers))
            await self.give_back(trio.current_time() - HOLD)
            if self._spare:
                self._surplus.set()

    async def give_back(self, came_before: float) -> None:
        """Release the spare notes that came so long ago."""
        while self._spare and self._spare[0][0] <= came_before:
            _, lease = self._spare.popleft()
            with suppress(StoreError):  # it is shown again when its lease is over
                await self.release(lease)

    async def _put(self, number: int, notes: Sequence[Note], delay: float, errors: list[StoreError]) -> None:
        failure: StoreError = StoreUnavailable("all queues are down")
        for shard in (*self._shards[number:], *self._shards[:number]):
            if shard.down or shard.queue is None:
                continue
            try:
                with shard.watched():
                    await shard.queue.put(notes, delay)
            except StoreError as error:
                failure = error
            else:
                return
        errors.append(failure)

    def _ask(self) -> None:
        for shard in self._shards:
            if shard.queue is not None and not shard.down:
                for _ in range(len(self._takers) - len(shard.asking)):
                    scope = trio.CancelScope()
                    shard.asking[scope] = None
                    self._nursery.start_soon(self._fetch, shard, shard.queue, scope)

    async def _fetch(self, shard: _Shard, queue: Queue, scope: trio.CancelScope) -> None:
        with scope:
            try:
                lease = await queue.take()
            except Exception as error:  # noqa: BLE001  # a full store, a bug: nobody else would ask it again
                shard.fall(error)
                self._tell_if_all_are_down()
            else:
                self._hand(Lease(lease.note, (shard, queue, lease)))
            finally:
                shard.asking.pop(scope, None)

    def _hand(self, lease: Lease) -> None:
        if not self._takers.give(lease):
            self._spare.append((trio.current_time(), lease))
        self._surplus.set()

    def _refuse_if_all_are_down(self) -> None:
        if all(shard.down for shard in self._shards):
            raise StoreUnavailable("; ".join(f"{shard.name}: {shard.down}" for shard in self._shards))

    def _tell_if_all_are_down(self) -> None:
        try:
            self._refuse_if_all_are_down()
        except StoreUnavailable as error:
            self._takers.fail(error)


class _Shard:
    """One of the queues.

    Attributes:
        name: for people.
        queue: None: it could not be opened yet.
        down: why it is asked nothing now; "" while it is.
        asking: those who ask it for a note, the oldest first.
    """

    def __init__(self, name: str, opening: Opening) -> None:
        self.name = name
        self.queue: Queue | None = None
        self.down = "it was not opened yet"
        self.asking: dict[trio.CancelScope, None] = {}
        self._opening = opening
        self._failed = trio.Event()
        self._pause = PAUSES[0]
        self._proven_at = -math.inf
        """Until then it has not worked for long enough again: it may count its notes and give none."""

    async def keep(self, came_up: Callable[[], None], *, task_status: trio.TaskStatus[BaseException | None]) -> None:
        """Open it, and look after it until cancelled. Started with what the first try to open it failed with."""
        pause = PAUSES[0]
        told: Callable[[BaseException | None], None] = task_status.started
        while True:
            try:
                async with self._opening() as self.queue:
                    self._rise()
                    told(None)
                    told = _once_is_enough
                    came_up()
                    await self._look_after(self.queue, came_up)
            except Exception as error:  # noqa: BLE001  # whatever it is, it costs this queue alone
                failure = leaf(error)
                self.fall(failure)
                self.queue = None
                self.ask_for_no_more_than(0)  # who waits at what was closed would wait for ever
                told(failure)
            told = _once_is_enough
            await trio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads many instances
            pause = min(PAUSES[1], 2 * pause)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around everything that is asked of it: whether it answers is seen."""
        try:
            yield
        except StoreUnavailable as error:
            self.fall(error)
            raise

    def fall(self, error: BaseException) -> None:
        """It is asked nothing until it answers to a look."""
        reason, ours = str(error) or repr(error), isinstance(error, StoreError | ConfigError)
        if not self.down and trio.current_time() >= self._proven_at:
            _log.warning("a queue is down; the others go on", queue=self.name, reason=reason, exc_info=not ours)
            self._pause = PAUSES[0]
        self.down = reason
        self._failed.set()

    async def count_into(self, found: list[QueueStatistics]) -> None:
        """Count, if it answers."""
        if self.queue is not None and not self.down:
            with suppress(StoreError), self.watched():
                found.append(await self.queue.statistics())

    def ask_for_no_more_than(self, takers: int) -> None:
        """Let those go who ask beyond that, the newest first."""
        while len(self.asking) > takers:
            scope, _ = self.asking.popitem()
            scope.cancel()

    async def _look_after(self, queue: Queue, came_up: Callable[[], None]) -> None:
        while True:
            await self._failed.wait()
            while self.down:
                await trio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads many instances
                self._pause = min(PAUSES[1], 2 * self._pause)
                with suppress(Exception):  # it is asked again
                    await queue.statistics()
                    self._rise()
            self._proven_at = trio.current_time() + PAUSES[1]
            came_up()

    def _rise(self) -> None:
        self.down = ""
        self._failed = trio.Event()


def _once_is_enough(_: object) -> None:
    """In place of `task_status.started`, from the second time on."""


@contextmanager
def _leased(lease: Lease) -> Iterator[tuple[Queue, Lease]]:
    shard, queue, held = lease.handle
    if queue is not shard.queue:
        raise LeaseLost("the queue of this note was closed meanwhile")  # a new one may give the same handle to another
    with shard.watched():
        yield queue, held


@asynccontextmanager
async def open_shards(openings: Iterable[tuple[str, Opening]]) -> AsyncGenerator[Queue]:
    """Several queues, each by its name, as one.

    One that does not answer is opened later, as long as there is another one.

    Raises:
        ConfigError: one cannot be used as it is configured.
        StoreRefused: one must not be used.
        StoreUnavailable: none answers.
    """
    shards = [_Shard(name, opening) for name, opening in openings]
    async with trio.open_nursery() as nursery:
        queue = ShardedQueue(shards, nursery)
        failures = [failure for shard in shards if (failure := await nursery.start(shard.keep, queue.came_up))]
        refusal = _refusal(failures, len(shards))
        if refusal is None:
            opened = [shard.queue for shard in shards if shard.queue is not None]
            queue.durable = all(one.durable for one in opened)
            queue.shared = all(one.shared for one in opened)
            nursery.start_soon(queue.tidy)
            yield queue
            with trio.move_on_after(CLOSING):
                await queue.give_back(trio.current_time())
        nursery.cancel_scope.cancel()
    if refusal is not None:
        raise refusal


def _refusal(failures: Sequence[BaseException], queues: int) -> BaseException | None:
    """Why so many queues may not be used; None: those that do not answer may be opened later."""
    final = [error for error in failures if not isinstance(error, StoreUnavailable)]
    return next(iter(final or failures), None) if final or len(failures) == queues else None
