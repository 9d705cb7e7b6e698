from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from postman.backends.columns import key_of
from postman.backends.sqlite import ledger_rows
from postman.backends.sqlite.database import Database, open_database
from postman.backends.sqlite.ledger import SqliteLedger, ledger_on, postman_register
from postman.backends.sqlite.queue import SqliteQueue, queue_on
from postman.errors import DamagedRow, IdTaken, KeyReused, StoreFull
from postman.kind import Surroundings
from postman.ledger import Claim, Filter, Ledger, LedgerSettings
from postman.mail import Id, Letter, OnDoubt
from postman.queue import Note, QueueSettings
from postman.row import Now, Policy, State, Verb
from postman.testing.check_ledger import (
    DURABLE_LEDGER_CHECKS,
    LEDGER_CHECKS,
    MOVABLE_LEDGER_CHECKS,
    LedgerCheck,
    OpenLedger,
    Scene,
)
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.standing_clock import StandingClock
from postman.wire import ClientFactory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "postman.db"


@pytest.fixture
def open_sqlite(path: Path) -> OpenLedger:
    @asynccontextmanager
    async def open_it(policy: Policy, clock: Callable[[], Now]) -> AsyncGenerator[Ledger]:
        async with open_database(path) as database, ledger_on(database, policy, clock) as ledger:
            yield ledger

    return open_it


@asynccontextmanager
async def open_store(path: Path) -> AsyncGenerator[tuple[Database, SqliteQueue, SqliteLedger]]:
    """The ledger and its queue in one file."""
    async with (
        open_database(path) as database,
        queue_on(database, 60.0) as queue,
        ledger_on(database, Policy(), StandingClock(), queue) as ledger,
    ):
        yield database, queue, ledger


@pytest.mark.parametrize(
    "check", LEDGER_CHECKS + DURABLE_LEDGER_CHECKS + MOVABLE_LEDGER_CHECKS, ids=lambda check: check.__name__
)
async def test_the_contract(check: LedgerCheck, open_sqlite: OpenLedger) -> None:
    await check(open_sqlite)


async def test_damage_to_a_letter_is_told_and_the_others_go_on(path: Path, open_sqlite: OpenLedger) -> None:
    clock = StandingClock()
    async with open_sqlite(Policy(), clock) as ledger:
        scene = Scene(ledger, clock)
        sent, damaged, bodiless, garbled, whole = [await scene.queued() for _ in range(5)]
        await scene.end(sent, ACCEPTED)
    with closing(apsw.Connection(str(path))) as other:
        for id in (sent, damaged):
            other.execute("UPDATE letter SET row = substr(row, 1, 50) WHERE key = ?", (key_of(id),))
        other.execute("DELETE FROM body WHERE key = ?", (key_of(bodiless),))
        other.execute("UPDATE body SET letter = substr(letter, 1, 50) WHERE key = ?", (key_of(garbled),))
    async with open_sqlite(Policy(), clock) as ledger:
        for ask in (partial(ledger.read, damaged, None), partial(ledger.claim, damaged, [LAMDA])):
            with pytest.raises(DamagedRow, match=damaged):
                await ask()
        assert [row.id for row in await ledger.find(Filter(), None, 10)] == [whole, garbled, bodiless]
        answers = [await ledger.claim(id, [LAMDA]) for id in (bodiless, garbled, whole)]
        assert [getattr(answer, "state", "claimed") for answer in answers] == ["failed", "failed", "claimed"]
        clock.advance(Policy().retention)
        assert [row.id for row in (await ledger.overdue(10)).lapsed] == [whole], "the clerk's round goes on"
        assert [damaged in sentence for sentence in (await ledger.statistics()).troubles] == [True]
        assert await ledger.sweep(10) == 3
        assert (await ledger.statistics()).states == {State.QUEUED: 1, State.SENDING: 1}


