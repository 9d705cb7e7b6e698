"""Somebody leaves a transaction open, so that PostgreSQL keeps all that was there: we get no slower, and say so."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing

import psycopg
import pytest
import trio

from postman.backends.postgres import checks, tally
from postman.backends.postgres.line import open_line
from postman.backends.postgres.queue import PostgresQueue
from postman.backends.postgres.queue_looks import SELDOM, Looks
from postman.backends.postgres.queue_moves import Moves
from postman.backends.postgres.server import Server, open_side, prepare
from postman.errors import StoreFull
from postman.queue import Lease, QueueStatistics
from postman.row import Policy, State
from postman.testing.check_queue import notes
from postman.testing.postgres_server import PostgresServer
from postman.testing.postgres_stores import letter, opened, settled

OURS = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'postman %'"
PASSED = "SELECT idx_tup_read FROM pg_stat_all_indexes WHERE indexrelname = 'note_due'"


class Stopwatch:
    """Tells that a look lasted so long as it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lasts = 0.0

    def __call__(self) -> float:
        self.now += self.lasts
        return self.now


@asynccontextmanager
async def timed(server: Server, clock: Stopwatch) -> AsyncGenerator[PostgresQueue]:
    await prepare(server, durable=False)
    moves = Moves(Looks(60.0, clock), server.schema, "this one")
    async with open_side(server) as side, open_line(server.connect, moves, 5.0, "notes") as line:
        yield PostgresQueue(line, side)


def hold(process: PostgresServer, schema: str) -> psycopg.Connection:
    """A session with an open transaction, which has seen the notes."""
    session = psycopg.connect(process.url, application_name="report")
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.execute(f"SELECT FROM {schema}.note".encode())
    return session


async def take(queue: PostgresQueue, count: int) -> list[Lease]:
    """What so many takers have once nothing is under way."""
    leases: list[Lease] = []

    async def take_one() -> None:
        leases.append(await queue.take())

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(take_one)
        await settled(queue)
        nursery.cancel_scope.cancel()
    return leases


async def take_slowly(queue: PostgresQueue, clock: Stopwatch) -> Lease:
    """Take one with a look at all notes that lasts for a second; on return that was just now."""
    clock.lasts = 1.0
    [lease] = await take(queue, 1)
    clock.lasts, clock.now = 0.0, 1.0
    return lease


async def test_a_look_does_not_pass_the_notes_that_are_gone(postgres: Server, postgres_process: PostgresServer) -> None:
    count, clock = 1_001, Stopwatch()
    async with timed(postgres, clock) as queue:
        await queue.put(notes(count))
        in_an_hour = "due = due + (seq - 2000) * interval '1 s'"
        postgres_process.execute(f"UPDATE {postgres.schema}.note SET {in_an_hour}")  # noqa: S608  # ours
        with closing(hold(postgres_process, postgres.schema)):
            leases = [await take_slowly(queue, clock)]
            while leases:
                for lease in leases:
                    await queue.ack(lease)
                leases = await take(queue, 20)
            assert await queue.statistics() == QueueStatistics((0, 0, 0), 0, 0, 0)
    await trio.to_thread.run_sync(postgres_process.wait_for, f"SELECT WHERE NOT EXISTS ({OURS})")
    [(passed,)] = postgres_process.execute(f"{PASSED} AND schemaname = '{postgres.schema}'")
    assert isinstance(passed, int)
    assert passed < 5 * count, "of a hundred times as many, if each look began with the first note"


async def test_what_came_back_to_an_older_place_is_found_by_the_next_look_at_all(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    clock = Stopwatch()
    async with timed(postgres, clock) as here, opened(postgres) as (_, there):
        await here.put(notes(2))
        postgres_process.execute(f"UPDATE {postgres.schema}.note SET due = due - interval '9 s' / seq")  # noqa: S608  # ours
        old, new = await there.take(), await take_slowly(here, clock)
        await there.release(old)
        assert await take(here, 1) == []
        clock.now = 10 * SELDOM
        assert [lease.note for lease in await take(here, 1)] == [old.note]
        await here.release(new)
        clock.now = 0.0
        assert [lease.note for lease in await take(here, 1)] == [new.note], "what it gave back itself it finds at once"


async def test_counts_move_on_to_other_rows_and_stay_right(
    postgres: Server, postgres_process: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "STAY", 3)
    places = list[object]()
    async with opened(postgres) as (ledger, _):
        for count in range(1, 11):
            await ledger.accept([letter()], "shop", None, b"")
            [(place, number)] = postgres_process.execute(f"SELECT slot, number FROM {postgres.schema}.tally")  # noqa: S608  # ours
            places.append(place)
            assert number == count
        assert (await ledger.statistics()).states == {State.QUEUED: 10}
    assert len(set(places)) == 4


async def test_a_process_knows_what_others_accepted_a_second_ago(postgres: Server) -> None:
    async with opened(postgres) as (here, _), opened(postgres) as (there, _):
        here.policy = there.policy = Policy(max_queued=4)
        await here.accept([letter()], "shop", None, b"")
        await there.accept([letter(), letter()], "shop", None, b"")
        here._rows._tally._stale_at = 0.0  # as it is a second later
        with pytest.raises(StoreFull):
            await here.accept([letter(), letter()], "shop", None, b"")
        await here.accept([letter()], "shop", None, b"")
        with pytest.raises(StoreFull):  # what it did itself it knows at once
            await here.accept([letter()], "shop", None, b"")


async def test_status_names_who_leaves_a_transaction_open_and_what_ends_it(
    mortal_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "OLD", 5)
    mortal_postgres.stop()
    mortal_postgres.start(max_prepared_transactions="1")
    async with opened(Server(mortal_postgres.url)) as (ledger, queue):

        async def accept() -> None:
            for _ in range(7):
                await ledger.accept([letter()], "shop", None, b"")

        await accept()
        assert (await ledger.statistics()).troubles == ()
        with closing(hold(mortal_postgres, "postman")) as session:
            pid = session.info.backend_pid
            await accept()
            [told] = (await ledger.statistics()).troubles
            assert f"session {pid} (report) is open since 20" in told
            assert (await queue.statistics()).troubles == (told,)
            mortal_postgres.execute("CREATE ROLE plain LOGIN")
            with psycopg.connect(mortal_postgres.url.replace("postgres@", "plain@"), autocommit=True) as plain:
                assert f"session {pid} (report) is open;" in checks.troubles(plain)[0], "whoever may see less"
            mortal_postgres.execute(told.split("`")[1])
            mortal_postgres.wait_for(f"SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})")  # noqa: S608  # ours
        assert (await ledger.statistics()).troubles == ()
        with psycopg.connect(mortal_postgres.url) as forgetful:
            forgetful.execute("CREATE TABLE kept ()")
            forgetful.execute("PREPARE TRANSACTION 'a ''quoted'' one'")
        await accept()
        [told] = (await ledger.statistics()).troubles
        assert "the prepared transaction a 'quoted' one is open since" in told
        mortal_postgres.execute(told.split("`")[1])
        assert (await ledger.statistics()).troubles == ()
