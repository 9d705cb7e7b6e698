from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from postman.backends.redis.address import Address
from postman.backends.redis.client import open_client
from postman.backends.redis.ledger import redis_ledger
from postman.backends.redis.queue import LOOK, RedisQueue, RedisQueueSettings, open_queue, redis_queue
from postman.clerk import Clerk
from postman.errors import LeaseLost, StoreFull, StoreUnavailable
from postman.hookspecs import QUEUES
from postman.kind import Surroundings
from postman.queue import Lease, Note, Queue
from postman.registry import load_kind
from postman.row import Policy
from postman.testing.check_ledger import Scene
from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, QueueCheck, QueueUnderTest, notes
from postman.testing.redis_server import RedisServer
from postman.testing.standing_clock import StandingClock
from postman.testing.waiting import insist
from postman.wire import ClientFactory

VISIBILITY_TIMEOUT = 60.0


def under(address: Address, clock: MockClock) -> QueueUnderTest:
    """The queue by the clock of the loop, which also decides when a lease of the server is over."""

    opened: list[RedisQueue] = []

    @asynccontextmanager
    async def open_it() -> AsyncGenerator[Queue]:
        async with redis_queue(address, VISIBILITY_TIMEOUT, trio.current_time) as queue:
            opened.append(queue)
            yield queue

    async def wait(seconds: float) -> None:
        clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()
        while opened[-1]._client.connection._wire._asked:  # type: ignore[union-attr]  # connected; the server is no task
            await trio.testing.wait_all_tasks_blocked(0.001)

    return QueueUnderTest(open_it, VISIBILITY_TIMEOUT, wait)


@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: QueueCheck, redis: Address, mock_clock: MockClock) -> None:
    await check(under(redis, mock_clock))


async def test_a_put_wakes_the_takers_of_another_process_before_they_would_look(redis: Address) -> None:
    async with redis_queue(redis, 60.0) as here, redis_queue(redis, 60.0) as there:
        with trio.fail_after(LOOK * 0.8):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(there.take)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await here.put(notes(1))


async def test_a_note_is_not_shown_a_moment_too_early(redis: Address) -> None:
    async with redis_queue(redis, 60.0, lambda: 100.0) as queue:
        await queue.put(notes(1), 0.0004)
        statistics = await queue.statistics()
        assert (sum(statistics.ready), statistics.delayed) == (0, 1), "its letter could not be claimed yet"


async def test_who_may_not_hear_messages_is_served_all_the_same(mortal_redis: RedisServer) -> None:
    mortal_redis.ask("ACL", "SETUSER", "default", "resetchannels")
    async with redis_queue(Address("127.0.0.1", mortal_redis.port), 60.0) as queue:
        with trio.fail_after(5 * LOOK):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(queue.take)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await queue.put(notes(1))


async def test_each_note_goes_to_one_of_many_takers_in_three_processes(redis: Address) -> None:
    taken: Counter[str] = Counter()

    async def work(queue: RedisQueue) -> None:
        while True:
            lease = await queue.take()
            assert lease.note is not None
            taken[lease.note.id] += 1
            await queue.ack(lease)
            if len(taken) == 600:
                nursery.cancel_scope.cancel()

    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(redis_queue(redis, 60.0)) for _ in range(3)]
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for queue in queues * 10:
                    nursery.start_soon(work, queue)
                for first in range(0, 600, 50):
                    await queues[0].put(notes(50, first=first))
        assert set(taken.values()) == {1}
        assert sum((await queues[0].statistics()).ready) == 0


async def test_closing_gives_back_what_was_leased_for_nobody(redis: Address) -> None:
    chance = random.Random(2)
    async with redis_queue(redis, 600.0) as other:
        await other.put(notes(200))
        held = 0
        for _ in range(30):
            async with redis_queue(redis, 600.0) as queue, trio.open_nursery() as nursery:
                leases: list[Lease] = []

                async def take(queue: RedisQueue = queue, leases: list[Lease] = leases) -> None:
                    leases.append(await queue.take())

                for _ in range(5):
                    nursery.start_soon(take)
                for _ in range(chance.randrange(30)):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            held += len(leases)
        statistics = await other.statistics()
        assert (statistics.leased, sum(statistics.ready)) == (held, 200 - held)


