"""What goes wrong between us and a PostgreSQL server, seen through the ledger."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import psycopg
import pytest
import trio

from postman.backends.postgres.connection import Connection
from postman.backends.postgres.ledger import PostgresLedger, ledger_on
from postman.backends.postgres.ledger_lists import PostgresLists
from postman.backends.postgres.ledger_rows import Operation, PostgresRows, key_of
from postman.backends.postgres.line import Job, open_line
from postman.backends.postgres.queue import PostgresQueue, queue_on
from postman.backends.postgres.server import MIGRATIONS, Server, open_side, prepare
from postman.errors import ConfigError, StoreRefused, StoreUnavailable
from postman.ledger import Call, Claim, Filter
from postman.mail import Id, Letter
from postman.row import Policy, Row, State, present
from postman.testing.check_ledger import Scene
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.postgres_server import PostgresServer
from postman.testing.standing_clock import StandingClock
from postman.testing.tcp_proxy import TcpProxy, open_proxy

SECOND = 1.0


@asynccontextmanager
async def opened(server: Server) -> AsyncGenerator[tuple[PostgresLedger, PostgresQueue]]:
    await prepare(server, durable=True)
    async with (
        open_side(server) as side,
        queue_on(server, side, 60.0) as queue,
        ledger_on(server, side, Policy(), queue=queue) as ledger,
    ):
        yield ledger, queue


@asynccontextmanager
async def proxied(server: Server, process: PostgresServer) -> AsyncGenerator[tuple[TcpProxy, PostgresLedger]]:
    """A ledger whose letters go through a proxy; its lists do not."""
    await prepare(server, durable=True)
    async with open_proxy(process.port) as proxy:
        through = replace(server, url=server.url.replace(str(process.port), str(proxy.port)))
        async with open_side(server) as side, ledger_on(through, side, Policy()) as ledger:
            yield proxy, ledger


def letter() -> Letter:
    clock = StandingClock()
    clock.wall = time.time()
    return Scene(_none(), clock).letter()


def _none() -> PostgresLedger:
    return None  # type: ignore[return-value]  # a scene that makes letters needs no ledger


async def accept(ledger: PostgresLedger, *letters: Letter) -> None:
    await ledger.accept(letters, "shop", None, b"")


async def eventually[T](what: Callable[[], Awaitable[T]]) -> T:
    """Ask until the store answers."""
    with trio.fail_after(20):
        while True:
            try:
                return await what()
            except StoreUnavailable:
                await trio.sleep(0.05)
    raise AssertionError("not reached")


async def until(process: PostgresServer, question: str) -> None:
    """Wait until a question to the server finds something."""
    with trio.fail_after(10):
        while not await trio.to_thread.run_sync(process.execute, question):  # noqa: ASYNC110  # the server tells no event
            await trio.sleep(0.01)


# What the server must be


async def test_a_server_that_may_lose_commits_is_refused_as_a_ledger_and_taken_as_a_queue(
    mortal_postgres: PostgresServer,
) -> None:
    mortal_postgres.stop()
    mortal_postgres.start(fsync="off")
    server = Server(mortal_postgres.url)
    with pytest.raises(StoreRefused, match=r"fsync = off: a power cut may lose"):
        await prepare(server, durable=True)
    await prepare(server, durable=False)


async def test_letters_are_flushed_though_the_servers_default_is_not_to_wait(
    mortal_postgres: PostgresServer,
) -> None:
    mortal_postgres.stop()
    mortal_postgres.start(synchronous_commit="off")
    server, asked = Server(mortal_postgres.url), "SELECT current_setting('synchronous_commit')"
    with server.connect_durable() as durable:
        assert durable.execute(asked).fetchone() == ("on",)
    with server.connect(synchronous_commit="local") as connection:
        assert connection.execute(asked).fetchone() == ("local",)


async def test_tables_are_made_once_by_many_at_once_and_those_of_the_next_version_are_used(postgres: Server) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(partial(prepare, postgres, durable=True))
    with postgres.connect() as connection:
        for version in (1, 2):
            connection.execute("INSERT INTO migration (version, at) VALUES (%s, now())", [len(MIGRATIONS) + version])
            if version == 1:
                await prepare(postgres, durable=True)
    with pytest.raises(StoreRefused, match="newer Postman"):
        await prepare(postgres, durable=True)


async def test_a_server_that_is_not_there_is_no_reason_to_refuse_it_for_good() -> None:
    with pytest.raises(StoreUnavailable):
        await prepare(Server("postgresql://postgres@127.0.0.1:1/postgres"), durable=True)


async def test_a_url_that_cannot_be_read_is_told_without_its_password() -> None:
    with pytest.raises(ConfigError, match="no URL of PostgreSQL") as caught:
        await prepare(Server("postgresql://me:canary@[host/x"), durable=True)
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


# Connections


async def test_a_connection_that_was_cut_while_idle_is_opened_anew_and_nobody_notices(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with proxied(postgres, postgres_process) as (proxy, ledger):
        for _ in range(3):
            await accept(ledger, letter())
            await proxy.cut()
        assert (await ledger.statistics()).states == {State.QUEUED: 3}


async def test_a_commit_whose_answer_was_lost_may_have_happened_and_can_be_read_at_once(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with proxied(postgres, postgres_process) as (proxy, ledger):
        await accept(ledger, letter())
        lost = letter()
        proxy.swallow = b"COMMIT\0"
        with pytest.raises(StoreUnavailable) as caught:
            await accept(ledger, lost)
        assert caught.value.may_have_happened
        assert await ledger.read(lost.id, None) is not None
        await accept(ledger, letter())


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
                await accept(ledger, one)
            told.append(caught.value.may_have_happened)

        async with trio.open_nursery() as nursery:
            for one in letters:
                nursery.start_soon(post, one)
        assert told == [True] * 5, "an id that is taken would be minted anew, and the mail be there twice"
        assert (await rows_of(ledger)).keys() == {one.id for one in letters}


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
                await accept(ledger, lost)
            assert caught.value.may_have_happened
            found.append(await ledger.read(lost.id, None) is not None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            await until(postgres_process, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            await proxy.cut()
        await trio.sleep(2.2)
        assert [await ledger.read(lost.id, None) is not None] == found


async def test_a_server_that_answers_no_more_is_not_waited_for_without_a_limit(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with proxied(replace(postgres, timeout=SECOND / 2), postgres_process) as (proxy, ledger):
        await accept(ledger, letter())
        proxy.flows = trio.Event()
        with pytest.raises(StoreUnavailable), trio.fail_after(10):
            await accept(ledger, letter())
        proxy.flows.set()
        await eventually(partial(accept, ledger, letter()))


async def test_sessions_that_an_operator_ends_cost_no_letter(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    acked, doubtful = list[Id](), list[Id]()
    async with opened(postgres) as (ledger, _):
        with trio.move_on_after(1.5):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(_post, ledger, acked, doubtful)
                while True:
                    await trio.sleep(0.1)
                    ours = "application_name LIKE 'postman %' AND query NOT LIKE 'LISTEN%'"
                    await trio.to_thread.run_sync(
                        postgres_process.execute,
                        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}",  # noqa: S608  # ours
                    )
        there = await rows_of(ledger)
        assert len(acked) > 20
        assert set(acked) <= there.keys() <= {*acked, *doubtful}


async def test_a_server_killed_under_load_loses_no_letter_and_no_end(mortal_postgres: PostgresServer) -> None:
    acked, doubtful, sent = list[Id](), list[Id](), Counter[Id]()
    async with opened(Server(mortal_postgres.url, timeout=SECOND)) as (ledger, queue):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(_post, ledger, acked, doubtful)
            for _ in range(8):
                nursery.start_soon(_deliver, ledger, queue, sent)
            for _ in range(2):
                await trio.sleep(0.7)
                await trio.to_thread.run_sync(mortal_postgres.kill)
                await trio.sleep(0.3)
                await trio.to_thread.run_sync(mortal_postgres.start)
            await trio.sleep(0.7)
            nursery.cancel_scope.cancel()
        assert len(acked) > 50
        assert len(sent) > 20
        there = await rows_of(ledger)
        assert set(acked) <= there.keys() <= {*acked, *doubtful}
        assert {there[id].state for id in sent} == {State.SENT}
        assert all(row.receipts <= 1 for row in there.values())


async def _post(ledger: PostgresLedger, acked: list[Id], doubtful: list[Id]) -> None:
    while True:
        one = letter()
        try:
            await accept(ledger, one)
        except StoreUnavailable as error:
            if error.may_have_happened:
                doubtful.append(one.id)
            await trio.sleep(0.02)
        except trio.Cancelled:
            doubtful.append(one.id)
            raise
        else:
            acked.append(one.id)


async def _deliver(ledger: PostgresLedger, queue: PostgresQueue, sent: Counter[Id]) -> None:
    """A worker, as plain as it can be: what it claimed it finishes, however long that takes."""
    while True:
        try:
            lease = await queue.take()
            assert lease.note is not None
            claim = await ledger.claim(lease.note.id, [LAMDA], owner=f"{lease.handle}")
        except StoreUnavailable:
            await trio.sleep(0.02)
            continue
        if isinstance(claim, Claim):
            with trio.CancelScope(shield=True):
                await eventually(partial(ledger.finish, claim, ACCEPTED))
            sent[claim.id] += 1
            assert sent[claim.id] == 1, "claimed twice"


async def rows_of(ledger: PostgresLedger) -> dict[Id, Row]:
    """All rows, which must be as many as were counted."""
    found = await eventually(partial(ledger.find, Filter(), None, 100_000))
    assert (await eventually(ledger.statistics)).states == Counter(row.state for row in found)
    return {row.id: row for row in found}


# Standbys


async def test_what_no_standby_confirmed_is_not_taken_for_done_whoever_asks_again(
    mortal_postgres: PostgresServer,
) -> None:
    async with opened(Server(mortal_postgres.url, timeout=SECOND / 2)) as (ledger, queue):
        claimed = letter()
        await accept(ledger, claimed)
        standbys(mortal_postgres, "'nobody'")
        lost = letter()
        claim = partial(ledger.claim, claimed.id, [LAMDA], owner="me")
        for act in (
            partial(ledger.accept, [lost], "shop", "key", b""),
            partial(ledger.accept, [letter()], "shop", "key", b""),
            partial(ledger.read, lost.id, None),
            claim,
        ):
            with pytest.raises(StoreUnavailable, match="did not answer in time") as caught:
                await act()
            assert caught.value.may_have_happened
        assert await ledger.statistics(), "people are answered"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, cancel_commit, mortal_postgres)
            with pytest.raises(StoreUnavailable, match="no standby confirmed"):
                await claim()
        with trio.fail_after(5):
            await queue.ack(await queue.take())
        standbys(mortal_postgres, "''")
        assert (await ledger.accept([letter()], "shop", "key", b"")).ids == (lost.id,)
        assert await ledger.read(lost.id, None)
        given = await claim()
        assert isinstance(given, Claim)
        assert (given.fence, (await ledger.finish(given, ACCEPTED)).state) == (1, State.SENT)


def cancel_commit(server: PostgresServer) -> None:
    """As an operator may: the server takes the commit for done then."""
    while not server.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
        time.sleep(0.05)


def standbys(server: PostgresServer, names: str) -> None:
    """Have commits wait for these; on return they do."""
    server.execute(f"ALTER SYSTEM SET synchronous_standby_names = {names}")
    server.execute("SELECT pg_reload_conf()")
    while server.execute("SELECT setting FROM pg_settings WHERE name = 'synchronous_standby_names'") != [
        (names.strip("'"),)
    ]:
        time.sleep(0.01)


# Locks and time


async def test_a_row_that_somebody_locks_delays_nobody_elses_for_long(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with opened(replace(postgres, timeout=SECOND)) as (ledger, _):
        letters = [letter() for _ in range(20)]
        await accept(ledger, *letters)
        outcomes = Counter[str]()

        async def claim(id: Id) -> None:
            try:
                answer = await ledger.claim(id, [LAMDA])
            except StoreUnavailable as error:
                outcomes[f"unavailable {error.may_have_happened}"] += 1
            else:
                outcomes[type(answer).__name__] += 1

        with psycopg.connect(postgres_process.url) as somebody:
            somebody.execute(
                f"SELECT FROM {postgres.schema}.letter WHERE key = {key_of(letters[7].id)} FOR UPDATE".encode()
            )
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    for one in letters:
                        nursery.start_soon(claim, one.id)
        assert outcomes == {"Claim": 19, "unavailable False": 1}


async def test_a_locked_table_makes_every_call_fail_within_a_bounded_time(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with opened(replace(postgres, timeout=SECOND / 2)) as (ledger, _):
        await accept(ledger, letter())
        with psycopg.connect(postgres_process.url) as somebody:
            somebody.execute(f"LOCK TABLE {postgres.schema}.letter".encode())
            with trio.fail_after(8):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(_unavailable, partial(accept, ledger, letter()))
                    nursery.start_soon(_unavailable, ledger.statistics)
                    nursery.start_soon(_unavailable, partial(ledger.overdue, 10))
        await eventually(partial(accept, ledger, letter()))


async def _unavailable[T](ask: Callable[[], Awaitable[T]]) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await ask()
    assert not caught.value.may_have_happened


async def test_a_letter_does_not_wait_for_a_list(postgres: Server, postgres_process: PostgresServer) -> None:
    async with opened(postgres) as (ledger, _), trio.open_nursery() as nursery:
        await accept(ledger, letter())
        nursery.start_soon(ledger._side.run, lambda connection: connection.execute("SELECT pg_sleep(1)"))
        await until(postgres_process, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        with trio.fail_after(0.8):
            await accept(ledger, letter())


async def test_threads_that_hang_elsewhere_stop_no_store(postgres: Server) -> None:
    over = threading.Event()
    limiter = trio.to_thread.current_default_thread_limiter()
    async with opened(postgres) as (ledger, queue), trio.open_nursery() as nursery:
        for _ in range(int(limiter.total_tokens)):
            nursery.start_soon(hang, over)
        with trio.fail_after(5):
            while limiter.available_tokens:  # noqa: ASYNC110  # a limiter tells no event
                await trio.sleep(0.01)
            one = letter()
            await accept(ledger, one)
            lease = await queue.take()
            claim = await ledger.claim(one.id, [LAMDA])
            assert isinstance(claim, Claim)
            assert (await ledger.finish(claim, ACCEPTED)).state is State.SENT
            await queue.ack(lease)
        over.set()


async def hang(over: threading.Event) -> None:
    await trio.to_thread.run_sync(over.wait)


# Many processes


CLAIMER = """
import sys, trio
from postman.ledger import Claim
from postman.row import Policy
from postman.backends.postgres.ledger import ledger_on
from postman.backends.postgres.server import Server, open_side
from postman.testing.check_ledger.scene import LAMDA

