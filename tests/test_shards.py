"""Several queues as one: the contract, and that one that is down stops nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
import structlog.testing
import trio
import trio.testing
from trio.testing import MockClock

from postman.backends.memory.queue import MemoryQueue, memory_queue
from postman.backends.redis.address import Address
from postman.backends.redis.queue import RedisQueue, redis_queue
from postman.backends.sqlite.database import open_database
from postman.backends.sqlite.queue import queue_on
from postman.errors import ConfigError, LeaseLost, StoreFull, StoreRefused, StoreUnavailable
from postman.queue import Lease, Queue, QueueStatistics
from postman.shards import HOLD, PAUSES, Opening, open_shards
from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, QueueCheck, QueueUnderTest, notes
from postman.testing.redis_server import RedisServer

VISIBILITY_TIMEOUT = 60.0


def under(openings: Sequence[Opening], clock: MockClock, busy: Callable[[], bool] = lambda: False) -> QueueUnderTest:
    async def settled() -> None:
        await trio.testing.wait_all_tasks_blocked(0.02)  # a thread or a server is no task
        while busy():
            await trio.testing.wait_all_tasks_blocked(0.002)

    async def wait(seconds: float) -> None:
        await settled()
        clock.jump(seconds)  # else who is waited for just now would seem not to answer
        await settled()

    named = [(f"queue {number}", opening) for number, opening in enumerate(openings)]
    return QueueUnderTest(lambda: open_shards(named), VISIBILITY_TIMEOUT, wait, ordered=False)


@asynccontextmanager
async def in_file(path: Path) -> AsyncGenerator[Queue]:
    async with open_database(path) as database, queue_on(database, VISIBILITY_TIMEOUT, trio.current_time) as queue:
        yield queue


@pytest.mark.parametrize("check", QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract_over_two_queues_in_memory(check: QueueCheck, mock_clock: MockClock) -> None:
    await check(under([partial(memory_queue, VISIBILITY_TIMEOUT)] * 2, mock_clock))


@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract_over_two_files(check: QueueCheck, tmp_path: Path, mock_clock: MockClock) -> None:
    await check(under([partial(in_file, tmp_path / f"{name}.db") for name in "ab"], mock_clock))


@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract_over_two_queues_in_redis(
    check: QueueCheck, redis_process: RedisServer, redis: Address, mock_clock: MockClock
) -> None:
    other = Address("127.0.0.1", redis_process.port, prefix=f"{{other-{redis.prefix.strip('{}:')}}}:")
    opened: list[RedisQueue] = []

    @asynccontextmanager
    async def opening(address: Address) -> AsyncGenerator[Queue]:
        async with redis_queue(address, VISIBILITY_TIMEOUT, trio.current_time) as queue:
            opened.append(queue)
            yield queue

    def busy() -> bool:
        wires = [queue._client.connection._wire for queue in opened]
        return any(wire and wire.broken is None and wire._asked for wire in wires)

    await check(under([partial(opening, address) for address in (redis, other)], mock_clock, busy))


class FrailQueue:
    """A queue in memory that answers unless it is told not to; takers are told when it goes down, as by a server."""

    durable = False
    shared = False

    def __init__(self, inner: MemoryQueue) -> None:
        self.inner = inner
        self.error: Exception | None = None
        self.troubles: tuple[str, ...] = ()
        self.gives = True
        self.asked = 0
        self.fallen = trio.Event()

    def fall(self, error: Exception | None = None) -> None:
        self.error = error or StoreUnavailable("no answer")
        self.fallen.set()

    def rise(self) -> None:
        self.error, self.fallen = None, trio.Event()

    def _answer(self) -> MemoryQueue:
        if self.error is not None:
            raise self.error
        return self.inner

    async def take(self) -> Lease:
        leases: list[Lease] = []
        self.asked += 1
        if not self.gives:
            raise StoreUnavailable("too many in flight")
        async with trio.open_nursery() as nursery:

            async def take() -> None:
                leases.append(await self._answer().take())
                nursery.cancel_scope.cancel()

            if self.error is None:
                nursery.start_soon(take)
                await self.fallen.wait()
            nursery.cancel_scope.cancel()
        return leases[0] if leases else await self._answer().take()

    async def statistics(self) -> QueueStatistics:
        return msgspec.structs.replace(await self._answer().statistics(), troubles=self.troubles)

    def __getattr__(self, name: str) -> object:
        return getattr(self._answer(), name)


@asynccontextmanager
async def frail(count: int, *, down: int = 0) -> AsyncGenerator[tuple[Queue, list[FrailQueue]]]:
    """So many frail queues as one; the last `down` of them do not answer when they are opened."""
    made: list[FrailQueue] = []

    @asynccontextmanager
    async def opening(number: int) -> AsyncGenerator[Queue]:
        if number >= count - down:
            raise StoreUnavailable("no answer")
        async with memory_queue(VISIBILITY_TIMEOUT) as inner:
            made.append(FrailQueue(inner))
            yield made[-1]  # type: ignore[misc]  # it answers as the one within

    async with open_shards([(f"q{number}", partial(opening, number)) for number in range(count)]) as queue:
        yield queue, made


async def taken(queue: Queue) -> list[Lease]:
    async def let_happen(_: float) -> None:
        await trio.testing.wait_all_tasks_blocked()

    return await QueueUnderTest(lambda: memory_queue(0), 0, let_happen).taken(queue)


async def test_notes_are_spread_and_takers_are_served_by_all_in_turn() -> None:
    async with frail(2) as (queue, frails):
        await queue.put(notes(1_000))
        held = [sum((await one.inner.statistics()).ready) for one in frails]
        assert sum(held) == 1_000
        assert min(held) > 400
        for _ in range(200):
            await queue.ack(await queue.take())
        left = [sum((await one.inner.statistics()).ready) for one in frails]
        assert all(90 <= before - after <= 110 for before, after in zip(held, left, strict=True))


async def test_while_a_queue_is_down_the_others_take_its_notes_and_it_is_named(autojump_clock: MockClock) -> None:
    async with frail(3) as (queue, frails):
        frails[1].fall()
        await queue.put(notes(100))
        assert len(await taken(queue)) == 100
        [trouble] = (await queue.statistics()).troubles
        assert trouble == "The queue q1 is down; the others do its work: no answer"


async def test_what_a_queue_says_of_its_troubles_is_said_of_all() -> None:
    async with frail(2) as (queue, frails):
        frails[1].troubles = ("One of its lanes gives no notes.",)
        assert (await queue.statistics()).troubles == ("One of its lanes gives no notes.",)


async def test_who_waits_does_not_notice_that_one_queue_goes_down(autojump_clock: MockClock) -> None:
    async with frail(2) as (queue, frails), trio.open_nursery() as nursery:
        leases: list[Lease] = []

        async def take() -> None:
            leases.append(await queue.take())

        for _ in range(20):
            nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        frails[0].fall()
        await trio.testing.wait_all_tasks_blocked()
        await queue.put(notes(20))
    assert {lease.note for lease in leases} == set(notes(20))


async def test_a_queue_that_is_back_shows_what_it_holds_to_who_waits(autojump_clock: MockClock) -> None:
    async with frail(2) as (queue, frails):
        await queue.put(notes(10))
        frails[0].fall()
        with suppress(StoreUnavailable):
            await frails[0].take()
        first = await taken(queue)
        assert 0 < len(first) < 10
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.take)
            await trio.testing.wait_all_tasks_blocked()
            frails[0].rise()
            began = trio.current_time()
        assert trio.current_time() - began <= PAUSES[1]
        assert (await queue.statistics()).troubles == ()


async def test_when_all_are_down_who_waits_is_told_and_puts_are_refused(autojump_clock: MockClock) -> None:
    async with frail(2) as (queue, frails):
        async with trio.open_nursery() as nursery:

            async def take() -> None:
                with pytest.raises(StoreUnavailable):
                    await queue.take()

            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            for one in frails:
                one.fall()
        for ask in (queue.take, queue.statistics, partial(queue.put, notes(1))):
            with pytest.raises(StoreUnavailable):
                await ask()
        for one in frails:
            one.rise()
        await trio.sleep(PAUSES[1])
        await queue.put(notes(1))
        assert len(await taken(queue)) == 1


@pytest.mark.parametrize("error", [StoreFull("no memory left"), StoreRefused("damaged"), ZeroDivisionError("a bug")])
async def test_whatever_a_taker_meets_the_queue_counts_as_down_and_is_asked_again(
    autojump_clock: MockClock, error: Exception
) -> None:
    async with frail(2) as (queue, frails), trio.open_nursery() as nursery:

        async def take() -> None:
            with pytest.raises(StoreUnavailable, match=str(error)):
                await queue.take()

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        frails[0].fall(error)
        await trio.testing.wait_all_tasks_blocked()
        assert str(error) in (await queue.statistics()).troubles[0]
        frails[1].fall(error)
        await trio.testing.wait_all_tasks_blocked()
        for one in frails:
            one.rise()
        await trio.sleep(PAUSES[1])
        await queue.put(notes(1))
        assert (await queue.take()).note == notes(1)[0]


async def test_one_that_counts_its_notes_and_gives_none_is_told_once_and_asked_ever_more_rarely(
    autojump_clock: MockClock,
) -> None:
    async with frail(2) as (queue, frails), trio.open_nursery() as nursery:
        frails[1].gives = False
        with structlog.testing.capture_logs() as logs:
            nursery.start_soon(queue.take)
            await trio.sleep(600)
            assert [log["reason"] for log in logs] == ["too many in flight"]
        assert 600 / PAUSES[1] < frails[1].asked < 3 * 600 / PAUSES[1]
        frails[1].gives = True
        await frails[1].inner.put(notes(1))
        nursery.cancel_scope.deadline = trio.current_time() + PAUSES[1]
    assert not nursery.cancel_scope.cancelled_caught, "the taker was served by it"


async def test_spare_notes_go_back_when_nobody_wants_them(autojump_clock: MockClock) -> None:
    async with frail(3) as (queue, frails):
        await queue.put(notes(30))
        await queue.take()
        await trio.testing.wait_all_tasks_blocked()
        assert sum([(await one.inner.statistics()).leased for one in frails]) == 3
        assert (await queue.statistics()).leased == 1, "what nobody has counts as ready"
        await trio.sleep(2 * HOLD + 0.1)
        assert sum([(await one.inner.statistics()).leased for one in frails]) == 1


async def test_a_lease_is_answered_where_it_came_from() -> None:
    async with frail(2) as (queue, _):
        await queue.put(notes(40))
        leases = await taken(queue)
        await queue.bury(leases[0], "no row")
        await queue.release(leases[1], 10)
        for lease in leases[2:]:
            await queue.ack(lease)
        with pytest.raises(LeaseLost):
            await queue.ack(leases[5])
        statistics = await queue.statistics()
        assert (sum(statistics.ready), statistics.delayed, statistics.leased, statistics.buried) == (0, 1, 0, 1)


async def test_fifty_takers_cancelled_at_random_while_queues_come_and_go_lose_no_note(
    autojump_clock: MockClock,
) -> None:
    chance, count = random.Random(3), 400
    acked: Counter[str] = Counter()

    async def work(queue: Queue) -> None:
        while True:
            with suppress(StoreUnavailable, LeaseLost), trio.move_on_after(chance.choice((0, 0.01, 0.1, 1))):
                lease = await queue.take()
                with trio.CancelScope(shield=True):
                    await trio.sleep(chance.random())
                    await queue.ack(lease)
                    assert lease.note is not None
                    acked[lease.note.id] += 1
            await trio.sleep(chance.choice((0, 0.01)))

    async def upset(frails: list[FrailQueue]) -> None:
        while True:
            one = chance.choice(frails)
            one.fall()
            await trio.sleep(chance.random() * 3)
            one.rise()
            await trio.sleep(chance.random())

    async with frail(3) as (queue, frails), trio.open_nursery() as nursery:
        nursery.start_soon(upset, frails)
        for _ in range(50):
            nursery.start_soon(work, queue)
        for first in range(1, count, 10):
            await trio.sleep(chance.random() / 5)
            await queue.put(notes(10, first=first))
        with trio.fail_after(300):
            while len(acked) < count:  # noqa: ASYNC110  # time is not real
                await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def test_one_that_does_not_answer_at_the_start_is_opened_later(autojump_clock: MockClock) -> None:
    answers = trio.Event()

    @asynccontextmanager
    async def late() -> AsyncGenerator[Queue]:
        if not answers.is_set():
            raise StoreUnavailable("no answer yet")
        async with memory_queue(VISIBILITY_TIMEOUT) as queue:
            await queue.put(notes(1))
            yield queue

    async with open_shards([("a", partial(memory_queue, 60.0)), ("b", late)]) as queue:
        assert len((await queue.statistics()).troubles) == 1
        answers.set()
        lease = await queue.take()
        assert lease.note == notes(1)[0]
        assert (await queue.statistics()).troubles == ()


async def test_one_that_fails_within_a_nursery_of_its_own_is_opened_again(autojump_clock: MockClock) -> None:
    tries = 0

    @asynccontextmanager
    async def moody() -> AsyncGenerator[Queue]:
        nonlocal tries
        tries += 1
        async with trio.open_nursery():
            if tries < 3:
                raise StoreUnavailable("no answer yet")
            async with memory_queue(VISIBILITY_TIMEOUT) as queue:
                await queue.put(notes(1))
                yield queue

    async with open_shards([("a", partial(memory_queue, 60.0)), ("b", moody)]) as queue:
        assert (await queue.statistics()).troubles == ("The queue b is down; the others do its work: no answer yet",)
        with trio.fail_after(2 * PAUSES[1]):
            assert (await queue.take()).note == notes(1)[0]


async def test_one_that_ended_by_itself_is_opened_again_and_asked_for_those_who_waited(
    autojump_clock: MockClock,
) -> None:
    ends, opened = trio.Event(), 0

    async def end() -> None:
        await ends.wait()
        raise ZeroDivisionError("a bug")

    @asynccontextmanager
    async def mortal() -> AsyncGenerator[Queue]:
        nonlocal opened
        opened += 1
        async with trio.open_nursery() as nursery, memory_queue(VISIBILITY_TIMEOUT) as queue:
            await queue.put(notes(2, first=10 * opened))
            if opened == 1:
                nursery.start_soon(end)
            yield queue

    async with open_shards([("a", partial(memory_queue, 60.0)), ("b", mortal)]) as queue:
        old = [await queue.take() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            new: list[Lease] = []

            async def take() -> None:
                new.append(await queue.take())

            nursery.start_soon(take)
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            ends.set()
            nursery.cancel_scope.deadline = trio.current_time() + 2 * PAUSES[1]
        assert {lease.note for lease in new} == set(notes(2, first=20))
        for lease in old:  # their handles are those of the new ones
            with pytest.raises(LeaseLost):
                await queue.ack(lease)
        assert (await queue.statistics()).leased == 2


@pytest.mark.parametrize("error", [ConfigError("a slip"), StoreRefused("of another program")])
async def test_one_that_must_not_be_used_refuses_the_start(error: Exception) -> None:
    @asynccontextmanager
    async def wrong() -> AsyncGenerator[Queue]:
        raise error
        yield

    with pytest.raises(type(error), match=str(error)):
        async with open_shards([("a", partial(memory_queue, 60.0)), ("b", wrong)]):
            pass


async def test_when_none_answers_the_start_is_refused() -> None:
    with pytest.raises(StoreUnavailable, match="no answer"):
        async with frail(2, down=2):
            pass


async def test_a_server_that_is_killed_costs_no_note(tmp_path: Path, mortal_redis: RedisServer) -> None:
    openings: list[tuple[str, Callable[[], object]]] = [
        ("redis", partial(redis_queue, Address("127.0.0.1", mortal_redis.port), 60.0)),
        ("file", partial(in_file, tmp_path / "q.db")),
    ]
    async with open_shards(openings) as queue:  # type: ignore[arg-type]  # each opens a queue of its own kind
        await queue.put(notes(20))
        mortal_redis.kill()
        with trio.fail_after(20):
            await queue.put(notes(20, first=21))
            early = {(await queue.take()).note for _ in range(20)}
            await trio.to_thread.run_sync(mortal_redis.start)
            found = early | {(await queue.take()).note for _ in range(20)}
        assert found == set(notes(40))
