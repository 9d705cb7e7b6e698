"""Workers over memory: they outlive everything, and hold what they have begun."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import trio
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import MemoryQueue, memory_queue
from postman.breaker import Breaker
from postman.errors import ProviderUnavailable, StoreUnavailable
from postman.guard import Guard
from postman.mail import Address, Content, Id, Letter, Mail
from postman.provider import Attempt, Receipt
from postman.queue import Note
from postman.row import Now, State
from postman.sending.carrier import Carrier, Terms, blame
from postman.sending.delivery import Delivery
from postman.sending.postbox import Postbox
from postman.sending.room import Room
from postman.sending.worker import work


class Provider:
    """Takes what it is given, after `seconds`, unless it is down."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.down = False
        self.asked = 0
        self.under_way = 0
        self.most_under_way = 0
        self.accepted: list[Id] = []

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        attempt.starting()
        self.asked += 1
        if self.down:
            raise ProviderUnavailable("connection refused")
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        attempt.handed_over()
        self.accepted.append(letter.id)
        return Receipt()


class Shop:
    """Everything that a worker needs."""

    def __init__(self, queue: MemoryQueue, *providers: Provider, ledger: MemoryLedger | None = None) -> None:
        self.queue = queue
        self.ledger = ledger or MemoryLedger(None, lambda: Now(trio.current_time(), trio.current_time()))
        carriers = [
            Carrier(
                provider,
                Terms(name=str(number), account="", marks=True),
                Breaker(is_fault=blame, clock=trio.current_time),
                clock=trio.current_time,
            )
            for number, provider in enumerate(providers)
        ]
        self.postbox = Postbox(carriers, 64, chance=random.Random(1))
        self.guard = Guard()
        self.room = Room(1_000)
        self.delivery = Delivery(self.ledger, queue, self.guard, steady=trio.current_time, wall=trio.current_time)

    async def post(self, count: int, size: int = 0) -> None:
        mail = Mail(
            to=(Address(email="ann@example.com"),),
            from_=Address(email="shop@example.org"),
            subject="",
            content=(Content(type="text/plain", value="x"),),
        )
        ids = [Id(f"0x{number:016x}") for number in range(count)]
        letters = [Letter(id=id, mail=mail, accepted=datetime.now(UTC)) for id in ids]
        await self.ledger.accept(letters, "shop", None, b"")
        await self.queue.put([Note(id, size=size) for id in ids])

    def start(self, nursery: trio.Nursery, workers: int = 64) -> None:
        for number in range(workers):
            nursery.start_soon(work, number, self.postbox, self.queue, self.delivery, self.guard, self.room)

    async def count(self, state: State) -> int:
        return (await self.ledger.statistics()).states.get(state, 0)


async def test_64_workers_send_each_of_1000_letters_once(autojump_clock: MockClock) -> None:
    provider = Provider(0.1)
    async with memory_queue(60.0) as queue, trio.open_nursery() as nursery:
        shop = Shop(queue, provider)
        await shop.post(1_000)
        shop.start(nursery)
        await trio.sleep(10)
        assert await shop.count(State.SENT) == 1_000
        nursery.cancel_scope.cancel()
    assert len(provider.accepted) == len(set(provider.accepted)) == 1_000
    assert provider.most_under_way == 64


async def test_while_all_providers_are_down_letters_stay_put_and_leave_when_one_is_back(
    autojump_clock: MockClock,
) -> None:
    a, b = Provider(), Provider()
    a.down = b.down = True
    async with memory_queue(60.0) as queue, trio.open_nursery() as nursery:
        shop = Shop(queue, a, b)
        await shop.post(500)
        shop.start(nursery)
        await trio.sleep(3_600)
        rows = [await shop.ledger.read(Id(f"0x{number:016x}"), None) for number in range(500)]
        assert {row.state for row in rows if row} == {State.QUEUED}
        assert sum(row.attempts for row in rows if row) == 0
        # every worker may have had one call under way when the breakers opened, and later one probe a while
        assert a.asked + b.asked < 64 + 2 * 3_600 / 250
        a.down = False
        await trio.sleep(3_600)
        assert await shop.count(State.SENT) == 500
        nursery.cancel_scope.cancel()
    assert len(a.accepted) == len(set(a.accepted)) == 500


async def test_bytes_in_flight_are_bounded(autojump_clock: MockClock) -> None:
    provider = Provider(1)
    async with memory_queue(600.0) as queue, trio.open_nursery() as nursery:
        shop = Shop(queue, provider)
        await shop.post(30, size=300)
        shop.start(nursery)
        await trio.sleep(60)
        assert await shop.count(State.SENT) == 30
        nursery.cancel_scope.cancel()
    assert provider.most_under_way == 3


async def test_a_cancelled_worker_first_ends_the_delivery_in_hand(autojump_clock: MockClock) -> None:
    provider = Provider(5)
    async with memory_queue(60.0) as queue:
        shop = Shop(queue, provider)
        await shop.post(3)
        async with trio.open_nursery() as nursery:
            shop.start(nursery, 2)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert await shop.count(State.SENT) == 2
        statistics = await queue.statistics()
        assert (sum(statistics.ready), statistics.leased) == (1, 0)


async def test_workers_outlive_a_ledger_that_does_not_answer_and_a_bug_of_ours(autojump_clock: MockClock) -> None:
    class Flaky(MemoryLedger):
        errors: list[Exception]

        async def claim(self, *args: object, **named: object) -> object:  # type: ignore[override]  # fails first
            if self.errors:
                raise self.errors.pop()
            return await super().claim(*args, **named)  # type: ignore[arg-type]  # passed on

    ledger = Flaky(None, lambda: Now(trio.current_time(), trio.current_time()))
    ledger.errors = [StoreUnavailable("no answer"), RuntimeError("a bug")] * 3
    provider = Provider()
    async with memory_queue(5.0) as queue, trio.open_nursery() as nursery:
        shop = Shop(queue, provider, ledger=ledger)
        await shop.post(10)
        shop.start(nursery, 2)
        await trio.sleep(120)
        assert await shop.count(State.SENT) == 10
        nursery.cancel_scope.cancel()
