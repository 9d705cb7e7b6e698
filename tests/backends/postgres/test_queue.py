from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import psycopg
import pytest
import trio

from postman.backends.postgres.queue import POLL, PostgresQueue, queue_on
from postman.backends.postgres.server import Server, open_side, prepare
from postman.errors import StoreUnavailable
from postman.queue import LANES, Lease, Note, Queue
from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, SHORT, QueueCheck, QueueUnderTest, notes
from postman.testing.postgres_server import PostgresServer
from postman.testing.postgres_stores import settled
from postman.testing.waiting import insist

VISIBILITY_TIMEOUT = 60.0
BOTH_HEAR = "SELECT WHERE (SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%{}%') = 2"


@asynccontextmanager
async def opened(server: Server) -> AsyncGenerator[PostgresQueue]:
    await prepare(server, durable=False)
    async with open_side(server) as side, queue_on(server, side, VISIBILITY_TIMEOUT) as queue:
        yield queue


@pytest.fixture
def under(postgres: Server, postgres_process: PostgresServer) -> QueueUnderTest:
    queues: list[PostgresQueue] = []

    @asynccontextmanager
    async def open_it() -> AsyncGenerator[Queue]:
        async with opened(postgres) as queue:
            queues.append(queue)
            yield queue

    async def wait(seconds: float) -> None:
        if seconds > SHORT:  # as if it had been put and leased so much earlier
            postgres_process.execute(f"UPDATE {postgres.schema}.note SET due = due - interval '{seconds} s'")  # noqa: S608  # ours
            queues[-1].wake()
        await settled(queues[-1])

    return QueueUnderTest(open_it, VISIBILITY_TIMEOUT, wait)


@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: QueueCheck, under: QueueUnderTest) -> None:
    await check(under)


async def test_a_put_wakes_who_waits_in_another_process(postgres: Server, postgres_process: PostgresServer) -> None:
    taken: list[Lease] = []
    async with opened(postgres) as here, opened(postgres) as there:
        await trio.to_thread.run_sync(postgres_process.wait_for, BOTH_HEAR.format(postgres.schema))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_into, there, taken)
            await settled(there)
            await here.put(notes(1))
            nursery.cancel_scope.deadline = trio.current_time() + POLL / 2  # before it would look by itself
        assert len(taken) == 1


async def test_two_processes_take_each_note_once(postgres: Server) -> None:
    count, taken = 400, list[Lease]()
    async with opened(postgres) as here, opened(postgres) as there:
        await here.put(notes(count))
        async with trio.open_nursery() as nursery:

            async def take(queue: PostgresQueue) -> None:
                while len(taken) < count:
                    taken.append(await queue.take())
                nursery.cancel_scope.cancel()

            for queue in (here, there) * 8:
                nursery.start_soon(take, queue)
        ids = Counter(lease.note.id for lease in taken if lease.note is not None)
        assert set(ids.values()) == {1}
        for queue in (here, there):
            await settled(queue)  # what cancelled takers left is back
        assert sum((await there.statistics()).ready) == count - len(taken)


async def test_a_note_that_another_process_is_taking_is_passed_over(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with opened(postgres) as queue:
        await queue.put(notes(2))
        with psycopg.connect(postgres_process.url) as other, trio.fail_after(postgres.timeout / 2):
            other.execute(f"SELECT FROM {postgres.schema}.note ORDER BY seq LIMIT 1 FOR UPDATE".encode())
            assert (await queue.take()).note == notes(2)[1]


async def test_weights_hold_for_many_takers_at_once(postgres: Server) -> None:
    async with opened(postgres) as queue:
        for lane in range(LANES):
            await queue.put(notes(150, lane, first=1 + 1_000 * lane))
        served = Counter[int]()
        for takers in (7, 30, 1, 41, 26):
            for lease in await take_many(queue, takers):
                assert lease.note is not None
                served[lease.note.lane] += 1
        assert served == {0: 80, 1: 20, 2: 5}


async def test_a_lane_that_was_empty_has_saved_up_nothing(postgres: Server) -> None:
    async with opened(postgres) as queue:
        await queue.put(notes(200, 1))
        await take_many(queue, 100)
        await queue.put(notes(50, 2, first=1_001))
        lanes = Counter(lease.note.lane for lease in await take_many(queue, 20) if lease.note is not None)
        assert lanes[2] in {4, 5}, "of 20, a quarter of what the lane above gets"


async def test_who_waits_is_told_that_the_server_is_gone_and_takes_when_it_is_back(
    mortal_postgres: PostgresServer,
) -> None:
    async with opened(Server(mortal_postgres.url, timeout=1.0)) as queue:
        await queue.put(notes(1))
        mortal_postgres.kill()
        with pytest.raises(StoreUnavailable):
            await queue.take()
        mortal_postgres.start()
        lease = await insist(queue.take, within=20)
        assert [lease.note] == notes(1)


async def test_a_server_that_died_keeps_what_was_put(mortal_postgres: PostgresServer) -> None:
    async with opened(Server(mortal_postgres.url)) as queue:
        await queue.put(notes(100))
        mortal_postgres.kill()
    mortal_postgres.start()
    async with opened(Server(mortal_postgres.url)) as queue:
        assert sum((await queue.statistics()).ready) == 100


async def test_a_buried_note_is_kept_with_its_reason(postgres: Server, postgres_process: PostgresServer) -> None:
    async with opened(postgres) as queue:
        await queue.put(notes(1))
        await queue.bury(await queue.take(), "no row")
    [(reason, kept)] = postgres_process.execute(f"SELECT reason, bytes FROM {postgres.schema}.buried")  # noqa: S608  # our name
    assert reason == "no row"
    assert isinstance(kept, bytes)
    assert msgspec.json.decode(kept, type=Note) == notes(1)[0]


async def take_into(queue: PostgresQueue, taken: list[Lease]) -> None:
    taken.append(await queue.take())


async def take_many(queue: PostgresQueue, count: int) -> list[Lease]:
    """What so many takers get at once."""
    taken: list[Lease] = []
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(take_into, queue, taken)
    return taken