async def test_when_the_memory_is_full_nothing_is_put_and_consuming_goes_on(mortal_redis: RedisServer) -> None:
    async with redis_queue(Address("127.0.0.1", mortal_redis.port), 60.0) as queue:
        await queue.put(notes(4))
        mortal_redis.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreFull):
            await queue.put(notes(1))
        first, second, third = [await queue.take() for _ in range(3)]
        await queue.ack(first)
        await queue.release(second, 1.0)
        await queue.bury(third, "no row")
        statistics = await queue.statistics()
        assert (sum(statistics.ready), statistics.delayed, statistics.buried) == (1, 1, 1)
        mortal_redis.ask("CONFIG", "SET", "maxmemory", "0")
        await queue.put(notes(1))


async def test_takers_are_told_when_the_server_dies_and_find_all_notes_when_it_is_back(
    mortal_redis: RedisServer,
) -> None:
    async with redis_queue(Address("127.0.0.1", mortal_redis.port), 0.3) as queue:
        await queue.put(notes(3))
        lost = await queue.take()
        mortal_redis.kill()
        with pytest.raises(StoreUnavailable):
            await queue.take()
        await trio.to_thread.run_sync(mortal_redis.start)
        found = {lease.note for lease in [await insist(queue.take, within=10) for _ in range(3)]}
        assert found == set(notes(3)), "what was leased is shown again"
        with pytest.raises(LeaseLost):
            await queue.ack(lost)


async def test_what_is_no_note_is_taken_as_such_and_buried_with_its_bytes(
    redis: Address, redis_process: RedisServer
) -> None:
    async with redis_queue(redis, 60.0) as queue:
        lane, buried = queue.keys[1], queue.keys[5]
        for text in ("", "x", f"{1:016x}no json", f"{2:016x}" + '{"id":"0x01","lane":9}', "\u00ff:a:b:c:\n"):
            redis_process.ask("ZADD", lane, 1, text)
        for _ in range(5):
            lease = await queue.take()
            assert lease.note is None
            await queue.bury(lease, "this is no note")
        graves = redis_process.ask("LRANGE", buried, 0, -1)
        assert len(graves) == 5
        assert all(b"this is no note" in grave for grave in graves)
        assert any(b"no json" in grave for grave in graves)


async def test_the_clerk_puts_everything_again_when_the_queue_was_flushed(mortal_redis: RedisServer) -> None:
    letters, waked = Address("127.0.0.1", mortal_redis.port), Address("127.0.0.1", mortal_redis.port, database=1)
    clock = StandingClock()
    async with redis_ledger(letters, Policy(), clock) as ledger, redis_queue(waked, 60.0) as queue:
        scene = Scene(ledger, clock)
        ids = await scene.accept(*(scene.letter() for _ in range(30)))
        await queue.put([Note(id) for id in ids])
        await flush(waked)
        assert sum((await queue.statistics()).ready) == 0
        clock.advance(61)
        clerk = Clerk(ledger, queue, accounts=frozenset, delivering=lambda: True, wall=lambda: clock.wall)
        for _ in range(2):
            await clerk.round()
        with trio.fail_after(5):
            found = [await queue.take() for _ in ids]
        assert {lease.note.id for lease in found if lease.note} == set(ids)


async def flush(address: Address) -> None:
    async with open_client(address) as client:
        await client.ask(("FLUSHDB",))


@pytest.mark.parametrize("name", ["redis", "rediss", "valkey"])
def test_the_kind_is_found_by_each_scheme(name: str) -> None:
    assert load_kind(QUEUES, name).open is open_queue


async def test_the_kind_opens_the_queue_of_its_url(mortal_redis: RedisServer) -> None:
    settings = RedisQueueSettings(url=mortal_redis.url, visibility_timeout=5.0)
    async with open_queue(settings, Surroundings("store", 1, 1.0, ClientFactory())) as queue:
        assert (queue.durable, queue.shared) == (True, True)
        await queue.put(notes(1))
        assert (await queue.take()).note == notes(1)[0]
