"""The process is killed again and again at any moment, while mails come in and go out; in the end every one is counted.

`pytest tests/crash/test_random_kills.py --long` kills 200 times within 20,000 mails.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from postman.failpoint import POINTS
from postman.mail import OnDoubt
from postman.testing import acts
from postman.testing.customer import Customer, open_customer
from postman.testing.fault_server import Act, FaultServer, Turn
from postman.testing.program import Program, open_program
from postman.testing.report import report

BATCH = 10
CUSTOMERS = 8


def a_mail(number: int) -> dict[str, Any]:
    return {
        "to": [{"email": f"reader{number}@example.com"}],
        "from": {"email": "shop@example.org"},
        "subject": f"mail {number}",
        "content": [{"type": "text/plain", "value": "x" * 500}],
        "on-doubt": "resend" if number % 2 else "hold",
    }


def moody() -> Act:
    """A vendor that is slow, or busy; each call surely accepted or surely not."""
    moods = [acts.answer(503), acts.answer(429, {"Retry-After": "1"})]

    async def play(turn: Turn) -> bool:
        await trio.sleep(random.uniform(0, 0.3))
        act = random.choice([*moods, *[acts.answer(202)] * 27])
        return await act.play(turn)

    return Act(play)


class Chaos:
    """Kills and starts a service, and lets mails in as it goes: so many for each life."""

    def __init__(self, program: Program, customer: Customer, mails: int, kills: int) -> None:
        self._program = program
        self._customer = customer
        self._mails = mails
        self._kills = kills
        self._send, self._receive = trio.open_memory_channel[int](mails)

    async def run(self) -> None:
        """All of it; on return all mails are promised and the service is up."""
        async with trio.open_nursery() as nursery:
            for _ in range(CUSTOMERS):
                nursery.start_soon(self._post)
            for life in range(self._kills + 1):
                first, last = (self._mails // BATCH * n // (self._kills + 1) for n in (life, life + 1))
                for batch in range(first, last):
                    self._send.send_nowait(batch)
                if life == self._kills:
                    self._send.close()
                    await self._program.start()
                else:
                    await self._live_and_die()

    async def _live_and_die(self) -> None:
        ready = random.random() < 0.9
        at_a_step = random.random() < 0.3
        plan = f"{random.choice(sorted(POINTS))}=kill@{random.randint(1, 5)}" if at_a_step else ""
        await self._program.start(plan, ready=ready)
        with trio.move_on_after(random.uniform(0, 0.5 if ready else 0.3)):
            await self._program.wait_ended()
        await self._program.kill()

    async def _post(self) -> None:
        async for batch in self._receive:
            await self._customer.post(f"batch-{batch}", [a_mail(batch * BATCH + n) for n in range(BATCH)])


async def test_whenever_it_is_killed_nothing_is_lost_and_with_hold_nothing_doubled(
    tmp_path: Path,
    toml: Callable[..., str],
    provider: Callable[..., str],
    vendor: FaultServer,
    accepted: Callable[[], list[str]],
    long: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mails, kills = (20_000, 200) if long else (500, 10)
    vendor.otherwise = moody()
    others = [
        provider("slow", settings='file = "taken", fsync = true, latency = 0.2'),
        provider("flaky", "lamda", 'file = "taken", fail-every = 2, latency = 0.1'),
    ]
    async with (
        open_program(tmp_path, toml(*others, workers=24)) as program,
        open_customer(lambda: program.url) as customer,
    ):
        chaos = Chaos(program, customer, mails, kills)
        await chaos.run()
        await customer.wait_settled(600)
        await program.stop()
        rows = await program.rows()
    found = report(customer.ids, accepted(), rows, customer.recovered)
    cut = {policy: sum(row.crashes for row in rows if row.on_doubt is policy) for policy in OnDoubt}
    with capsys.disabled():
        if long:
            calls = ", ".join(f"{number} with {policy}" for policy, number in cut.items())
            print(f"\n{kills} kills; calls under way at them: {calls}\n{found.table()}")  # noqa: T201  # its report
    assert (found.acked, found.waiting, found.lost, found.unexpected) == (mails, 0, (), ())
    policies = {str(row.id): row.on_doubt for row in rows}
    assert [id for id in found.duplicated if policies[id] is OnDoubt.HOLD] == []
    assert found.copies <= cut[OnDoubt.RESEND]
    assert found.told <= cut[OnDoubt.HOLD]
    assert sum(cut.values()), "no kill came while anything was under way"
