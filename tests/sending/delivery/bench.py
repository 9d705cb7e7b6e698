"""A delivery between a ledger in memory and providers that do as they are told."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import trio

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import MemoryQueue, memory_queue
from postman.breaker import Breaker
from postman.guard import Guard
from postman.mail import Address, Content, Id, Letter, Mail
from postman.provider import Attempt, Receipt
from postman.queue import Note
from postman.row import Now, Policy, Row
from postman.sending.carrier import Carrier, Terms, blame
from postman.sending.delivery import Called, Delivery
from postman.sending.postbox import Postbox

LETTER = Id("0x587e6d1522401000")

type Deed = Callable[[Attempt], Awaitable[object]]


def mail(**more: object) -> Mail:
    return Mail(
        to=(Address(email="ann@example.com"),),
        from_=Address(email="shop@example.org"),
        subject="",
        content=(Content(type="text/plain", value="x"),),
        **more,  # type: ignore[arg-type]  # fields of Mail
    )


class Scripted:
    """A provider that does one deed after the other, and remembers what it accepted."""

    def __init__(self, *deeds: Deed) -> None:
        self.deeds = list(deeds)
        self.asked = 0
        self.accepted: list[Id] = []

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        self.asked += 1
        deed = self.deeds.pop(0) if self.deeds else accept
        receipt = await deed(attempt)
        self.accepted.append(letter.id)
        return receipt  # type: ignore[return-value]  # a deed may break the contract


async def accept(attempt: Attempt) -> Receipt:
    attempt.starting()
    attempt.handed_over()
    return Receipt("id-1")


def fail(error: BaseException, *, handed_over: bool = True) -> Deed:
    async def deed(attempt: Attempt) -> Receipt:
        attempt.starting()
        if handed_over:
            attempt.handed_over()
        raise error

    return deed


async def hang(attempt: Attempt) -> Receipt:
    attempt.starting()
    await trio.sleep_forever()
    raise AssertionError


async def hang_after_hand_over(attempt: Attempt) -> Receipt:
    attempt.starting()
    attempt.handed_over()
    await trio.sleep_forever()
    raise AssertionError


class Bench:
    """A ledger, a queue, a postbox of scripted providers and one worker's hands."""

    def __init__(
        self, queue: MemoryQueue, ledger: MemoryLedger, providers: dict[str, Scripted], **terms: object
    ) -> None:
        self.ledger = ledger
        self.queue = queue
        self.providers = providers
        self.carriers = [carrier(name, provider, **terms) for name, provider in providers.items()]
        self.postbox = Postbox(self.carriers, 1, chance=random.Random(1))
        self.guard = Guard()
        self.calls: list[Called] = []
        self.delivery = Delivery(
            ledger, queue, self.guard, steady=trio.current_time, wall=trio.current_time, on_call=self.calls.append
        )

    async def post(self, posted: Mail | None = None, id: Id = LETTER) -> None:
        letter = Letter(id=id, mail=posted or mail(), accepted=datetime.now(UTC))
        await self.ledger.accept([letter], "shop", None, b"")
        await self.queue.put([Note(id)])

    async def deliver(self) -> None:
        with await self.postbox.wait_available(0) as turn:
            lease = await self.queue.take()
            with self.guard.hold() as hold:
                await self.delivery.deliver(lease, turn, hold)

    async def row(self, id: Id = LETTER) -> Row:
        row = await self.ledger.read(id, None)
        assert row is not None
        return row

    async def notes(self) -> int:
        statistics = await self.queue.statistics()
        return sum(statistics.ready) + statistics.delayed + statistics.leased


def carrier(name: str, provider: Scripted, **terms: object) -> Carrier:
    breaker = Breaker(is_fault=blame, probe_delay=lambda _: 30.0, faults_in_a_row=5, clock=trio.current_time)
    more = {"marks": True, **terms}
    return Carrier(provider, Terms(name=name, account=f"{name}'s", **more), breaker, clock=trio.current_time)  # type: ignore[arg-type]  # fields of Terms


def trio_now() -> Now:
    return Now(trio.current_time(), trio.current_time())


@asynccontextmanager
async def bench(policy: Policy | None = None, /, **providers: Scripted) -> AsyncGenerator[Bench]:
    async with memory_queue(60.0) as queue:
        yield Bench(queue, MemoryLedger(policy, trio_now), providers)
