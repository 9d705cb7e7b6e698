"""Who waits for notes, and the calls that serve them.

A lane that had no message is watched: one call waits there until there is one. A lane that had some is asked, without
waiting, for as many as its share of the takers, until it has none. What comes for nobody is given back at once.
"""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import outcome
import trio

from postman.backends.sqs.channel import Channel, Message
from postman.errors import StoreError
from postman.queue import LANE_WEIGHTS, Lease, read_note

MOST: Final = 10
"""Messages that SQS gives at once."""
WAIT: Final = 20
"""Seconds that SQS waits for a message, the longest it can."""
CALLS: Final = 8
"""Under way at once, beside those that wait."""
PAUSES: Final = (0.2, 5.0)
"""Seconds until SQS is asked again after it failed: the first, the longest; doubling."""


class Held:
    """The handle of a lease.

    Attributes:
        channel: where the message is.
        message: as it was received.
        ends: when the lease is over, by trio's clock.
    """

    __slots__ = ("channel", "ends", "message")

    def __init__(self, channel: Channel, message: Message, ends: float) -> None:
        self.channel = channel
        self.message = message
        self.ends = ends


class Receiver:
    """See the module.

    Args:
        channels: one for all notes, or one for each lane.
        visibility_timeout: seconds that a lease lasts.
        nursery: in which SQS is asked.
        wait: seconds that SQS waits for a message.
    """

    def __init__(
        self, channels: Sequence[Channel], visibility_timeout: float, nursery: trio.Nursery, wait: int = WAIT
    ) -> None:
        self._lanes = [_Lane(*pair) for pair in zip(channels, LANE_WEIGHTS, strict=False)]
        self._visibility = visibility_timeout
        self._nursery = nursery
        self._wait = wait
        self._takers: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()
        self._stirred = trio.Event()
        self._asked = 0
        self._calls = 0
        self._failed = False
        self._pause = PAUSES[0]

    async def take(self) -> Lease:
        """See `Queue.take`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        self._takers[task] = None
        self._stirred.set()

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._takers[task]
            return trio.lowlevel.Abort.SUCCEEDED

        lease: Lease = await trio.lowlevel.wait_task_rescheduled(abort)
        return lease

    async def serve(self) -> None:
        """Begin the calls that are needed, until cancelled."""
        while True:
            await self._stirred.wait()
            self._stirred = trio.Event()
            if self._failed:
                await trio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads many processes
                self._pause = min(PAUSES[1], 2 * self._pause)
            self._ask()

    def _ask(self) -> None:
        for lane, count in self._shares():
            self._asked += count
            self._calls += 1
            self._nursery.start_soon(self._fetch, lane, count)
        for lane in self._lanes:
            if self._takers and not lane.stocked and not lane.watched:
                lane.watched = True
                self._nursery.start_soon(self._watch, lane)

    def _shares(self) -> Iterator[tuple[_Lane, int]]:
        """Which lanes to ask for how many: smooth weighted round robin among those that have some."""
        stocked = [lane for lane in self._lanes if lane.stocked]
        free = min(len(self._takers) - self._asked, MOST * (CALLS - self._calls)) if stocked else 0
        shares: Counter[_Lane] = Counter()
        for _ in range(free):
            for lane in stocked:
                lane.credit += lane.weight
            chosen = max(stocked, key=_credit)
            chosen.credit -= sum(lane.weight for lane in stocked)
            shares[chosen] += 1
        for lane, share in shares.items():
            for start in range(0, share, MOST):
                yield lane, min(MOST, share - start)

    async def _fetch(self, lane: _Lane, count: int) -> None:
        try:
            await self._receive(lane, count, 0)
        finally:
            self._asked -= count
            self._calls -= 1
        self._stirred.set()

    async def _watch(self, lane: _Lane) -> None:
        try:
            await self._receive(lane, min(MOST, max(1, len(self._takers))), self._wait)
        finally:
            lane.watched = False
        self._stirred.set()

    async def _receive(self, lane: _Lane, count: int, wait: int) -> None:
        try:
            messages = await lane.channel.receive(count, self._visibility, wait)
        except StoreError as error:
            self._failed = True
            while self._takers:
                self._resume(outcome.Error(copy.copy(error)))
            return
        self._failed, self._pause = False, PAUSES[0]
        lane.stocked = bool(messages)
        self._hand_out(lane, messages)

    def _hand_out(self, lane: _Lane, messages: Iterable[Message]) -> None:
        ends = trio.current_time() + self._visibility
        for message in messages:
            if self._takers:
                lease = Lease(read_note(message.body), Held(lane.channel, message, ends))
                self._resume(outcome.Value(lease))
            else:
                lane.channel.give_back(message)

    def _resume(self, result: outcome.Outcome[Lease]) -> None:
        task, _ = self._takers.popitem(last=False)
        trio.lowlevel.reschedule(task, result)


class _Lane:
    """A channel and its turn.

    Attributes:
        stocked: it had messages when it was last asked, or was never asked.
        watched: a call waits there.
    """

    def __init__(self, channel: Channel, weight: int) -> None:
        self.channel = channel
        self.weight = weight
        self.credit = 0
        self.stocked = True
        self.watched = False


def _credit(lane: _Lane) -> int:
    return lane.credit