@pytest.mark.parametrize(
    ("doubt", "crashes", "state"),
    [(OnDoubt.HOLD, 1, State.HELD), (OnDoubt.RESEND, 1, State.QUEUED), (OnDoubt.RESEND, 3, State.FAILED)],
)
async def test_what_a_dead_process_was_sending_is_in_doubt_after_reopening(
    open_sqlite: OpenLedger, doubt: OnDoubt, crashes: int, state: State
) -> None:
    clock, policy = StandingClock(), Policy(resend_after=600.0)
    async with open_sqlite(policy, clock) as ledger:
        id = await Scene(ledger, clock).queued(on_doubt=doubt)
    for crash in range(crashes):
        clock.advance(600)  # what crashes cut is sent again within `resend-after`, each letter at its own time
        async with open_sqlite(policy, clock) as ledger:
            claim = await Scene(ledger, clock).claim(id)
        clock.steady = 0.0  # another boot; nobody's lease may be judged by this clock
        async with open_sqlite(policy, clock) as ledger:
            scene = Scene(ledger, clock)
            assert await scene.state(id) is State.IN_DOUBT
            assert (await ledger.statistics()).states == {State.IN_DOUBT: 1}
            assert await scene.act(id, Verb.DECIDE) is (doubt is OnDoubt.HOLD), "resend-after of the policy at open"
            clock.advance(600)
            await scene.act(id, Verb.DECIDE)
            assert await scene.state(id) is (state if crash == crashes - 1 else State.QUEUED)
    async with open_sqlite(policy, clock) as ledger:
        assert (await ledger.finish(claim, ACCEPTED)).state is State.SENT


