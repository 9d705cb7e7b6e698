from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from postman.backends.lanes import WINDOW
from postman.backends.sqlite.database import open_database
from postman.backends.sqlite.queue import UNWRITTEN_ACKS, path_of, postman_register, queue_on
from postman.errors import ConfigError
from postman.kind import Surroundings
from postman.mail import Id
from postman.queue import MAX_DELAY, Lease, Note, QueueSettings
from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, QueueCheck, QueueUnderTest, notes
from postman.wire import ClientFactory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "postman.db"


@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(
    check: QueueCheck, sqlite: Callable[[MockClock], QueueUnderTest], mock_clock: MockClock
) -> None:
    await check(sqlite(mock_clock))


async def test_taking_writes_nothing_and_acks_share_a_later_commit(path: Path) -> None:
    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        await queue.put(notes(100))
        before = database.commits
        for _ in range(100):
            await queue.ack(await queue.take())
        assert database.commits == before
        await queue.put(notes(1))
        assert database.commits == before + 1
        assert await database.run(lambda: database.connection.execute("SELECT count(*) FROM note").get) == 1


async def test_many_acks_do_not_wait_for_ever(path: Path) -> None:
    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        await queue.put(notes(UNWRITTEN_ACKS))
        for _ in range(UNWRITTEN_ACKS):
            await queue.ack(await queue.take())
        with trio.fail_after(5):
            while queue.table.gone:
                await trio.lowlevel.checkpoint()


async def test_more_notes_than_memory_holds_are_all_taken_in_order(path: Path) -> None:
    count = 3 * WINDOW + 10
    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        await queue.put(notes(count))
        first = [(await queue.take()).note for _ in range(WINDOW)]
        assert first == notes(WINDOW)
    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        assert (await queue.statistics()).ready == (0, count, 0)
        for number in range(1, count + 1):
            lease = await queue.take()
            assert lease.note is not None
            assert lease.note.id == Id(f"0x{number:016x}"), "leased notes are shown again, in their old place"
            await queue.ack(lease)
        assert (await queue.statistics()).ready == (0, 0, 0)


async def test_notes_put_while_the_window_is_full_are_not_lost(path: Path) -> None:
    taken: list[Lease] = []
    count = 4 * WINDOW

    async def put(*, task_status: trio.TaskStatus[None]) -> None:
        for start in range(0, count, 64):
            await queue.put(notes(64, first=start))
            if start == 2 * WINDOW:
                task_status.started()

    async def take() -> None:
        while True:
            taken.append(lease := await queue.take())
            await queue.ack(lease)
            if len(taken) == count:
                nursery.cancel_scope.cancel()

    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(put)
                for _ in range(4):
                    nursery.start_soon(take)
        assert {lease.note.id for lease in taken if lease.note} == {note.id for note in notes(count, first=0)}


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
@pytest.mark.parametrize("later", [0, 1])
async def test_a_jump_of_the_wall_clock_between_two_runs_hides_no_note(path: Path, jump: float, later: int) -> None:
    wall = 1_700_000_000.0
    async with open_database(path) as database, queue_on(database, 60.0, wall=lambda: wall) as queue:
        await queue.put(notes(1))
        await queue.put(notes(later, first=2), MAX_DELAY)
    async with open_database(path) as database, queue_on(database, 60.0, wall=lambda: wall + jump) as queue:
        statistics = await queue.statistics()
        assert statistics.ready == ((0, 1 + later, 0) if jump > 0 else (0, 1, 0))
        await queue.put(notes(1, first=3))
        assert sum((await queue.statistics()).ready) == sum(statistics.ready) + 1
        ready = [await queue.take() for _ in range(sum(statistics.ready) + 1)]
        assert len({lease.note for lease in ready}) == len(ready)


async def test_a_buried_note_is_kept_with_its_bytes_and_the_reason(path: Path) -> None:
    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        await queue.put([Note(Id("0x01"), 2, 30)])
        await queue.bury(await queue.take(), "no such letter")
        sql = "SELECT reason, bytes FROM buried"
        [(reason, kept)] = await database.run(lambda: database.connection.execute(sql).fetchall())
        assert (reason, kept) == ("no such letter", b'{"id":"0x01","lane":2,"size":30,"v":1}')
        assert await database.run(lambda: database.connection.execute("SELECT count(*) FROM note").get) == 0


async def test_a_note_is_shown_again_when_it_could_not_be_buried(path: Path) -> None:
    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        await queue.put(notes(1))
        lease = await queue.take()
        await database.run(partial(database.connection.execute, "ALTER TABLE buried RENAME TO elsewhere"))
        with pytest.raises(Exception, match="no such table"):
            await queue.bury(lease, "why")
        assert (await queue.take()).note == lease.note


async def test_the_kind_opens_the_queue_of_its_url(path: Path) -> None:
    kind = postman_register()
    surroundings = Surroundings("store", 1, 1.0, ClientFactory())
    async with kind.open(QueueSettings(url=f"sqlite:{path}?x=1"), surroundings) as queue:
        await queue.put(notes(1))
    async with open_database(path) as database, queue_on(database, 60.0) as queue:
        assert (await queue.take()).note == notes(1)[0]


def test_a_url_without_a_path_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"sqlite:postman\.db"):
        path_of("sqlite:")
