"""The stores: one ledger and one queue in memory, and how each instance sees them through a bad network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

import trio

from postman import transitions
from postman.backends.memory.ledger import MemoryLedger
from postman.errors import StoreFull, StoreUnavailable
from postman.ledger import Accepted, Call, Claim, Ended, Filter, Instance, LedgerStatistics, Overdue, Pause, Unclaimable
from postman.mail import Id, Letter
from postman.provider import Receipt
from postman.queue import MAX_DELAY, Lease, Note, Queue, QueueStatistics
from postman.row import End, Now, Policy, Row, Verb
from postman.testing.simulation.dice import Dice, Trouble
from postman.testing.simulation.truth import Truth

PACE = 0.1
"""Seconds at most to a store and back, when all is well."""

EPOCH = 1_800_000_000.0


def wall() -> float:
    """Seconds since 1970."""
    return EPOCH + trio.current_time()


def now() -> Now:
    """The time of a decision."""
    return Now(wall(), trio.current_time())


class Bug(Exception):
    """A planned bug of ours."""


class SimulatedLedger(MemoryLedger):
    """Outlives the instances, as a store on a disk does. Mutations of what a ledger decides are subclasses of it."""

    durable = True
    shared = True

    def peek(self, id: Id) -> Row | None:
        """The row, at once."""
        return self._rows.get(id)

    def reopen(self) -> None:
        """What a store does that one process has to itself, when that process is started again."""
        for row in list(self._rows.live()):
            self._rows.write(transitions.orphan(row, self.policy, self._clock()), row)


class Body(Protocol):
    """The instance that asks."""

    def breathe(self) -> None:
        """Raise if it is dead."""


class Network:
    """Between one instance and the stores.

    Attributes:
        down: nothing comes through.
        frozen_until: so long the instance stands still, as by SIGSTOP.
    """

    down = False
    frozen_until = 0.0

    def __init__(self, dice: Dice, truth: Truth, body: Body) -> None:
        self.dice = dice
        self.truth = truth
        self.body = body

    async def wait(self) -> None:
        """On the way to a store or back; who waits cannot be cancelled, but die."""
        await self._sleep(self.dice.seconds(PACE))

    async def deliver(self, pace: float = PACE) -> None:
        """A step of a delivery, which may stall."""
        await self._sleep(self.dice.stall() or self.dice.seconds(pace))

    async def _sleep(self, seconds: float) -> None:
        self.body.breathe()
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
            while trio.current_time() < self.frozen_until:  # noqa: ASYNC110  # it may be frozen again meanwhile
                await trio.sleep_until(self.frozen_until)
        self.body.breathe()

    async def read[T](self, ask: Callable[[], Awaitable[T]]) -> T:
        """Come back with the answer, or without."""
        await self.wait()
        if self.down or self.dice.hit(Trouble.LEDGER_REFUSES):
            raise StoreUnavailable("no answer")
        return await ask()

    async def write[T](self, ask: Callable[[], Awaitable[T]], watch: Callable[[T], None] = lambda _: None) -> T:
        """Change the ledger, or not; come back with the answer, or without. `watch` sees what was really done."""
        with trio.CancelScope(shield=True):
            await self.wait()
            if self.down or self.dice.hit(Trouble.LEDGER_REFUSES):
                raise StoreUnavailable("no answer", may_have_happened=self.dice.even())
            if self.dice.hit(Trouble.LEDGER_FULL):
                raise StoreFull("the disk is full")
            answer = await ask()
            watch(answer)
            await self.wait()
        if self.dice.hit(Trouble.LEDGER_SILENT):
            raise StoreUnavailable("the answer was lost", may_have_happened=True)
        return answer

    def stumble(self) -> None:
        """Perhaps a bug of ours."""
        if self.dice.hit(Trouble.BUG):
            self.truth.forgot()
            self.truth.log("bug")
            raise Bug


class ShakyLedger:
    """See `postman.ledger.Ledger`. What an instance sees of the ledger.

    Args:
        ledger: the one.
        network: between it and the instance.
        accounts: of the instance's providers.
    """

    durable = True
    shared = True

    def __init__(self, ledger: SimulatedLedger, network: Network, accounts: Collection[str]) -> None:
        self._ledger = ledger
        self._network = network
        self._accounts = accounts
        self._truth = network.truth

    @property
    def policy(self) -> Policy:
        """See `Ledger.policy`."""
        return self._ledger.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._ledger.policy = policy

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        """See `Ledger.accept`."""

        def watch(accepted: Accepted) -> None:
            if not accepted.replayed:
                self._truth.stored(letters)

        return await self._network.write(partial(self._ledger.accept, letters, client, key, fingerprint), watch)

    async def claim(
        self, id: Id, calls: Sequence[Call], after: Ended | None = None, *, owner: str = ""
    ) -> Claim | Unclaimable:
        """See `Ledger.claim`."""

        def watch(answer: Claim | Unclaimable) -> None:
            if after is not None:
                self._truth.ended(after.claim, after.end)
            self._truth.claimed(id, answer, self._network.body)
            if row := self._ledger.peek(id):
                self._truth.written(row)

        self._network.stumble()
        await self._network.deliver()
        answer = await self._network.write(partial(self._ledger.claim, id, calls, after, owner=owner), watch)
        await self._network.deliver()
        self._network.stumble()
        return answer

    async def finish(self, claim: Claim, end: End) -> Row:
        """See `Ledger.finish`."""
        self._network.stumble()
        await self._network.deliver()

        def watch(row: Row) -> None:
            self._truth.ended(claim, end)
            self._truth.written(row)

        return await self._network.write(partial(self._ledger.finish, claim, end), watch)

    async def settle(self, id: Id, receipt: Receipt, source: str) -> Row | None:
        """See `Ledger.settle`."""
        return await self._network.write(partial(self._ledger.settle, id, receipt, source))

    async def act(self, ids: Sequence[Id], verb: Verb, who: str) -> Mapping[Id, tuple[Row, bool]]:
        """See `Ledger.act`."""

        async def act() -> Mapping[Id, tuple[Row, bool]]:
            before = {id: row for id in ids if (row := self._ledger.peek(id))}
            acted = await self._ledger.act(ids, verb, who)
            self._truth.ruled(verb, acted)
            if verb is Verb.DECIDE:
                patience = wall() - self.policy.doubt_patience
                others = [
                    id for id, row in before.items() if row.since > patience and row.account not in self._accounts
                ]
                self._truth.meddled(id for id in others if acted[id][1])
            return acted

        return await self._network.write(act)

    async def read(self, id: Id, client: str | None) -> Row | None:
        """See `Ledger.read`."""
        return await self._network.read(partial(self._ledger.read, id, client))

    async def find(self, filter: Filter, after: Id | None, limit: int) -> Sequence[Row]:
        """See `Ledger.find`."""
        return await self._network.read(partial(self._ledger.find, filter, after, limit))

    async def overdue(self, limit: int) -> Overdue:
        """See `Ledger.overdue`."""
        return await self._network.read(partial(self._ledger.overdue, limit))

    async def sweep(self, limit: int) -> int:
        """See `Ledger.sweep`."""
        return await self._network.write(partial(self._ledger.sweep, limit))

    async def pause(self, provider: str, who: str | None) -> None:
        """See `Ledger.pause`."""
        await self._network.write(partial(self._ledger.pause, provider, who))

    async def pauses(self) -> Sequence[Pause]:
        """See `Ledger.pauses`."""
        return await self._network.read(self._ledger.pauses)

    async def enrol(self, instance: Instance) -> Sequence[Instance]:
        """See `Ledger.enrol`."""
        return await self._network.write(partial(self._ledger.enrol, instance))

    async def statistics(self) -> LedgerStatistics:
        """See `Ledger.statistics`."""
        return await self._network.read(self._ledger.statistics)


class MoodyQueue:
    """See `postman.queue.Queue`. One of several, each of which may be down, for all instances.

    Attributes:
        down: it answers nothing; who waits for a note is told.
    """

    durable = True
    shared = True

    def __init__(self, queue: Queue) -> None:
        self.down = False
        self._queue = queue
        self._waiting: set[trio.CancelScope] = set()

    def fall(self) -> None:
        """From now on it is down."""
        self.down = True
        for scope in self._waiting:
            scope.cancel()

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """See `Queue.put`."""
        await self._answering().put(notes, delay)

    async def take(self) -> Lease:
        """See `Queue.take`."""
        queue = self._answering()
        with trio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                return await queue.take()
            finally:
                self._waiting.remove(scope)
        raise StoreUnavailable("no answer any more")

    async def ack(self, lease: Lease) -> None:
        """See `Queue.ack`."""
        await self._answering().ack(lease)

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """See `Queue.release`."""
        await self._answering().release(lease, delay)

    async def bury(self, lease: Lease, reason: str) -> None:
        """See `Queue.bury`."""
        await self._answering().bury(lease, reason)

    async def statistics(self) -> QueueStatistics:
        """See `Queue.statistics`."""
        return await self._answering().statistics()

    def _answering(self) -> Queue:
        if self.down:
            raise StoreUnavailable("no answer")
        return self._queue


class ShakyQueue:
    """See `postman.queue.Queue`. What an instance sees of the queue; notes are lost, doubled and late."""

    durable = True
    shared = True

    def __init__(self, queue: Queue, network: Network) -> None:
        self._queue = queue
        self._network = network
        self._dice = network.dice

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """See `Queue.put`."""
        await self._step()
        for note in self._dice.sample(notes, len(notes)):
            if self._dice.hit(Trouble.NOTE_LOST):
                continue
            copies = [note] * (2 if self._dice.hit(Trouble.NOTE_DOUBLED) else 1)
            late = self._dice.uniform(0.0, 120.0) if self._dice.hit(Trouble.NOTE_LATE) else 0.0
            await self._queue.put(copies, min(MAX_DELAY, delay + late))
        self._lose_answer()

    async def take(self) -> Lease:
        """See `Queue.take`. No checkpoint after it was taken."""
        await self._step()
        lease = await self._queue.take()
        self._network.body.breathe()
        return lease

    async def ack(self, lease: Lease) -> None:
        """See `Queue.ack`."""
        await self._step()
        await self._queue.ack(lease)
        self._lose_answer()

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """See `Queue.release`."""
        await self._step()
        await self._queue.release(lease, delay)
        self._lose_answer()

    async def bury(self, lease: Lease, reason: str) -> None:
        """See `Queue.bury`."""
        await self._step()
        await self._queue.bury(lease, reason)

    async def statistics(self) -> QueueStatistics:
        """See `Queue.statistics`."""
        await self._step()
        return await self._queue.statistics()

    async def _step(self) -> None:
        await self._network.wait()
        if self._network.down or self._dice.hit(Trouble.QUEUE_REFUSES):
            raise StoreUnavailable("no answer")

    def _lose_answer(self) -> None:
        if self._dice.hit(Trouble.QUEUE_SILENT):
            raise StoreUnavailable("the answer was lost", may_have_happened=True)
