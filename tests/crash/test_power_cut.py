"""The power is cut: what was answered with 202 is on the disk, and what was being sent is known."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from postman.config import load
from postman.registry import set_up
from postman.removal import export, take_in
from postman.stores import open_ledger
from postman.testing import sick_disk
from postman.testing.customer import MAIL, Customer, open_customer
from postman.testing.haste import hasten
from postman.testing.letters import a_letter
from postman.testing.mortal_disk import MortalDisk, NoDisk, mortal_disk
from postman.testing.postgres_server import NoServer, PostgresServer, postgres_server
from postman.testing.program import open_program
from postman.testing.redis_server import RedisServer, redis_server
from postman.testing.report import report
from postman.testing.waiting import wait_until
from postman.wire import ClientFactory

CUTS = 3
PER_LIFE = 100
"""Mails that are promised between two cuts."""
CUSTOMERS = 4
BULKY = {**MAIL, "content": [{"type": "text/plain", "value": "x" * 500}]}


@pytest.fixture
def disk() -> Iterator[MortalDisk]:
    try:
        with mortal_disk() as disk:
            yield disk
    except NoDisk as error:
        pytest.skip(f"no disk here whose power can be cut: {error}")


@asynccontextmanager
async def posting(customer: Customer) -> AsyncIterator[None]:
    """Customers post one request after the other, until the block ends and each has its promise."""
    going = True

    async def post(number: int) -> None:
        request = 0
        while going:
            request += 1
            await customer.post(f"{number}-{request}", [BULKY] * 5)

    async with trio.open_nursery() as nursery:
        for number in range(CUSTOMERS):
            nursery.start_soon(post, number)
        yield
        going = False


async def wait_promised(customer: Customer, mails: int) -> None:
    goal = len(customer.ids) + mails
    await wait_until(lambda: len(customer.ids) >= goal)


async def test_what_was_promised_survives_and_with_hold_nothing_is_sent_twice(
    disk: MortalDisk, toml: Callable[..., str], accepted: Callable[[], list[str]]
) -> None:
    async with (
        open_program(disk.path, toml(workers=16)) as program,
        open_customer(lambda: program.url) as customer,
    ):
        disk.sync()
        await program.start()
        async with posting(customer):
            for _ in range(CUTS):
                await wait_promised(customer, PER_LIFE)
                await disk.cut()
                await program.wait_ended()
                assert {*customer.ids} - {row.id for row in await program.rows()} == set()
                await program.start()
        await customer.wait_settled()
        assert await program.stop() == 0
        found = report(customer.ids, accepted(), await program.rows(), customer.recovered)
    assert found.acked >= CUTS * PER_LIFE
    assert (found.waiting, found.lost, found.unexpected, found.duplicated) == (0, (), (), {})


@contextmanager
def redis_on(place: Path) -> Iterator[RedisServer]:
    try:
        with redis_server(place / "redis") as server:
            yield server
    except LookupError as error:
        pytest.skip(str(error))


@contextmanager
def postgres_on(place: Path) -> Iterator[PostgresServer]:
    try:
        with postgres_server(place) as server:
            yield server
    except NoServer as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("server_on", [redis_on, postgres_on])
async def test_a_server_that_lost_its_power_still_has_what_was_promised(
    disk: MortalDisk,
    tmp_path: Path,
    toml: Callable[..., str],
    accepted: Callable[[], list[str]],
    server_on: Callable[[Path], AbstractContextManager[RedisServer | PostgresServer]],
) -> None:
    with server_on(disk.path) as server:
        url = server.place("postman")
        text = toml(ledger=url, queue=url, workers=16, timeout=3, visibility=2)
        async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
            await program.start(before=hasten)
            async with posting(customer):
                await wait_promised(customer, PER_LIFE)
                await disk.cut()
                server.kill()
                promised = {*customer.ids}
                await trio.to_thread.run_sync(server.start)
                assert promised - {row.id for row in await program.rows()} == set()
                await wait_promised(customer, PER_LIFE)
            await customer.wait_settled()
            assert await program.stop() == 0
            found = report(customer.ids, accepted(), await program.rows(), customer.recovered)
    assert (found.waiting, found.lost, found.unexpected, found.duplicated) == (0, (), (), {})


async def test_mails_that_left_a_ledger_are_in_the_backlog(
    disk: MortalDisk, tmp_path: Path, toml: Callable[..., str]
) -> None:
    setups = []
    for name in ("old", "new"):
        path = tmp_path / f"{name}.toml"
        path.write_text(toml(ledger=f"sqlite:{name}.db", queue=f"sqlite:{name}.db"))
        path.chmod(0o600)
        setups.append(set_up(load(path)))
    old, new = setups
    async with open_ledger(old, ClientFactory()) as ledger:
        await ledger.accept([a_letter(number) for number in range(1, 11)], "shop", None, b"")
    disk.sync()
    backlog = disk.path / "backlog"
    words = [sys.executable, "-m", "postman", "export", str(backlog), "--config", str(old.loaded.path)]
    before_it_is_closed = {**os.environ, "POSTMAN_FAILPOINTS": "X3=kill"}
    assert (await trio.run_process(words, env=before_it_is_closed, check=False)).returncode == -signal.SIGKILL
    await disk.cut()
    assert (await export(old, backlog)).mails == 10
    await disk.cut()
    assert (await take_in(new, backlog)).mails == 10


async def test_a_disk_that_only_says_that_it_synced_loses_mails_so_the_tests_here_can_fail(
    disk: MortalDisk, toml: Callable[..., str]
) -> None:
    async with open_program(disk.path, toml()) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        kept = await customer.post("before", [BULKY])
        await program.stop()
        disk.sync()
        sick_disk.break_(disk.path / "postman.db", "sync-lies")
        await program.start(before=sick_disk.install)
        await customer.post("lied", [BULKY] * 10)
        await disk.cut()
        await program.wait_ended()
        assert {row.id for row in await program.rows()} == {*kept}
