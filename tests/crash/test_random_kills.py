"""The process is killed again and again at any moment, while mails come in and go out; in the end every one is counted.

`pytest -s tests/crash/test_random_kills.py --long` kills 200 times within 20,000 mails, then 40 times within 2,000 for
each pair of ledger and queue, and prints the table of README.md. So does the store's server, where there is one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from postman.failpoint import POINTS
from postman.mail import OnDoubt
from postman.row import Row, State
from postman.testing import acts
from postman.testing.customer import Customer, open_customer
from postman.testing.fault_server import Act, FaultServer, Turn, open_fault_server
from postman.testing.haste import hasten
from postman.testing.pairs import PAIRS, Pair, Places, table
from postman.testing.postgres_server import PostgresServer
from postman.testing.program import Program, open_program
from postman.testing.redis_server import RedisServer
from postman.testing.report import Report, report
from postman.testing.waiting import wait_until

BATCH = 10
CUSTOMERS = 8
SETTLED = 600.0
"""Seconds in which every mail has come to rest, however busy the machine."""


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

    def __init__(
        self,
        program: Program,
        customer: Customer,
        mails: int,
        kills: int,
        before: Callable[[], object] | None = None,
    ) -> None:
        self._program = program
        self._customer = customer
        self._mails = mails
        self._kills = kills
        self._before = before
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
                    await self._program.start(before=self._before)
                else:
                    await self._live_and_die()

    async def _live_and_die(self) -> None:
        ready = random.random() < 0.9
        at_a_step = random.random() < 0.3
        plan = f"{random.choice(sorted(POINTS))}=kill@{random.randint(1, 5)}" if at_a_step else ""
        await self._program.start(plan, ready=ready, before=self._before)
        with trio.move_on_after(random.uniform(0, 0.5 if ready else 0.3)):
            await self._program.wait_ended()
        await self._program.kill()

    async def _post(self) -> None:
        async for batch in self._receive:
            mails = [a_mail(batch * BATCH + n) for n in range(BATCH)]
            await self._customer.post(f"batch-{batch}", mails, SETTLED)  # only the last life lasts


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
        await customer.wait_settled(SETTLED)
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


def doubts(rows: Sequence[Row], policy: OnDoubt) -> int:
    """How often a letter with this policy was in doubt."""
    return sum(entry.state is State.IN_DOUBT for row in rows if row.on_doubt is policy for entry in row.history)


def count(found: Report, rows: Sequence[Row], kills: int) -> tuple[int, ...]:
    """The numbers of `postman.testing.pairs.COLUMNS`."""
    resent = {str(row.id) for row in rows if row.on_doubt is OnDoubt.RESEND}
    resend = sum(copies for id, copies in found.duplicated.items() if id in resent)
    lost, unexpected = len(found.lost), len(found.unexpected)
    return (
        *(kills, found.acked, found.accepted, found.told, lost, unexpected),
        *(found.copies - resend, resend, found.recovered),
    )


async def test_with_every_pair_nothing_is_lost_whenever_it_is_killed(
    tmp_path: Path,
    toml: Callable[..., str],
    accepted: Callable[[FaultServer], list[str]],
    places: Places,
    long: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limiter = trio.CapacityLimiter(2 if long else len(PAIRS))
    figures: dict[Pair, tuple[int, ...]] = {}
    bounds: dict[Pair, dict[OnDoubt, int]] = {}

    async def run(pair: Pair) -> None:
        mails, kills = (2_000, 40) if long else (100, 6)
        (tmp_path / str(pair)).mkdir()
        ledger, queue = pair.urls(places)
        async with (
            limiter,
            open_fault_server(otherwise=acts.take_slowly()) as vendor,
            open_program(
                tmp_path / str(pair),
                toml(ledger=ledger, queue=queue, base=vendor.url, workers=24, timeout=3, visibility=2),
            ) as program,
            open_customer(lambda: program.url) as customer,
        ):
            await Chaos(program, customer, mails, kills, hasten).run()
            await customer.wait_settled(SETTLED)
            await program.stop()
            rows = await program.rows()
            found = report(customer.ids, accepted(vendor), rows, customer.recovered)
        figures[pair] = count(found, rows, kills)
        bounds[pair] = {policy: doubts(rows, policy) for policy in OnDoubt}
        assert (found.acked, found.waiting) == (mails, 0)

    async with trio.open_nursery() as nursery:
        for pair in PAIRS:
            nursery.start_soon(run, pair, name=str(pair))
    if long:
        with capsys.disabled():
            print(f"\n{table({pair: figures[pair] for pair in PAIRS})}")  # noqa: T201  # its report
    for pair in PAIRS:
        *_, told, lost, unexpected, held, resent, _ = figures[pair]
        if pair.durable:
            assert (lost, unexpected, held) == (0, 0, 0), str(pair)
            assert told <= bounds[pair][OnDoubt.HOLD], str(pair)
            assert resent <= bounds[pair][OnDoubt.RESEND], str(pair)


def all_further(before: list[tuple[Customer, int]]) -> bool:
    """Whether each of them has been promised more since."""
    return all(len(customer.ids) > number for customer, number in before)


async def test_with_every_pair_nothing_is_lost_and_nothing_doubled_when_their_servers_are_killed(
    tmp_path: Path,
    toml: Callable[..., str],
    accepted: Callable[[FaultServer], list[str]],
    mortal_places: Places,
    mortal_postgres: PostgresServer,
    mortal_redis: RedisServer,
    long: bool,
) -> None:
    kills = 10 if long else 2
    pairs = [pair for pair in PAIRS if pair.served]
    begin, done = trio.Event(), trio.Event()
    customers: list[Customer] = []
    found: dict[str, Report] = {}

    async def post(customer: Customer) -> None:
        batch = 0
        while not done.is_set():
            await customer.post(f"{batch}", [{**a_mail(n), "on-doubt": "hold"} for n in range(BATCH)])
            await trio.sleep(random.uniform(0, 0.2))
            batch += 1

    async def run(pair: Pair) -> None:
        directory = tmp_path / f"with {pair}"
        directory.mkdir()
        ledger, queue = pair.urls(mortal_places)
        async with (
            open_fault_server(otherwise=acts.take_slowly()) as vendor,
            open_program(
                directory,
                toml(ledger=ledger, queue=queue, base=vendor.url, workers=8, timeout=3, visibility=2),
            ) as program,
            open_customer(lambda: program.url) as customer,
        ):
            await program.start(before=hasten)
            customers.append(customer)
            if len(customers) == len(pairs):
                begin.set()
            await begin.wait()
            await post(customer)
            await customer.wait_settled(SETTLED)
            assert await program.stop() == 0
            rows = await program.rows()
            found[str(pair)] = report(customer.ids, accepted(vendor), rows, customer.recovered)

    async with trio.open_nursery() as nursery:
        for pair in pairs:
            nursery.start_soon(run, pair, name=str(pair))
        await begin.wait()
        servers: list[PostgresServer | RedisServer] = [mortal_postgres, mortal_redis] * kills
        for server in servers:
            await wait_until(partial(all_further, [(customer, len(customer.ids)) for customer in customers]))
            server.kill()
            await trio.to_thread.run_sync(server.start)
        done.set()
    bad = {pair: (r.waiting, r.lost, r.unexpected, r.duplicated) for pair, r in found.items()}
    assert bad == dict.fromkeys(bad, (0, (), (), {}))
    assert all(r.acked > BATCH * kills for r in found.values())
