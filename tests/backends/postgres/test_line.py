"""A connection to PostgreSQL that is cut, or stalls, seen through the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import psycopg
import pytest
import trio

from postman.backends.postgres.connection import Connection
from postman.backends.postgres.ledger import PostgresLedger
from postman.backends.postgres.ledger_lists import PostgresLists
from postman.backends.postgres.ledger_rows import Operation, PostgresRows
from postman.backends.postgres.line import Job, Statements, open_line
from postman.backends.postgres.server import Server, open_side, prepare
from postman.errors import StoreUnavailable
from postman.ledger import Filter
from postman.mail import Letter
from postman.row import Policy, State
from postman.testing.postgres_server import PostgresServer
from postman.testing.postgres_stores import letter, proxied
from postman.testing.waiting import insist

SLEEPS = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


async def test_a_connection_that_was_cut_while_idle_is_opened_anew_and_nobody_notices(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with proxied(postgres, postgres_process) as (proxy, ledger):
        for _ in range(3):
            await ledger.accept([letter()], "shop", None, b"")
            await proxy.cut()
        assert (await ledger.statistics()).states == {State.QUEUED: 3}


async def test_a_commit_whose_answer_was_lost_may_have_happened_and_can_be_read_at_once(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with proxied(postgres, postgres_process) as (proxy, ledger):
        await ledger.accept([letter()], "shop", None, b"")
        lost = letter()
        proxy.swallow = b"COMMIT\0"
        with pytest.raises(StoreUnavailable) as caught:
            await ledger.accept([lost], "shop", None, b"")
        assert caught.value.may_have_happened
        assert await ledger.read(lost.id, None) is not None
        await ledger.accept([letter()], "shop", None, b"")


class Stumbling(PostgresRows):
    """As psycopg does when the server ends the session just behind the commit: that is no word of the server's."""

    def commit(self, connection: Connection, jobs: Sequence[Job[Operation]]) -> None:
        super().commit(connection, jobs)
        raise psycopg.OperationalError("cannot exit pipeline mode while busy")


async def test_a_commit_is_not_repeated_when_the_error_is_not_the_servers_word(postgres: Server) -> None:
    await prepare(postgres, durable=True)
    work = Stumbling(Policy(), None)
    async with open_side(postgres) as side, open_line(postgres.connect_durable, work, 5.0, "letters") as line:
        ledger = PostgresLedger(line, work, side, PostgresLists(None))
        letters, told = [letter() for _ in range(5)], list[bool]()

        async def post(one: Letter) -> None:
            with pytest.raises(StoreUnavailable) as caught:
                await ledger.accept([one], "shop", None, b"")
            told.append(caught.value.may_have_happened)

        async with trio.open_nursery() as nursery:
            for one in letters:
                nursery.start_soon(post, one)
        assert told == [True] * 5, "an id that is taken would be minted anew, and the mail be there twice"
        assert {row.id for row in await ledger.find(Filter(), None, 100)} == {one.id for one in letters}


async def test_a_commit_that_was_cut_in_its_middle_has_an_end_before_its_caller_hears_of_it(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with proxied(postgres, postgres_process) as (proxy, ledger):
        postgres_process.execute(
            f"CREATE FUNCTION {postgres.schema}.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_sleep(2); RETURN NULL; END';"
            f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {postgres.schema}.letter DEFERRABLE INITIALLY DEFERRED "
            f"FOR EACH ROW EXECUTE FUNCTION {postgres.schema}.dawdle()"
        )
        lost, found = letter(), list[bool]()

        async def lose() -> None:
            with pytest.raises(StoreUnavailable) as caught:
                await ledger.accept([lost], "shop", None, b"")
            assert caught.value.may_have_happened
            found.append(await ledger.read(lost.id, None) is not None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            await trio.to_thread.run_sync(postgres_process.wait_for, SLEEPS)
            await proxy.cut()
        await trio.to_thread.run_sync(postgres_process.wait_for, f"SELECT WHERE NOT EXISTS ({SLEEPS})")
        assert [await ledger.read(lost.id, None) is not None] == found


async def test_a_server_that_answers_no_more_is_not_waited_for_without_a_limit(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with proxied(replace(postgres, timeout=0.5), postgres_process) as (proxy, ledger):
        await ledger.accept([letter()], "shop", None, b"")
        proxy.flows = trio.Event()
        with pytest.raises(StoreUnavailable), trio.fail_after(10):
            await ledger.accept([letter()], "shop", None, b"")
        proxy.flows.set()
        await insist(partial(ledger.accept, [letter()], "shop", None, b""), within=20)


class Lost:
    """A connection whose commit gets no answer."""

    name = "lost"
    broken = True

    def execute(self, statement: str) -> None:
        if statement == "COMMIT":
            raise psycopg.OperationalError("no answer")

    def close(self) -> None:
        pass


async def test_a_bug_where_a_lost_connection_is_renewed_leaves_nobody_waiting() -> None:
    connections = [Lost()]  # the second one cannot be had, in a way that nobody foresaw

    async with open_line(connections.pop, Statements(), 10.0, "test") as line:  # type: ignore[arg-type]  # fakes
        with pytest.raises(StoreUnavailable, match="a bug of ours, IndexError") as caught:
            await line.run(lambda _: None)
        assert caught.value.may_have_happened


class Clinging(Lost):
    """A connection that cannot be closed, in a way that nobody foresaw."""

    def close(self) -> None:
        raise ZeroDivisionError


async def test_a_bug_where_a_connection_is_closed_leaves_nobody_waiting() -> None:
    async with open_line(Clinging, Statements(), 10.0, "test") as line:  # type: ignore[arg-type]  # a fake
        with pytest.raises(StoreUnavailable):
            await line.run(lambda _: None)
