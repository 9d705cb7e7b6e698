"""The postbox: all providers of this process, and the choice among them. Decides without I/O.

Each worker has a primary provider of its own, dealt by weight, and stays with the provider that works for it: when that
one is unavailable the next takes over and, if it takes the letter, becomes the worker's current one, until the breaker
of the primary is closed and some time has passed. A half-open primary gets its probe from the workers it belongs to.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self

import trio

from postman.breaker import BreakerOpen, State
from postman.errors import ProviderMisconfigured, ProviderUnavailable
from postman.ledger import ALL, Call
from postman.sending.carrier import Carrier, Place

LEASE_MARGIN = 5.0
"""Seconds that a claim outlasts the provider's timeout."""

STAY = 30.0
"""Seconds that a worker stays away from its primary after another provider took over."""


class Postbox:
    """All providers of this process.

    Args:
        carriers: in the order of postman.toml.
        workers: how many there are; numbered from 0.
        chance: shuffles who gets which primary.
    """

    def __init__(
        self,
        carriers: Sequence[Carrier],
        workers: int,
        *,
        chance: random.Random | None = None,
    ) -> None:
        self._workers = workers
        self._chance = chance or random.Random()  # noqa: S311  # who is asked first is no secret
        self._gate = trio.Lock()
        self._freed = trio.Event()
        self._turns: set[Turn] = set()
        self._left = trio.lowlevel.ParkingLot()
        self._pauses: frozenset[str] = frozenset()
        self._delivered = [0] * workers
        self.replace(carriers)

    def replace(self, carriers: Sequence[Carrier]) -> None:
        """Take other providers from now on. Deliveries in hand may end with the old ones, see `wait_settled`."""
        self.carriers = tuple(carriers)
        for carrier in self.carriers:
            carrier.on_free = self._wake
        self.pause(self._pauses)
        primaries = deal(self.carriers, self._workers, self._chance)
        self._choices = [_Choice(primary, self._line_up(primary)) for primary in primaries]
        self._wake()

    def pause(self, names: frozenset[str]) -> None:
        """Begin no more calls of these providers and of those that will come under these names; resume all others."""
        self._pauses = names
        for carrier in self.carriers:
            paused = ALL in names or carrier.name in names
            if carrier.paused != paused:
                carrier.paused = paused

    async def wait_available(self, worker: int) -> Turn:
        """Wait until a provider can be asked, and keep a place there. Workers pass in the order they came."""
        async with self._gate:
            while (carrier := self._first_free(worker)) is None:
                freed = self._freed
                wait = min((carrier.seconds_until_free() for carrier in self.carriers), default=float("inf"))
                with trio.move_on_after(wait):
                    await freed.wait()
            return Turn(self, worker, carrier.reserve())

    async def wait_settled(self) -> None:
        """Wait until every delivery in hand now has ended; then nobody asks a provider that was replaced before."""
        turns = set(self._turns)
        while turns & self._turns:
            await self._left.park()

    def available(self) -> bool:
        """Whether letters can leave, though perhaps one at a time and after those in hand."""
        return any(carrier.in_service for carrier in self.carriers)

    def accounts(self) -> frozenset[str]:
        """The accounts that doubt can be resolved at here."""
        return frozenset(carrier.terms.account for carrier in self.carriers)

    def delivered(self) -> list[int]:
        """How many letters each worker had taken, since the start."""
        return list(self._delivered)

    def asking(self) -> list[Asking]:
        """What workers ask right now."""
        now = trio.current_time()
        return [
            Asking(turn._worker, turn._asks, now - turn._asks_since)  # noqa: SLF001  # a turn is a part of its postbox
            for turn in self._turns
            if turn._asks  # noqa: SLF001  # the same
        ]

    def _first_free(self, worker: int) -> Carrier | None:
        order = self._choices[worker].order(trio.current_time()) if self.carriers else []
        return next((carrier for carrier in order if carrier.free() > 0), None)

    def _begun(self, turn: Turn, worker: int) -> tuple[_Choice | None, list[Carrier]]:
        self._turns.add(turn)
        if not self._choices:
            return None, []
        choice = self._choices[worker]
        return choice, choice.order(trio.current_time())

    def _took(self, worker: int) -> None:
        self._delivered[worker] += 1

    def _ended(self, turn: Turn) -> None:
        self._turns.discard(turn)
        self._left.unpark_all()

    def _wake(self) -> None:
        self._freed.set()
        self._freed = trio.Event()

    def _line_up(self, primary: Carrier) -> list[Carrier]:
        """The primary, then the others with a weight in random order, then the fall-backs in the file's order."""
        others = [c for c in self.carriers if c is not primary]
        weighted = [c for c in others if c.terms.weight > 0]
        self._chance.shuffle(weighted)
        return [primary, *weighted, *(c for c in others if c.terms.weight == 0)]