async def test_bodies_and_addresses_are_gone_when_they_are_not_needed(path: Path) -> None:
    async with open_database(path) as database, ledger_on(database, Policy(), StandingClock()) as ledger:
        scene = Scene(ledger, StandingClock())
        kept = {state for state in State if await _has_body(database, await scene.bring(state))}
        assert kept == {State.QUEUED, State.SENDING, State.IN_DOUBT, State.HELD, State.REJECTED, State.FAILED}
        id = await scene.queued(to="zoe@example.com")
        await scene.end(id, ACCEPTED)
        names = [name for (name,) in await _sql(database, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for name in names:
            assert "zoe" not in repr(await _sql(database, f"SELECT * FROM {name}"))  # noqa: S608  # our own names
        assert len(await ledger.find(Filter(recipient="zoe@example.com"), None, 10)) == 1


async def test_sweeping_leaves_nothing_behind(path: Path) -> None:
    clock = StandingClock()
    async with open_database(path) as database, ledger_on(database, Policy(), clock) as ledger:
        scene = Scene(ledger, clock)
        await ledger.accept([scene.letter(id=Id("0x01"), tags=("a", "b"))], "shop", "key", b"")
        await scene.end(Id("0x01"), ACCEPTED)
        clock.advance(Policy().retention)
        assert await ledger.sweep(10) == 2
        for name in ("letter", "body", "label", "idempotency"):
            assert await _sql(database, f"SELECT count(*) FROM {name}") == [(0,)]  # noqa: S608  # our own names


async def test_letters_and_notes_are_one_transaction(path: Path) -> None:
    async with open_store(path) as (database, queue, ledger):
        scene = Scene(ledger, StandingClock())
        letters = [scene.letter(), scene.letter(send_at=scene.time(60)), scene.letter(send_at=scene.time(10_000))]
        before = database.commits
        accepted = await ledger.accept(letters, "shop", "key", b"body")
        assert database.commits == before + 1
        assert accepted.noted
        replayed = await ledger.accept([scene.letter()], "shop", "key", b"body")
        assert (replayed.replayed, replayed.noted) == (True, True)
        with pytest.raises(KeyReused):
            await ledger.accept([scene.letter()], "shop", "key", b"another")
        statistics = await queue.statistics()
        assert (statistics.ready, statistics.delayed) == ((0, 1, 0), 1), "what is due in hours has no note yet"
        lease = await queue.take()
        assert lease.note is not None
        assert (lease.note.id, lease.note.size > 0) == (letters[0].id, True)


async def test_a_claim_in_hand_is_not_undone_by_reading_ahead(open_sqlite: OpenLedger) -> None:
    clock, answers = StandingClock(), list[object]()
    async with open_sqlite(Policy(), clock) as ledger:
        scene = Scene(ledger, clock)
        early, late = await scene.accept(scene.letter(), scene.letter())

    async def claim(id: Id) -> None:
        answers.append(await ledger.claim(id, [LAMDA]))

    async with open_sqlite(Policy(), clock) as ledger:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.statistics)  # keeps the writer busy while the others come
            for id in (late, early, late):
                await trio.lowlevel.checkpoint()
                nursery.start_soon(claim, id)
        assert sum(isinstance(answer, Claim) for answer in answers) == 2


async def test_an_ack_is_not_forgotten_with_a_transaction_that_was_rolled_back(path: Path) -> None:
    async with open_store(path) as (_, _, ledger):
        letter = Scene(ledger, StandingClock()).letter()
        await ledger.accept([letter], "shop", None, b"")
    async with open_store(path) as (_, queue, ledger):
        await queue.ack(await queue.take())
        with pytest.raises(IdTaken):
            await ledger.accept([letter], "shop", None, b"")
    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        assert sum((await queue.statistics()).ready) == 0


async def test_a_full_disk_refuses_letters_and_takes_them_again_when_there_is_room(path: Path) -> None:
    async with open_store(path) as (database, queue, ledger):
        scene = Scene(ledger, StandingClock())
        limit = partial(database.connection.pragma, "max_page_count")
        id = await scene.queued()
        await database.run(lambda: limit(70))
        accepted = 1

        async def fill() -> None:
            nonlocal accepted
            while accepted < 1_000:
                await scene.queued()
                accepted += 1

        with pytest.raises(StoreFull):
            await fill()
        assert (await ledger.statistics()).states == {State.QUEUED: accepted}
        await database.run(lambda: limit(100_000))
        await scene.queued()
        await scene.end(id, ACCEPTED)
        assert (await ledger.statistics()).states == {State.QUEUED: accepted, State.SENT: 1}
        assert (await queue.statistics()).ready[1] == accepted + 1


async def test_before_the_disk_is_full_letters_are_refused_and_consuming_goes_on(open_sqlite: OpenLedger) -> None:
    clock = StandingClock()
    async with open_sqlite(Policy(), clock) as ledger:
        assert isinstance(ledger, SqliteLedger)
        scene = Scene(ledger, clock)
        id = await scene.queued()
        ledger.reserve = 2**60
        with pytest.raises(StoreFull, match="free"):
            await scene.queued()
        assert (await scene.end(id, ACCEPTED)).state is State.SENT


async def test_another_program_that_reads_without_end_is_told_by_ledger_and_queue(path: Path) -> None:
    async with open_store(path) as (database, queue, ledger):

        async def told_after(megabytes: int) -> tuple[str, ...]:
            sql = "INSERT INTO buried (at, reason, bytes) VALUES (0, '', zeroblob(1000000))"
            for _ in range(megabytes):
                await _sql(database, sql)
            troubles = (await ledger.statistics()).troubles
            assert (await queue.statistics()).troubles == troubles
            return troubles

        with closing(apsw.Connection(str(path))) as other:
            other.execute("BEGIN; SELECT count(*) FROM buried").fetchall()
            assert await told_after(60) == ()
            [sentence] = await told_after(10)
            assert "-wal has grown to 6" in sentence
            assert "end that program" in sentence
        with trio.fail_after(20):
            while await told_after(1):  # another thread copies the log
                pass


async def test_no_list_is_made_by_looking_at_all_letters(path: Path) -> None:
    asked: list[tuple[str, Any]] = []

    def trace(_cursor: apsw.Cursor, sql: str, values: apsw.Bindings | None) -> bool:
        asked.append((sql, values))
        return True

    async with open_database(path) as database, ledger_on(database, Policy(), StandingClock()) as ledger:
        await database.run(lambda: database.connection.set_exec_trace(trace))
        await ledger.overdue(10)
        await ledger.statistics()
        await ledger.sweep(10)
        for filter in (Filter(client="shop"), Filter(state=State.HELD), Filter(client="shop", state=State.SENT)):
            await ledger.find(filter, Id("0xff"), 10)
        await ledger.find(Filter(client="shop", recipient="ann@example.com", tag="a", since=1.0), None, 10)
        await database.run(lambda: database.connection.set_exec_trace(None))
        looks = [(sql, values) for sql, values in asked if sql.startswith(("SELECT", "DELETE"))]
        assert len(looks) > 20
        for sql, values in looks:
            explain = partial(database.connection.execute, f"EXPLAIN QUERY PLAN {sql}", values)
            for *_, step in await database.run(lambda explain=explain: explain().fetchall()):  # type: ignore[misc]
                assert not step.startswith("SCAN"), (sql, step)
                in_few = "state = 1" in sql or "state = 2" in sql
                assert in_few or not step.startswith("USE TEMP"), (sql, step)


async def test_a_backlog_larger_than_the_memory_is_sent_whole(path: Path, open_sqlite: OpenLedger) -> None:
    count, clock = ledger_rows.CACHED + 300, StandingClock()
    async with open_sqlite(Policy(), clock) as ledger:
        scene = Scene(ledger, clock)
        letters = [scene.letter(subject=str(number)) for number in range(count)]
        for start in range(0, count, 100):
            await scene.accept(*letters[start : start + 100])
        for letter in letters[:: count // 50]:
            claim = await scene.claim(letter.id)
            assert claim.letter == letter
            await ledger.finish(claim, ACCEPTED)
    async with open_sqlite(Policy(), clock) as ledger:
        claims: list[Claim] = []

        async def claim_it(letter: Letter) -> None:
            answer = await ledger.claim(letter.id, [LAMDA])
            if isinstance(answer, Claim):
                assert answer.letter == letter
                claims.append(answer)

        async with trio.open_nursery() as nursery:
            for letter in letters:
                nursery.start_soon(claim_it, letter)
        assert len(claims) == count - len(letters[:: count // 50])
        assert (await ledger.statistics()).states[State.SENDING] == len(claims)


async def test_everything_acknowledged_is_there_after_kill_9(path: Path, open_sqlite: OpenLedger) -> None:
    program = """
import sys, trio
from postman.backends.sqlite.database import open_database
from postman.row import Policy
from postman.backends.sqlite.ledger import ledger_on
from postman.backends.sqlite.queue import queue_on
from postman.testing.check_ledger import Scene
from postman.testing.standing_clock import StandingClock
from postman.wire import ClientFactory
async def main():
    async with (
        open_database(sys.argv[1]) as database,
        queue_on(database, 60.0) as queue,
        ledger_on(database, Policy(), StandingClock(), queue) as ledger,
    ):
        scene = Scene(ledger, StandingClock())
        async def client():
            while True:
                print(*await scene.accept(scene.letter(), scene.letter()), flush=True)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(client)
trio.run(main)
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [Id(id) for _ in range(500) for id in process.stdout.readline().split()]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    acknowledged += [Id(id) for line in rest.splitlines(keepends=True) if line.endswith("\n") for id in line.split()]
    assert len(acknowledged) >= 1_000
    async with open_store(path) as (_, queue, ledger):
        rows = [await ledger.read(id, None) for id in acknowledged]
        assert all(row is not None and row.state is State.QUEUED for row in rows)
        total = (await ledger.statistics()).states[State.QUEUED]
        assert total % 2 == 0, "no half of a request"
        assert sum((await queue.statistics()).ready) == total


async def test_the_kind_opens_the_ledger_alone_or_with_its_queue(path: Path) -> None:
    kind = postman_register()
    surroundings = Surroundings("store", 1, 1.0, ClientFactory())
    settings = LedgerSettings(url=f"sqlite:{path}", policy=Policy(max_queued=1))
    async with kind.open(settings, surroundings) as ledger:
        assert (ledger.durable, ledger.shared, ledger.policy.max_queued) == (True, False, 1)
        await Scene(ledger, StandingClock()).queued()
    assert kind.open_both is not None
    async with kind.open_both(settings, QueueSettings(url=settings.url), surroundings) as (ledger, queue):
        assert (await ledger.statistics()).states == {State.QUEUED: 1}
        assert (queue.durable, queue.shared) == (True, False)


async def test_a_claim_that_was_committed_is_given_to_its_caller_though_he_was_cancelled(path: Path) -> None:
    chance, clock = random.Random(3), StandingClock()
    async with open_store(path) as (_, queue, ledger):
        scene = Scene(ledger, clock)
        await scene.accept(*(scene.letter() for _ in range(100)))

        async def work() -> None:
            while True:
                lease = await queue.take()
                assert lease.note is not None
                claim = await ledger.claim(lease.note.id, [LAMDA])
                if isinstance(claim, Claim):
                    with trio.CancelScope(shield=True):
                        await ledger.finish(claim, ACCEPTED)
                await queue.ack(lease)

        with trio.fail_after(30):
            while queued := await ledger.find(Filter(state=State.QUEUED), None, 100):
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(work)
                    await trio.sleep(chance.random() / 100)
                    nursery.cancel_scope.cancel()
                assert State.SENDING not in (await ledger.statistics()).states
                await queue.put([Note(row.id) for row in queued])


async def _has_body(database: Database, id: Id) -> bool:
    return bool(await _sql(database, "SELECT 1 FROM body WHERE key = ?", key_of(id)))


async def _sql(database: Database, sql: str, *values: int) -> list[tuple[Any, ...]]:
    return await database.run(lambda: database.connection.execute(sql, values).fetchall())
