"""What every queue must do, as async functions whose names are sentences.

    @pytest.mark.parametrize("check", QUEUE_CHECKS, ids=lambda check: check.__name__)
    async def test_the_contract(check: QueueCheck) -> None:
        await check(QueueUnderTest(open_my_queue, visibility_timeout=60.0, wait=pass_time))

Each check is to be given an empty queue. `DURABLE_QUEUE_CHECKS` open one queue several times. Where time cannot be
faked, `wait` sleeps and the visibility timeout is short.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from postman.errors import LeaseLost
from postman.mail import Id
from postman.queue import LANE_WEIGHTS, LANES, Lease, Note, Queue


@dataclass(frozen=True)
class QueueUnderTest:
    """A backend and its time.

    Attributes:
        open: opens the queue; again and again the same one.
        visibility_timeout: in seconds, of what `open` opens.
        wait: lets so many seconds pass, and what they bring happen. A short wait lets happen what is under way.
        ordered: within a lane notes come in order.
        lanes: lanes are served by weight; else all notes are in one, whatever their lane is.
    """

    open: Callable[[], AbstractAsyncContextManager[Queue]]
    visibility_timeout: float
    wait: Callable[[float], Awaitable[None]]
    ordered: bool = True
    lanes: bool = True

    async def taken(self, queue: Queue) -> list[Lease]:
        """All that can be taken now, without waiting for more."""
        leases: list[Lease] = []

        async def take() -> None:
            while True:
                leases.append(await queue.take())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await self.wait(SHORT)
            nursery.cancel_scope.cancel()
        return leases


type QueueCheck = Callable[[QueueUnderTest], Awaitable[None]]

SHORT = 0.01
"""Seconds; nothing in a queue is as short."""


def notes(count: int, lane: int = 1, first: int = 1) -> list[Note]:
    """Different notes."""
    return [Note(Id(f"0x{number:016x}"), lane, size=1_000 + number) for number in range(first, first + count)]


async def a_note_is_taken_as_it_was_put(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        put = [Note(Id("0xfffffffffffffffe"), lane, size=12_345) for lane in range(LANES)]
        await queue.put(put)
        assert sorted(_notes(await under.taken(queue)), key=_lane) == put


async def a_note_of_another_version_goes_through_untouched(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        [note] = put = [Note(Id("0x01"), 1, 10, version=7)]
        await queue.put(put)
        await queue.release((await under.taken(queue))[0])
        assert _notes(await under.taken(queue)) == [note]


async def notes_of_a_lane_come_in_order(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        for note in notes(20):
            await queue.put([note])
        await queue.put(notes(20, first=21))
        taken = _notes(await under.taken(queue))
        assert sorted(taken, key=_id) == notes(40)
        assert not under.ordered or taken == notes(40)


async def a_leased_note_is_nobody_elses(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(1))
        assert len(await under.taken(queue)) == 1
        assert await under.taken(queue) == []


async def an_acked_note_is_gone(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(1))
        await queue.ack((await under.taken(queue))[0])
        await under.wait(under.visibility_timeout)
        assert await under.taken(queue) == []


async def a_released_note_is_shown_at_once(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(1))
        await queue.release((await under.taken(queue))[0])
        assert _notes(await under.taken(queue)) == notes(1)


async def a_note_is_not_shown_before_its_delay(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(1), under.visibility_timeout)
        assert await under.taken(queue) == []
        await under.wait(under.visibility_timeout)
        [lease] = await under.taken(queue)
        await queue.release(lease, under.visibility_timeout / 2)
        assert await under.taken(queue) == []
        await under.wait(under.visibility_timeout / 2)
        [lease] = await under.taken(queue)
        await queue.ack(lease)


async def a_lease_that_is_over_is_lost_and_its_note_is_shown_again(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(1))
        [old] = await under.taken(queue)
        await under.wait(under.visibility_timeout)
        [new] = await under.taken(queue)
        assert new.note == old.note
        for answer in (queue.ack, queue.release, lambda lease: queue.bury(lease, "why")):
            await _lost(answer, old)
        assert await under.taken(queue) == [], "the new lease is untouched"
        await queue.ack(new)


async def a_lease_ends_once(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(3))
        acked, released, buried = await under.taken(queue)
        await queue.ack(acked)
        await queue.release(released, under.visibility_timeout)
        await queue.bury(buried, "no row")
        for lease in (acked, released, buried):
            await _lost(queue.ack, lease)
            await _lost(queue.release, lease)
        assert await under.taken(queue) == []


async def a_buried_note_is_never_shown_and_is_counted(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(1))
        [lease] = await under.taken(queue)
        await queue.bury(lease, "no row")
        await under.wait(under.visibility_timeout)
        assert await under.taken(queue) == []
        assert (await queue.statistics()).buried == 1


async def who_waits_is_woken_by_a_put(under: QueueUnderTest) -> None:
    async with under.open() as queue, trio.open_nursery() as nursery:
        leases: list[Lease] = []
        for _ in range(3):
            nursery.start_soon(_take_into, queue, leases)
        await under.wait(SHORT)
        await queue.put(notes(2))
        await under.wait(SHORT)
        assert sorted(_notes(leases), key=_id) == notes(2)
        await queue.put(notes(1, first=3))


async def who_waits_is_woken_by_a_delay_and_by_the_end_of_a_lease(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(1))
        await under.taken(queue)
        await queue.put(notes(1, first=2), under.visibility_timeout / 2)
        async with trio.open_nursery() as nursery:
            leases: list[Lease] = []
            nursery.start_soon(_take_into, queue, leases)
            nursery.start_soon(_take_into, queue, leases)
            await under.wait(under.visibility_timeout / 2)
            assert _notes(leases) == notes(1, first=2)
            await under.wait(under.visibility_timeout / 2)
        assert sorted(_notes(leases), key=_id) == notes(2)


async def who_waits_gets_what_another_waiter_got_and_left(under: QueueUnderTest) -> None:
    async with under.open() as queue, trio.open_nursery() as nursery:
        leases: list[Lease] = []
        nursery.start_soon(_take_into, queue, leases)
        nursery.start_soon(_take_into, queue, leases)
        await under.wait(SHORT)
        await queue.put(notes(1))
        await under.wait(SHORT)
        assert _notes(leases) == notes(1)
        await under.wait(under.visibility_timeout)
        assert _notes(leases) == notes(1) * 2


async def lanes_are_served_by_weight_and_none_starves(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        rounds = 2
        for lane in range(LANES):
            await queue.put(notes(rounds * sum(LANE_WEIGHTS), lane, first=1 + 100 * lane))
        first = [(await queue.take()).note for _ in range(rounds * sum(LANE_WEIGHTS))]
        counts = Counter(note.lane for note in first if note is not None)
        by_weight = {lane: rounds * weight for lane, weight in enumerate(LANE_WEIGHTS)}
        assert counts == by_weight or not under.lanes


async def a_cancelled_taker_leaves_its_note_to_others(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        chance, count = random.Random(5), 40
        leases: list[Lease] = []
        for number in range(count):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(_take_into, queue, leases)
                for _ in range(chance.randrange(4)):
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(queue.put, notes(1, first=1 + number))
                for _ in range(chance.randrange(4)):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        leases += await under.taken(queue)
        taken = Counter(note.id for note in _notes(leases))
        assert set(taken.values()) <= {1}, "a note went to two takers"
        missing = {note.id for note in notes(count)} - set(taken)
        assert (await queue.statistics()).leased == len(leases), "a lease went to nobody"
        await queue.put([note for note in notes(count) if note.id in missing])
        assert len(await under.taken(queue)) == len(missing)


async def statistics_count_ready_delayed_and_leased(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(3, 0) + notes(2, 2, first=4))
        await queue.put(notes(4, first=6), under.visibility_timeout)
        note = (await queue.take()).note
        assert note is not None
        statistics = await queue.statistics()
        for _ in range(100):
            if statistics.leased > 1:  # of several queues, another one's note may be on its way to nobody
                await under.wait(0)
                statistics = await queue.statistics()
        assert (statistics.delayed, statistics.leased, statistics.buried) == (4, 1, 0)
        left = {0: (2, 0, 2), 2: (3, 0, 1)}[note.lane]
        assert statistics.ready == (left if under.lanes else (0, 4, 0))
        await under.wait(under.visibility_timeout)
        assert sum((await queue.statistics()).ready) == 9


async def notes_survive_reopening_and_acked_ones_do_not_come_back(under: QueueUnderTest) -> None:
    async with under.open() as queue:
        await queue.put(notes(5))
        await queue.put(notes(1, first=6), under.visibility_timeout / 2)
        first, second, third, *_ = await under.taken(queue)
        await queue.ack(first)
        await queue.release(second)
        await queue.bury(third, "no row")
    async with under.open() as queue:
        gone = _notes([first, third])
        shown = _notes(await under.taken(queue))
        await under.wait(under.visibility_timeout)
        shown += _notes(await under.taken(queue))
        assert sorted(set(shown), key=_id) == [note for note in notes(6) if note not in gone]
        assert (await queue.statistics()).buried == 1


async def _take_into(queue: Queue, leases: list[Lease]) -> None:
    leases.append(await queue.take())


async def _lost(answer: Callable[[Lease], Awaitable[None]], lease: Lease) -> None:
    try:
        await answer(lease)
    except LeaseLost:
        return
    raise AssertionError("a lease that is over was taken for a good one")


def _notes(leases: Sequence[Lease]) -> list[Note]:
    return [lease.note for lease in leases if lease.note is not None]


def _id(note: Note) -> Id:
    return note.id


def _lane(note: Note) -> int:
    return note.lane


QUEUE_CHECKS: tuple[QueueCheck, ...] = (
    a_note_is_taken_as_it_was_put,
    a_note_of_another_version_goes_through_untouched,
    notes_of_a_lane_come_in_order,
    a_leased_note_is_nobody_elses,
    an_acked_note_is_gone,
    a_released_note_is_shown_at_once,
    a_note_is_not_shown_before_its_delay,
    a_lease_that_is_over_is_lost_and_its_note_is_shown_again,
    a_lease_ends_once,
    a_buried_note_is_never_shown_and_is_counted,
    who_waits_is_woken_by_a_put,
    who_waits_is_woken_by_a_delay_and_by_the_end_of_a_lease,
    who_waits_gets_what_another_waiter_got_and_left,
    lanes_are_served_by_weight_and_none_starves,
    a_cancelled_taker_leaves_its_note_to_others,
    statistics_count_ready_delayed_and_leased,
)
DURABLE_QUEUE_CHECKS: tuple[QueueCheck, ...] = (notes_survive_reopening_and_acked_ones_do_not_come_back,)