class Asking(NamedTuple):
    """A worker's call, under way for so many seconds."""

    worker: int
    provider: str
    seconds: float


class Turn:
    """A worker's turn: a place kept at one provider, and the order in which the others follow. A context manager."""

    def __init__(self, postbox: Postbox, worker: int, place: Place) -> None:
        self._postbox = postbox
        self._worker = worker
        self._place: Place | None = place
        self._choice: _Choice | None = None
        self._failed: set[str] = set()
        self._asks = ""
        self._asks_since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        self._postbox._ended(self)  # noqa: SLF001  # a turn is a part of its postbox

    def calls(self) -> list[Call]:
        """Every provider, in the order in which this worker would ask them, with whether it can be asked now.

        Keeps a place at the first one that can, so that a hundred workers do not claim letters for one probe.
        """
        self._choice, order = self._postbox._begun(self, self._worker)  # noqa: SLF001  # a turn is a part of its postbox
        if self._place is None or not self._place.good or self._place.carrier not in order:
            self._give_back()
            free = next((c for c in order if c.name not in self._failed and c.free() > 0), None)
            self._place = free.reserve() if free else None
        if self._place:
            first = self._place.carrier
            order = [first, *(c for c in order if c is not first)]
        return [_call(carrier, ready=self._ready(carrier)) for carrier in order]

    @contextmanager
    def call(self, name: str) -> Iterator[Carrier]:
        """Around one call of the provider `name`, chosen by the ledger from the latest `calls()`.

        Raises:
            BreakerOpen: its breaker opened meanwhile; the call must not begin.
        """
        choice = self._choice
        if choice is None:
            raise RuntimeError("call() before calls()")
        carrier = next(c for c in choice.line if c.name == name)
        self._give_back()
        self._asks, self._asks_since = name, trio.current_time()
        try:
            with carrier.call():
                yield carrier
        except (ProviderUnavailable, ProviderMisconfigured, BreakerOpen):
            self._failed.add(name)
            raise
        finally:
            self._asks = ""
        self._postbox._took(self._worker)  # noqa: SLF001  # a turn is a part of its postbox
        choice.took(carrier, self._failed, trio.current_time())

    def _ready(self, carrier: Carrier) -> bool:
        if self._place and carrier is self._place.carrier:
            return True
        return carrier.name not in self._failed and carrier.free() > 0

    def _give_back(self) -> None:
        if self._place is not None:
            self._place.give_back()
            self._place = None


class _Choice:
    """Which provider a worker asks first: its primary, or the one that took over."""

    def __init__(self, primary: Carrier, line: list[Carrier]) -> None:
        self.primary = primary
        self.line = line
        self._current = primary
        self._left_at = 0.0

    def order(self, now: float) -> list[Carrier]:
        if self._current is not self.primary and self._may_return(now):
            self._current = self.primary
        return [self._current, *(c for c in self.line if c is not self._current)]

    def took(self, carrier: Carrier, asked: set[str], now: float) -> None:
        """`carrier` took a letter; it becomes the current one when that had been asked in vain."""
        if carrier is not self._current and self._current.name in asked:
            if self._current is self.primary:
                self._left_at = now
            self._current = carrier

    def _may_return(self, now: float) -> bool:
        state = self.primary.breaker.state
        return state is State.HALF_OPEN or (state is State.CLOSED and now - self._left_at >= STAY)


def deal(carriers: Sequence[Carrier], workers: int, chance: random.Random) -> list[Carrier]:
    """A primary for each worker: shares by weight (largest remainder), shuffled. Without weights: the first in line."""
    if not carriers:
        return []
    total = sum(carrier.terms.weight for carrier in carriers)
    if total == 0:
        return [carriers[0]] * workers
    shares = [carrier.terms.weight * workers / total for carrier in carriers]
    dealt = [int(share) for share in shares]
    by_remainder = sorted(range(len(carriers)), key=lambda i: (dealt[i] - shares[i], i))
    for i in by_remainder[: workers - sum(dealt)]:
        dealt[i] += 1
    primaries = [carrier for carrier, count in zip(carriers, dealt, strict=True) for _ in range(count)]
    chance.shuffle(primaries)
    return primaries


def _call(carrier: Carrier, *, ready: bool) -> Call:
    terms = carrier.terms
    return Call(
        provider=terms.name,
        account=terms.account,
        lease=terms.timeout + LEASE_MARGIN,
        ready=ready,
        domains=terms.from_domains,
    )
