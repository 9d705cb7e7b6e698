from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from postman.backends import rows
from postman.backends.columns import key_of
from postman.backends.postgres.ledger import ledger_on
from postman.backends.postgres.server import Server, open_side, prepare
from postman.errors import DamagedRow
from postman.ledger import Filter, Ledger
from postman.row import Now, Policy, State
from postman.testing.check_ledger import (
    DURABLE_LEDGER_CHECKS,
    LEDGER_CHECKS,
    MOVABLE_LEDGER_CHECKS,
    LedgerCheck,
    OpenLedger,
    Scene,
)
from postman.testing.check_ledger.scene import LAMDA
from postman.testing.postgres_server import PostgresServer
from postman.testing.standing_clock import StandingClock


@pytest.fixture
def open_postgres(postgres: Server) -> OpenLedger:
    @asynccontextmanager
    async def open_it(policy: Policy, clock: Callable[[], Now]) -> AsyncGenerator[Ledger]:
        await prepare(postgres, durable=True)
        async with open_side(postgres) as side, ledger_on(postgres, side, policy, clock) as ledger:
            yield ledger

    return open_it


@pytest.mark.parametrize(
    "check", LEDGER_CHECKS + DURABLE_LEDGER_CHECKS + MOVABLE_LEDGER_CHECKS, ids=lambda check: check.__name__
)
async def test_the_contract(check: LedgerCheck, open_postgres: OpenLedger) -> None:
    await check(open_postgres)


async def test_damage_to_a_letter_is_told_and_the_others_go_on(
    open_postgres: OpenLedger, postgres: Server, postgres_process: PostgresServer
) -> None:
    clock = StandingClock()
    async with open_postgres(Policy(), clock) as ledger:
        scene = Scene(ledger, clock)
        damaged, bodiless, garbled, whole = [await scene.queued() for _ in range(4)]
        for statement in (
            f"UPDATE {postgres.schema}.letter SET row = '\\xff00' WHERE key = {key_of(damaged)}",  # noqa: S608  # ours
            f"DELETE FROM {postgres.schema}.body WHERE key = {key_of(bodiless)}",  # noqa: S608  # ours
            f"UPDATE {postgres.schema}.body SET letter = '\\x01' WHERE key = {key_of(garbled)}",  # noqa: S608  # ours
        ):
            postgres_process.execute(statement)
        for ask in (partial(ledger.read, damaged, None), partial(ledger.claim, damaged, [LAMDA])):
            with pytest.raises(DamagedRow, match=damaged):
                await ask()
        assert [row.id for row in await ledger.find(Filter(), None, 10)] == [whole, garbled, bodiless]
        answers = [await ledger.claim(id, [LAMDA]) for id in (bodiless, garbled, whole)]
        assert [getattr(answer, "state", "claimed") for answer in answers] == ["failed", "failed", "claimed"]
        clock.advance(Policy().give_up_after)
        unseen = await scene.queued()
        clock.advance(rows.OVERDUE)
        overdue = await ledger.overdue(1)
        assert [row.id for row in overdue.lapsed] == [whole], "the clerk's round goes on"
        assert [row.id for row in overdue.waiting] == [unseen], "behind the damaged one"
        [sentence] = (await ledger.statistics()).troubles
        assert sentence.startswith("1 mail is damaged in the ledger")
        assert damaged in sentence


async def test_whoever_asks_for_letters_of_the_far_future_finds_none(open_postgres: OpenLedger) -> None:
    clock = StandingClock()
    async with open_postgres(Policy(), clock) as ledger:
        await Scene(ledger, clock).queued()
        for since in (2.0**42, 1e15):
            assert await ledger.find(Filter(since=since), None, 10) == ()


async def test_a_state_that_only_a_newer_postman_knows_is_neither_counted_nor_swept(
    open_postgres: OpenLedger, postgres: Server, postgres_process: PostgresServer
) -> None:
    clock = StandingClock()
    async with open_postgres(Policy(), clock) as ledger:
        newer, ours = [await Scene(ledger, clock).queued() for _ in range(2)]
        for statement in (
            f"UPDATE {postgres.schema}.letter SET state = 9, wake = 0 WHERE key = {key_of(newer)}",  # noqa: S608  # ours
            f"INSERT INTO {postgres.schema}.tally (slot, name, number) VALUES (99, 9, 1)",  # noqa: S608  # ours
        ):
            postgres_process.execute(statement)
        assert (await ledger.statistics()).states == {State.QUEUED: 2}
        clock.advance(Policy().retention + 1)
        assert await ledger.sweep(10) == 0
        assert await ledger.read(newer, None) is not None
        assert [row.id for row in (await ledger.overdue(10)).aged] == [ours]


async def test_a_damaged_row_is_counted_down_when_it_is_swept(
    open_postgres: OpenLedger, postgres: Server, postgres_process: PostgresServer
) -> None:
    clock = StandingClock()
    async with open_postgres(Policy(), clock) as ledger:
        id = await Scene(ledger, clock).bring(State.SENT)
        postgres_process.execute(f"UPDATE {postgres.schema}.letter SET row = '\\xff00' WHERE key = {key_of(id)}")  # noqa: S608  # ours
        clock.advance(Policy().retention + 1)
        assert await ledger.sweep(10) == 1
        assert (await ledger.statistics()).states == {}
