"""Who waits for notes, and the calls that serve them.

A lane that had no message is watched: one call waits there until there is one. A lane that had some is asked, without
waiting, for as many as its share of the takers, until it has none. What comes for nobody is given back at once.

A lane that failed is asked now and then, by one call, until it works again; takers are told only when none is left that
works. SQS may refuse one queue alone: when too many of its messages are in flight, or somebody changed its policy.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import structlog
import trio

from postman.backends.lanes import next_turn
from postman.backends.sqs.channel import Channel, Message
from postman.errors import StoreError
from postman.queue import LANE_WEIGHTS, Lease, read_note
from postman.takers import Takers

MOST: Final = 10
"""Messages that SQS gives at once."""
WAIT: Final = 20
"""Seconds that SQS waits for a message, the longest it can."""
CALLS: Final = 8
"""Under way at once, beside those that wait."""
PAUSES: Final = (0.2, 5.0)
"""Seconds until a lane is asked again that failed: the first, the longest; doubling."""

_log = structlog.get_logger()


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
        self._takers = Takers()
        self._stirred = trio.Event()
        self._asked = 0
        self._calls = 0

    @property
    def troubles(self) -> tuple[str, ...]:
        """A sentence for each lane that fails."""
        failing = [(lane.channel.name, lane.failure) for lane in self._lanes if lane.failure]
        return tuple(f"The queue {name} gives no notes: {failure}" for name, failure in failing)

    async def take(self) -> Lease:
        """See `Queue.take`."""
        return await self._takers.wait(self._stir)

    async def serve(self) -> None:
        """Begin the calls that are needed, until cancelled."""
        while True:
            await self._stirred.wait()
            self._stirred = trio.Event()
            self._ask()

    def _ask(self) -> None:
        for lane, count in self._shares():
            self._asked += count
            self._calls += 1
            self._nursery.start_soon(self._fetch, lane, count)
        for lane in self._lanes:
            if (self._takers or lane.failure) and not lane.stocked and not lane.watched:
                lane.watched = True
                self._nursery.start_soon(self._watch, lane)

    def _shares(self) -> Iterator[tuple[_Lane, int]]:
        """Which lanes to ask for how many, by their turns among those that have some."""
        stocked = [lane for lane in self._lanes if lane.stocked]
        free = min(len(self._takers) - self._asked, MOST * (CALLS - self._calls)) if stocked else 0
        shares: Counter[_Lane] = Counter()
        for _ in range(free):
            shares[next_turn(stocked)] += 1
        for lane, share in shares.items():
            for start in range(0, share, MOST):
                yield lane, min(MOST, share - start)

    async def _fetch(self, lane: _Lane, count: int) -> None:
        try:
            await self._receive(lane, count, 0)
        finally:
            self._asked -= count
            self._calls -= 1
        self._stir()

    async def _watch(self, lane: _Lane) -> None:
        try:
            if lane.failure is None:
                await self._receive(lane, self._wanted, self._wait)
            while lane.failure is not None:
                await trio.sleep(lane.pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads many processes
                lane.pause = min(PAUSES[1], 2 * lane.pause)
                await self._receive(lane, self._wanted, 0)
        finally:
            lane.watched = False
        self._stir()

    @property
    def _wanted(self) -> int:
        return min(MOST, max(1, len(self._takers)))

    async def _receive(self, lane: _Lane, count: int, wait: int) -> None:
        try:
            messages = await lane.channel.receive(count, self._visibility, wait)
        except StoreError as error:
            if lane.failure is None:
                _log.warning("a queue of SQS gives no notes", queue=lane.channel.name, reason=str(error))
            lane.failure, lane.stocked = error, False
            if all(each.failure for each in self._lanes):
                self._takers.fail(error)
            return
        lane.failure, lane.pause = None, PAUSES[0]
        lane.stocked = bool(messages)
        self._hand_out(lane, messages)

    def _hand_out(self, lane: _Lane, messages: Iterable[Message]) -> None:
        ends = trio.current_time() + self._visibility
        for message in messages:
            lease = Lease(read_note(message.body), Held(lane.channel, message, ends))
            if not self._takers.give(lease):
                lane.channel.give_back(message)

    def _stir(self) -> None:
        self._stirred.set()


class _Lane:
    """A channel and its turn.

    Attributes:
        stocked: it had messages when it was last asked, or was never asked.
        watched: a call waits there, or will when it has rested.
        failure: of the last call, if it failed.
        pause: seconds until the next one then.
    """

    def __init__(self, channel: Channel, weight: int) -> None:
        self.channel = channel
        self.weight = weight
        self.credit = 0
        self.stocked = True
        self.watched = False
        self.failure: StoreError | None = None
        self.pause = PAUSES[0]
