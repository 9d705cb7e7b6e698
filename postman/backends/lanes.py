"""The lanes of a queue that one process has to itself: who gets which note, and when. Knows no store.

Notes that may be taken are in memory, in the order (due, number). When a store holds more of them than shall be in
memory, each lane is a window: all notes up to its `end` are here, all later ones are in the store alone, and `fill`
brings the next ones. Time is trio's clock plus an offset, so the wall clock may jump.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import trio

from postman.errors import LeaseLost, StoreError
from postman.queue import LANE_WEIGHTS, LANES, Lease, Note, QueueStatistics
from postman.takers import Takers

WINDOW = 2_048
"""Notes of a lane in memory; at most twice as many."""

type Place = tuple[float, int]
"""Where a note stands in its lane."""

BEGIN: Place = (-math.inf, 0)


class Weighted(Protocol):
    """A lane that gets its turns by weight; its credit, 0 at first, says how near the next one is."""

    weight: int
    credit: int


def next_turn[L: Weighted](lanes: Sequence[L]) -> L:
    """Whose turn it is among `lanes`, of which there is one at least: smooth weighted round robin."""
    for lane in lanes:
        lane.credit += lane.weight
    chosen = max(lanes, key=_credit)
    chosen.credit -= sum(lane.weight for lane in lanes)
    return chosen


def _credit(lane: Weighted) -> int:
    return lane.credit


class Entry(NamedTuple):
    """A note and its place."""

    due: float
    number: int
    note: Note

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.due, self.number


class Lanes:
    """Notes, leases and those who wait for them.

    Args:
        visibility_timeout: seconds that a lease lasts.
        offset: seconds to be added to trio's clock.
        refill: called with a lane and the end of its window when `fill` is wanted; None: everything is in memory.
        stored: how many notes the store has in each lane.
    """

    def __init__(
        self,
        visibility_timeout: float,
        *,
        offset: float = 0.0,
        refill: Callable[[int, Place], None] | None = None,
        stored: Sequence[int] = (0,) * LANES,
    ) -> None:
        self._visibility_timeout = visibility_timeout
        self._offset = offset
        self._lanes = [_Lane(number, refill, stored[number]) for number in range(LANES)]
        self._leases: OrderedDict[int, tuple[float, Entry]] = OrderedDict()
        self._last_lease = 0
        self._takers = Takers()
        self._alarm = trio.Event()
        self._alarm_at = math.inf

    def time(self) -> float:
        """The queue's own time in seconds: never goes back, never jumps."""
        return trio.current_time() + self._offset

    def prefetch(self) -> None:
        """Ask for the first notes of each lane, before anybody takes. Not when made: an answer may come at once."""
        for lane in self._lanes:
            lane.refill_if_low()

    async def run(self) -> None:
        """Wake takers when a delay or a lease is over. Runs as long as the queue is open."""
        while True:
            self._hand_out()
            self._alarm = trio.Event()
            self._alarm_at = self._next_change() if self._takers else math.inf
            with trio.move_on_at(self._alarm_at - self._offset):
                await self._alarm.wait()

    def show(self, entries: Iterable[Entry]) -> None:
        """New notes, or notes in a new place."""
        now = self.time()
        for entry in entries:
            self._lanes[entry.note.lane].show(entry, now)
        self._hand_out()

    def fill(self, number: int, after: Place, entries: Sequence[Entry], *, more: bool) -> None:
        """The answer to `refill`: the notes of a lane behind `after`; and whether there are `more`."""
        self._lanes[number].fill(after, entries, self.time(), more=more)
        self._hand_out()

    def fail(self, number: int, error: StoreError) -> None:
        """The other answer to `refill`. Who waits is told."""
        self._lanes[number].filling = False
        self._takers.fail(error)

    async def take(self) -> Lease:
        """See `Queue.take`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        lease = self._next_lease()
        if lease is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return lease
        return await self._takers.wait(self._set_alarm)

    def end(self, lease: Lease) -> Entry:
        """End a lease; its note is no longer here. Raises `LeaseLost`."""
        self._expire(self.time())
        if lease.handle not in self._leases:
            raise LeaseLost("the lease of this note was over")
        _, entry = self._leases.pop(lease.handle)
        return entry

    def statistics(self, buried: int) -> QueueStatistics:
        """Counts. Of notes outside the window it is not known which are due; they count as the last in it."""
        now = self.time()
        self._expire(now)
        counts = [lane.count(now) for lane in self._lanes]
        high, normal, bulk = (ready for ready, _ in counts)
        return QueueStatistics((high, normal, bulk), sum(delayed for _, delayed in counts), len(self._leases), buried)

    def _hand_out(self) -> None:
        while self._takers and (lease := self._next_lease()) is not None:
            self._takers.give(lease)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._takers and self._next_change() < self._alarm_at:
            self._alarm.set()

    def _next_lease(self) -> Lease | None:
        """Lease the next note, of the lane whose turn it is among those that have one."""
        now = self.time()
        self._expire(now)
        lanes = [lane for lane in self._lanes if lane.is_ready(now)]
        if not lanes:
            return None
        entry = next_turn(lanes).pop()
        self._last_lease += 1
        self._leases[self._last_lease] = now + self._visibility_timeout, entry
        return Lease(entry.note, self._last_lease)

    def _expire(self, now: float) -> None:
        """Show again what is leased for too long. All leases are equally long, so the first to end comes first."""
        while self._leases:
            number, (ends, entry) = next(iter(self._leases.items()))
            if ends > now:
                return
            del self._leases[number]
            self._lanes[entry.note.lane].restore(entry)

    def _next_change(self) -> float:
        dues = [lane.delayed[0].due for lane in self._lanes if lane.delayed]
        leases = [next(iter(self._leases.values()))[0]] if self._leases else []
        return min(dues + leases, default=math.inf)


class _Lane:
    """The window of one lane: two heaps, what is due and what is not yet."""

    def __init__(self, number: int, refill: Callable[[int, Place], None] | None, stored: int) -> None:
        self.weight = LANE_WEIGHTS[number]
        self.credit = 0
        self.ready: list[Entry] = []
        self.delayed: list[Entry] = []
        self.filling = False
        self._number = number
        self._refill = refill
        self._end: Place | None = None if refill is None else BEGIN
        """None: all notes of this lane are here."""
        self._beyond = stored
        """About how many notes are behind the end."""

    def show(self, entry: Entry, now: float) -> None:
        if self._end is not None and entry.place > self._end:
            self._beyond += 1
            return
        heapq.heappush(self.ready if entry.due <= now else self.delayed, entry)
        if self._refill is not None and len(self.ready) + len(self.delayed) > 2 * WINDOW:
            self._shrink(now)

    def restore(self, entry: Entry) -> None:
        """A note that was leased, in its old place, which is always within the window."""
        heapq.heappush(self.ready, entry)

    def fill(self, after: Place, entries: Sequence[Entry], now: float, *, more: bool) -> None:
        self.filling = False
        # Else the window was shrunk in the meantime, or has grown, and these are not the next ones, or not wanted.
        if after == self._end and len(self.ready) + len(self.delayed) <= WINDOW:
            self._end = None
            for entry in entries:
                self.show(entry, now)
            self._end = entries[-1].place if more else None
            self._beyond = max(0, self._beyond - len(entries)) if more else 0
        self.refill_if_low()

    def refill_if_low(self) -> None:
        low = len(self.ready) + len(self.delayed) < WINDOW // 4
        if low and self._refill is not None and self._end is not None and not self.filling:
            self.filling = True
            self._refill(self._number, self._end)

    def is_ready(self, now: float) -> bool:
        while self.delayed and self.delayed[0].due <= now:
            heapq.heappush(self.ready, heapq.heappop(self.delayed))
        if not self.ready:
            self.refill_if_low()
        return bool(self.ready)

    def pop(self) -> Entry:
        entry = heapq.heappop(self.ready)
        self.refill_if_low()
        return entry

    def count(self, now: float) -> tuple[int, int]:
        """Ready, and delayed."""
        self.is_ready(now)
        beyond_is_due = self._end is not None and self._end[0] <= now
        return (
            len(self.ready) + (self._beyond if beyond_is_due else 0),
            len(self.delayed) + (0 if beyond_is_due else self._beyond),
        )

    def _shrink(self, now: float) -> None:
        entries = sorted(self.ready + self.delayed)
        kept = entries[:WINDOW]
        self._end = kept[-1].place
        self._beyond += len(entries) - len(kept)
        self.ready = [entry for entry in kept if entry.due <= now]
        self.delayed = [entry for entry in kept if entry.due > now]
