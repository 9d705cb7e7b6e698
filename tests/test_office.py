"""What the office says and does while a store is slow."""

from __future__ import annotations

from typing import Any

import trio

from postman.backends.memory.ledger import MemoryLedger
from postman.breaker import Breaker
from postman.flake import Flake
from postman.intake import Intake
from postman.mail import Letter
from postman.office import Office
from postman.provider import Attempt, Receipt
from postman.queue import QueueStatistics
from postman.roster import Roster
from postman.sending.carrier import Carrier, Terms
from postman.sending.postbox import Postbox


class Silent:
    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        raise AssertionError("not asked in these tests")


class SlowQueue:
    """Counts when it is told to, the first time; later at once."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.go = trio.Event()

    async def statistics(self) -> QueueStatistics:
        if not self.asked.is_set():
            self.asked.set()
            await self.go.wait()
        return QueueStatistics((0, 0, 0), 0, 0, 0)


async def test_a_pause_is_not_undone_by_a_look_that_began_before_it() -> None:
    ledger, queue = MemoryLedger(), SlowQueue()
    carrier = Carrier(Silent(), Terms(name="lamda", account=""), Breaker(), clock=trio.current_time)
    postbox = Postbox([carrier], 1)
    stored: Any = {"ledger": ledger, "queue": queue}
    others: Any = dict.fromkeys(("clerk", "guard", "room", "server", "reloader", "keyring", "pulse", "on_broken"))
    office = Office(
        intake=Intake(flake=Flake(1), **stored),
        postbox=postbox,
        roster=Roster(ledger, postbox, workers=1, only=""),
        **stored,
        **others,
    )
    async with trio.open_nursery() as looking:
        looking.start_soon(office.look)
        await queue.asked.wait()
        assert await office.pause("lamda", "olga")
        assert carrier.paused
        queue.go.set()
    assert carrier.paused
