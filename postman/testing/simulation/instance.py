"""One instance of the service: its workers, its clerk, its way in; and its death."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from postman.breaker import Breaker
from postman.clerk import Clerk
from postman.errors import StoreError, StoreUnavailable
from postman.flake import Flake
from postman.guard import Guard
from postman.intake import Intake
from postman.ledger import Accepted
from postman.mail import Mail
from postman.queue import Queue
from postman.sending.carrier import Carrier, Terms, blame
from postman.sending.delivery import Delivery
from postman.sending.postbox import Postbox
from postman.sending.room import Room
from postman.sending.worker import work
from postman.testing.simulation.dice import Dice
from postman.testing.simulation.stores import Network, ShakyLedger, ShakyQueue, SimulatedLedger, wall
from postman.testing.simulation.truth import Truth
from postman.testing.simulation.vendor import Plug, Vendor

LOOK = 10.0
"""Seconds between two looks at whom a person paused."""
MARGIN = 2.0
"""Seconds after a drain's grace by which the instance is dead."""


@dataclass(frozen=True)
class Parts:
    """What an instance is made of; a mutation replaces one of them."""

    ledger: type[SimulatedLedger] = SimulatedLedger
    intake: type[Intake] = Intake
    delivery: type[Delivery] = Delivery
    clerk: type[Clerk] = Clerk


@dataclass(frozen=True)
class Outside:
    """What outlives an instance.

    Attributes:
        branch: whose accounts at the vendors it has; instances of one branch have the same.
        nursery: where what is left of it when it is killed comes to rest.
    """

    ledger: SimulatedLedger
    queue: Queue
    vendors: Sequence[Vendor]
    dice: Dice
    truth: Truth
    nursery: trio.Nursery
    branch: str = ""


class Died(BaseException):
    """The instance is dead: nothing that it would do happens."""


class Instance:
    """A process, as far as letters can tell.

    Args:
        number: of the node.
        parts: what it is made of.
        outside: where it is.
    """

    def __init__(self, number: int, parts: Parts, outside: Outside) -> None:
        dice, truth, vendors = outside.dice, outside.truth, outside.vendors
        self.network = Network(dice, truth, self)
        self._accounts = {vendor.name: f"{vendor.name}'s {outside.branch}" for vendor in vendors}
        self.ledger = ShakyLedger(outside.ledger, self.network, self._accounts.values())
        self.ended = trio.Event()
        self.guard = Guard()
        self._queue = ShakyQueue(outside.queue, self.network)
        self._vendors = vendors
        self._dice = dice
        self._truth = truth
        self._nursery = outside.nursery
        self._scope = trio.CancelScope()
        self._dead = False
        self._workers = dice.randint(1, 8)
        self._room = Room(dice.choice((1_500, 1_000_000)))
        self.postbox = Postbox([self._carrier(vendor) for vendor in vendors], self._workers, chance=dice)
        self.clerk = parts.clerk(
            self.ledger, self._queue, accounts=self.postbox.accounts, delivering=self.postbox.available, wall=wall
        )
        self._delivery = parts.delivery(self.ledger, self._queue, self.guard, steady=trio.current_time, wall=wall)
        self._intake = parts.intake(self.ledger, self._queue, Flake(number, wall), wall=wall)

    @property
    def serving(self) -> bool:
        """Whether it takes requests."""
        return not self._dead and not self.guard.draining

    def breathe(self) -> None:
        """Raise if it is dead."""
        if self._dead:
            raise Died

    async def accept(self, mails: Sequence[Mail], key: str | None) -> Accepted:
        """Answer a POST.

        Raises:
            Died: no answer comes.
            StoreError: as from `Intake.accept`.
        """
        if not self.serving:
            raise StoreUnavailable("the service is stopping")
        return await self._intake.accept(mails, "shop", key, hashlib.sha256(b"the same").digest())

    async def live(self) -> None:
        """Work until killed or drained."""
        self._nursery.start_soon(self._run)
        await self.ended.wait()
        self._truth.died(self)

    def kill(self) -> None:
        """As by kill -9: what it had begun with the stores and the vendors may still happen, nothing new does."""
        self._dead = True
        self._scope.cancel()
        self.guard.drain(0)
        self.ended.set()

    def drain(self, grace: float) -> None:
        """As by SIGTERM."""
        self.guard.drain(grace)
        self._scope.cancel()
        self._nursery.start_soon(self._watchdog, grace + MARGIN)

    def reload(self) -> None:
        """Other providers: some kept, some opened anew, some gone; all of them once it is calm."""
        if self._dice.calm:
            self.postbox.replace([self._carrier(vendor) for vendor in self._vendors])
            return
        kept = {carrier.name: carrier for carrier in self.postbox.carriers if self._dice.even()}
        vendors = self._dice.sample(self._vendors, self._dice.randint(1, len(self._vendors)))
        self.postbox.replace([kept.get(vendor.name) or self._carrier(vendor) for vendor in vendors])

    def _carrier(self, vendor: Vendor) -> Carrier:
        plug = Plug(vendor, step=self.network.deliver, start_soon=self._nursery.start_soon, truth=self._truth)
        terms = Terms(
            name=vendor.name,
            account=self._accounts[vendor.name],
            weight=self._dice.choice((0, 1, 1)),
            max_concurrent=self._dice.choice((None, None, 1)),
            rate=self._dice.choice((None, None, 1.0)),
            fail_over_suppressed=self._dice.even(),
            marks=vendor.marks,
        )
        return Carrier(plug, terms, Breaker(is_fault=blame, clock=trio.current_time), clock=trio.current_time)

    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for number in range(self._workers):
                        nursery.start_soon(
                            work, number, self.postbox, self._queue, self._delivery, self.guard, self._room
                        )
                    nursery.start_soon(self.clerk.run)
                    nursery.start_soon(self._watch)
        except* Died:
            pass
        self.ended.set()

    async def _watch(self) -> None:
        while True:
            with suppress(StoreError):
                self.postbox.pause(frozenset(pause.provider for pause in await self.ledger.pauses()))
            await trio.sleep(LOOK)

    async def _watchdog(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.ended.wait()
            return
        self.kill()