async def main(server):
    async with open_side(server) as side, ledger_on(server, side, Policy()) as ledger:
        print(flush=True)
        ids = sys.stdin.readline().split()
        async def claim(id):
            if isinstance(await ledger.claim(id, [LAMDA]), Claim):
                print(id)
        async with trio.open_nursery() as nursery:
            for id in ids:
                nursery.start_soon(claim, id)

trio.run(main, Server(*sys.argv[1:]))
"""


async def test_of_claims_in_several_processes_at_once_one_wins_each_letter(postgres: Server) -> None:
    letters = [letter() for _ in range(300)]
    async with opened(postgres) as (ledger, _):
        await accept(ledger, *letters)
        command = [sys.executable, "-c", CLAIMER, postgres.url, postgres.schema]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "\n"
        for process, order in zip(processes, (letters, letters[::-1]), strict=True):
            assert process.stdin is not None
            process.stdin.write(" ".join(one.id for one in order) + "\n")
            process.stdin.flush()
        won = [process.communicate(timeout=20)[0].split() for process in processes]
        assert sorted(won[0] + won[1]) == sorted(one.id for one in letters)
        assert (await ledger.statistics()).states == {State.SENDING: 300}


async def test_one_key_in_two_ledgers_at_once_is_one_request(postgres: Server) -> None:
    async with opened(postgres) as (one, _), opened(postgres) as (other, _):
        for turn in range(10):
            answers = list[tuple[Id, ...]]()

            async def post(ledger: PostgresLedger, key: str, answers: list[tuple[Id, ...]] = answers) -> None:
                answers.append((await ledger.accept([letter()], "shop", key, b"body")).ids)

            async with trio.open_nursery() as nursery:
                for ledger in (one, other, one, other):
                    nursery.start_soon(post, ledger, f"key-{turn}")
            assert len(set(answers)) == 1
        assert (await one.statistics()).states == {State.QUEUED: 10}


async def test_a_call_of_another_process_is_judged_by_its_lease_alone(postgres: Server) -> None:
    one = letter()
    async with opened(postgres) as (mine, _):
        await accept(mine, one)
        before = present().wall
        claim = await mine.claim(one.id, [Call("lamda", "lamda.example", 1.0)])
        assert isinstance(claim, Claim)
        assert abs(claim.lease_ends - 1.0 - before) < 5, "the server's clock, which is this machine's here"
        async with opened(postgres) as (other, _):
            assert (await other.statistics()).states == {State.SENDING: 1}
            assert (await other.overdue(10)).lapsed == ()
            await trio.sleep(1.05)
            assert [row.id for row in (await other.overdue(10)).lapsed] == [one.id]
            assert (await mine.finish(claim, ACCEPTED)).state is State.SENT


async def test_letters_and_notes_are_one_transaction(postgres: Server) -> None:
    async with opened(postgres) as (ledger, queue):
        one = letter()
        before = ledger._line.commits
        accepted = await ledger.accept([one], "shop", "key", b"body")
        assert (ledger._line.commits, accepted.noted) == (before + 1, True)
        replayed = await ledger.accept([letter()], "shop", "key", b"body")
        assert (replayed.replayed, replayed.ids) == (True, (one.id,))
        lease = await queue.take()
        assert lease.note is not None
        assert lease.note.id == one.id
        assert sum((await queue.statistics()).ready) == 0
