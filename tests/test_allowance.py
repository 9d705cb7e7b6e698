"""Fair shares: small clients do not wait behind a flood, and no priority is a way round it."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from postman.allowance import Allowances
from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import memory_queue
from postman.flake import Flake
from postman.intake import Intake
from postman.mail import Priority
from postman.testing.letters import a_letter

MAIL = a_letter().mail
BURST = 1_000
FLOOD = 20_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def posted(allowances: Allowances, client: str, priority: Priority, count: int) -> Counter[Priority]:
    mails = [msgspec.structs.replace(MAIL, priority=priority)] * count
    return Counter(mail.priority for mail in allowances.place(client, mails))


@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.NORMAL])
def test_what_is_beyond_a_burst_and_a_rate_is_bulk(priority: Priority) -> None:
    clock = Clock()
    allowances = Allowances(100, 10, several=lambda: True, clock=clock)
    assert posted(allowances, "big", priority, 150) == {priority: 100, Priority.BULK: 50}
    clock.now += 3
    assert posted(allowances, "big", priority, 50) == {priority: 30, Priority.BULK: 20}
    assert posted(allowances, "small", priority, 10) == {priority: 10}


def test_a_clients_password_resets_are_not_held_up_by_its_newsletter() -> None:
    allowances = Allowances(100, 10, several=lambda: True, clock=Clock())
    posted(allowances, "big", Priority.NORMAL, 5_000)
    assert posted(allowances, "big", Priority.HIGH, 10) == {Priority.HIGH: 10}


def test_who_is_the_only_client_has_what_it_asks_for() -> None:
    allowances = Allowances(100, 10, several=lambda: False, clock=Clock())
    assert posted(allowances, "big", Priority.NORMAL, 5_000) == {Priority.NORMAL: 5_000}


@pytest.mark.parametrize(
    ("priority", "deliveries"),
    [(Priority.HIGH, 60), (Priority.NORMAL, 1.25 * BURST + 60), (Priority.BULK, 20)],
)
async def test_ten_mails_go_out_soon_though_another_client_has_twenty_thousand_waiting(
    priority: Priority, deliveries: float
) -> None:
    allowances = Allowances(BURST, 10, several=lambda: True, clock=Clock())
    async with memory_queue(60.0) as queue:
        intake = Intake(MemoryLedger(), queue, Flake(1), allowances=allowances)
        flood = [msgspec.structs.replace(MAIL, priority=priority)] * 1_000
        for _ in range(FLOOD // 1_000):
            await intake.accept(flood, "big", None, b"")
        waited_for = set((await intake.accept([MAIL] * 10, "small", None, b"")).ids)
        delivered = 0
        while waited_for:
            lease = await queue.take()
            assert lease.note is not None
            waited_for.discard(lease.note.id)
            await queue.ack(lease)
            delivered += 1
        assert delivered <= deliveries
