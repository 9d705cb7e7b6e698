"""The world around the service: clients, a person, and a nemesis; then rest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import trio

from postman.backends.memory.queue import memory_queue
from postman.errors import StoreError, StoreFull, StoreUnavailable
from postman.ledger import ALL, Filter
from postman.mail import Address, Content, Id, Mail, OnDoubt
from postman.provider import Receipt
from postman.queue import Queue
from postman.row import Policy, Row, State, Verb
from postman.shards import open_shards
from postman.testing.simulation.dice import QUIET, STALL, Dice
from postman.testing.simulation.instance import Died, Instance, Outside, Parts
from postman.testing.simulation.move import move
from postman.testing.simulation.stores import MoodyQueue, SimulatedLedger, now, wall
from postman.testing.simulation.truth import Truth, Try
from postman.testing.simulation.vendor import Vendor

TROUBLE = 240.0
"""Seconds in which everything goes wrong."""
REST = 14_400.0
"""Seconds after which there is no hope any more."""
LOOK = 60.0
MOVES = 0.5
"""The share of runs in which the backlog moves to another ledger."""

_WAIT_FOR_A_PERSON = frozenset({State.HELD, State.REJECTED, State.FAILED})


class World:
    """One run.

    Args:
        seed: all chance follows from it.
        parts: what the instances are made of.
    """

    def __init__(self, seed: int, parts: Parts) -> None:
        self.dice = Dice(seed)
        self.truth = Truth()
        self._parts = parts
        self._embedded = self.dice.even()
        """One process has the store to itself; else two share it."""
        self._policy = Policy(
            max_attempts=self.dice.choice((3, 8)),
            give_up_after=self.dice.choice((300.0, 172_800.0, 172_800.0, 172_800.0)),
            resend_after=self.dice.choice((0.0, 0.0, 60.0)),
            doubt_patience=120.0,
        )
        self._ledger = self._new_ledger()
        self._left: list[SimulatedLedger] = []
        """Ledgers that the backlog was moved from."""
        self._runs = trio.Event()
        """Set while instances may run."""
        self._vendors = [Vendor(name, self.dice, self.truth) for name in ("lamda", "delta", "sigma")]
        self._vendors = self._vendors[: self.dice.randint(1, 3)]
        self._branches = self.dice.even()
        """Each instance has accounts of its own."""
        self._queues: list[MoodyQueue] = []
        """Several, or none: then there is one that is never down for all."""
        self._instances: dict[int, Instance] = {}
        self._nodes = 0

    async def run(self) -> tuple[Mapping[Id, Row], Policy, float]:
        """Trouble, then rest; what the ledger says in the end."""
        several = self.dice.choice((0, 0, 2, 3))
        openings = [(f"queue {number}", self._open_moody) for number in range(several)]
        self._runs.set()
        async with open_shards(openings) if several else memory_queue(60.0) as queue, trio.open_nursery() as nursery:
            for slot in range(1 if self._embedded else 2):
                await nursery.start(self._keep, slot, queue, nursery)
            async with trio.open_nursery() as clients:
                for number in range(self.dice.randint(8, 40)):
                    clients.start_soon(self._post, number)
                with trio.move_on_after(TROUBLE):
                    async with trio.open_nursery() as trouble:
                        trouble.start_soon(self._nemesis)
                        if self.dice.random() < MOVES:
                            trouble.start_soon(self._move, queue)
                        trouble.start_soon(self._person)
                await self._calm_down()
            await self._rest()
            nursery.cancel_scope.cancel()
        rows = {
            row.id: row for ledger in (*self._left, self._ledger) for row in await ledger.find(Filter(), None, 1_000)
        }
        return rows, self._policy, wall()

    def _new_ledger(self) -> SimulatedLedger:
        return self._parts.ledger(self._policy, now)

    @asynccontextmanager
    async def _open_moody(self) -> AsyncGenerator[Queue]:
        async with memory_queue(60.0) as queue:
            self._queues.append(MoodyQueue(queue))
            yield self._queues[-1]

    async def _keep(
        self,
        slot: int,
        queue: Queue,
        nursery: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Start an instance, again and again."""
        branch = f"{slot}" if self._branches else ""
        while True:
            await self._runs.wait()
            outside = Outside(self._ledger, queue, self._vendors, self.dice, self.truth, nursery, branch)
            self._nodes += 1
            instance = self._instances[slot] = Instance(self._nodes, self._parts, outside)
            self.truth.log("start", slot)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await instance.live()
            self.truth.log("end", slot)
            await trio.sleep(self.dice.uniform(0.1, 20.0))
            if self._embedded:
                self._ledger.reopen()

    # clients

    async def _post(self, number: int) -> None:
        """One request, repeated with its key until it is answered."""
        await trio.sleep(self.dice.uniform(0.0, TROUBLE * 0.7))
        tries: list[Try] = []
        self.truth.posts.append(tries)
        key = f"key-{number}" if self.dice.even() else None
        about = self._about()
        for attempt in range(4 if key else 1):
            each = Try(f"{number}.{attempt}")
            tries.append(each)
            try:
                mail = self._mail(each.subject, about)
                accepted = await self.dice.choice(list(self._instances.values())).accept([mail], key)
            except Died:
                pass
            except StoreUnavailable as error:
                each.answer = "unknown" if error.may_have_happened else "refused"
            except StoreFull:
                each.answer = "refused"
            else:
                each.answer, each.ids = "accepted", accepted.ids
            self.truth.log("answered", each.subject, each.answer, *each.ids)
            if each.answer == "accepted":
                return
            await trio.sleep(self.dice.uniform(0.0, 30.0))

    def _about(self) -> dict[str, object]:
        now, about = wall(), {}
        if self.dice.random() < 0.15:
            about["send_at"] = datetime.fromtimestamp(now + self.dice.uniform(0.0, 1_200.0), UTC)
        elif self.dice.random() < 0.15:
            about["expires_at"] = datetime.fromtimestamp(now + self.dice.uniform(0.0, 300.0), UTC)
        return {**about, "on_doubt": self.dice.choice((None, OnDoubt.HOLD, OnDoubt.RESEND, OnDoubt.RESEND))}

    def _mail(self, subject: str, about: dict[str, object]) -> Mail:
        return Mail(
            to=(Address(email="ann@example.com"),),
            from_=Address(email="shop@example.org"),
            subject=subject,
            content=(Content(type="text/plain", value="x"),),
            **about,  # type: ignore[arg-type]  # fields of Mail
        )

    # people and worse

    async def _person(self) -> None:
        """Somebody who looks at what is held, and a vendor's webhook."""
        while True:
            await trio.sleep(self.dice.expovariate(1 / 8))
            verb = self.dice.choice((Verb.RELEASE, Verb.RELEASE, Verb.SETTLE, Verb.DISCARD, Verb.REPLAY, Verb.CANCEL))
            rows = [
                row
                for row in await self._ledger.find(Filter(), None, 100)
                if not row.state.ended or self.dice.random() < 0.2
            ]
            instance = self.dice.choice(list(self._instances.values()))
            if not rows or not instance.serving:
                continue
            try:
                chosen = [row.id for row in rows if row.state in _WAIT_FOR_A_PERSON or self.dice.random() < 0.1]
                done = await instance.ledger.act(chosen, verb, "olga")
                await instance.clerk.put([row for row, did in done.values() if did and row.state is State.QUEUED])
                await self._webhook(instance)
            except (StoreError, Died):
                continue

    async def _webhook(self, instance: Instance) -> None:
        taken = [asked for calls in self.truth.asked.values() for asked in calls if asked.message_id]
        if taken and self.dice.even():
            asked = self.dice.choice(taken)
            self.truth.log("webhook", asked.vendor, asked.id)
            await instance.ledger.settle(asked.id, Receipt(asked.message_id), asked.vendor)

    async def _nemesis(self) -> None:
        deeds = [self._kill, self._drain, self._pause, self._reload, self._cut_off, self._freeze, self._upset]
        deeds = self.dice.sample(deeds, self.dice.randint(0, len(deeds)))
        pace = self.dice.choice((10, 30, 100))
        while deeds:
            await trio.sleep(self.dice.expovariate(1 / pace))
            instance = self.dice.choice(list(self._instances.values()))
            if instance.serving:
                deed = self.dice.choice(deeds)
                self.truth.log("nemesis", deed.__name__)
                await deed(instance)

    async def _kill(self, instance: Instance) -> None:
        instance.kill()

    async def _drain(self, instance: Instance) -> None:
        instance.drain(self.dice.choice((0.0, 5.0, 30.0)))

    async def _reload(self, instance: Instance) -> None:
        instance.reload()

    async def _pause(self, _: Instance) -> None:
        name = self.dice.choice([ALL, *(vendor.name for vendor in self._vendors)])
        await self._ledger.pause(name, self.dice.choice(("olga", None)))

    async def _freeze(self, instance: Instance) -> None:
        instance.network.frozen_until = trio.current_time() + self.dice.uniform(QUIET, STALL)

    async def _cut_off(self, instance: Instance) -> None:
        instance.network.down = True
        await trio.sleep(self.dice.uniform(0.0, 60.0))
        instance.network.down = False

    async def _upset(self, _: Instance) -> None:
        if self._queues:
            queue = self.dice.choice(self._queues)
            queue.fall()
            await trio.sleep(self.dice.uniform(0.0, 60.0))
            queue.down = False

    async def _move(self, queue: Queue) -> None:
        """The service is stopped, and started again with another ledger, which has the backlog."""
        await trio.sleep(self.dice.uniform(0.0, TROUBLE))
        with trio.CancelScope(shield=True):
            self.truth.log("move")
            self._runs = trio.Event()
            for instance in self._instances.values():
                instance.kill()
            if self._embedded:
                self._ledger.reopen()
            new = self._new_ledger()
            await move(self._ledger, new, queue, dice=self.dice, clock=now)
            self._left.append(self._ledger)
            self._ledger = new
            self._runs.set()

    # rest

    async def _calm_down(self) -> None:
        self.truth.log("calm")
        self.dice.calm = True
        for queue in self._queues:
            queue.down = False
        for pause in await self._ledger.pauses():
            await self._ledger.pause(pause.provider, None)
        for instance in self._instances.values():
            instance.network.down = False
            instance.reload()

    async def _rest(self) -> None:
        """Until everything has ended or waits for a person, and nobody has anything in hand."""
        give_up = trio.current_time() + REST
        while trio.current_time() < give_up:
            await trio.sleep(LOOK)
            rows = await self._ledger.find(Filter(), None, 1_000)
            in_hand = sum(instance.guard.held for instance in self._instances.values())
            if not in_hand and all(row.state.ended or row.state is State.HELD for row in rows):
                return
