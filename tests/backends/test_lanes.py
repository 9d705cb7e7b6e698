from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from postman.backends.lanes import WINDOW, Entry, Lanes, Place
from postman.errors import LeaseLost, StoreUnavailable
from postman.mail import Id
from postman.queue import Note


class Shelf:
    """A store of notes in memory, beside the lanes: it answers `refill` when it is told to."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.taken: list[Entry] = []
        self.asked: list[tuple[int, Place]] = []
        self.lanes = Lanes(60.0, refill=lambda lane, after: self.asked.append((lane, after)))
        assert not self.asked, "nobody could use an answer yet"
        self.lanes.prefetch()

    def put(self, due: float) -> None:
        entry = Entry(due, len(self.entries), Note(Id(f"0x{len(self.entries):x}")))
        self.entries.append(entry)
        self.lanes.show([entry])

    def answer(self) -> None:
        lane, after = self.asked.pop(0)
        behind = sorted(
            entry for entry in set(self.entries) - set(self.taken) if entry.note.lane == lane and entry.place > after
        )
        self.lanes.fill(lane, after, behind[:WINDOW], more=len(behind) > WINDOW)

    def take(self, count: int) -> None:
        while len(self.taken) < count:
            lease = self.lanes._next_lease()
            if lease is not None:
                self.taken.append(self.lanes.end(lease))
            elif self.asked:
                self.answer()
            else:
                return

    def is_empty_and_gave_each_note_once(self) -> bool:
        self.take(10 * len(self.entries))
        return sorted(self.taken) == sorted(self.entries)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=4 * WINDOW // 100), st.integers(0, 3 * WINDOW))
def test_every_note_is_taken_once_whenever_the_store_answers(answers: list[int], count: int) -> None:
    async def main() -> None:
        shelf = Shelf()
        for number in range(count):
            shelf.put(number % 7 - 7.0)
            if number % 100 == 0 and answers:
                for _ in range(min(answers.pop(), len(shelf.asked))):
                    shelf.answer()
        assert shelf.is_empty_and_gave_each_note_once()

    trio.run(main, clock=MockClock())


async def test_memory_holds_a_window_of_a_lane() -> None:
    shelf = Shelf()
    while shelf.asked:
        shelf.answer()
    for number in range(5 * WINDOW):
        shelf.put(float(-number))  # each before all others, so each belongs into the window
    lane = shelf.lanes._lanes[1]
    assert WINDOW <= len(lane.ready) <= 2 * WINDOW
    assert shelf.lanes.statistics(0).ready == (0, 5 * WINDOW, 0)
    assert shelf.is_empty_and_gave_each_note_once()


async def test_an_answer_that_came_after_the_window_was_shrunk_is_not_used() -> None:
    shelf = Shelf()
    for number in range(3 * WINDOW):
        shelf.put(-1_000.0 + number / 1_000)
    while shelf.asked:
        shelf.answer()
    shelf.take(WINDOW - 10)
    assert shelf.asked
    for number in range(2 * WINDOW):
        shelf.put(-5_000.0 + number / 1_000)
    shelf.answer()
    assert shelf.is_empty_and_gave_each_note_once()


async def test_who_waits_is_told_when_the_store_does_not_answer_and_may_ask_again() -> None:
    shelf = Shelf()
    shelf.put(-1.0)
    asked = len(shelf.asked)
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            with pytest.raises(StoreUnavailable):
                await shelf.lanes.take()

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        shelf.lanes.fail(1, StoreUnavailable("down"))
    assert shelf.lanes._next_lease() is None
    assert len(shelf.asked) == asked + 1


async def test_lanes_take_turns_smoothly() -> None:
    lanes = Lanes(60.0)
    lanes.show([Entry(0.0, 100 * lane + number, Note(Id("0x1"), lane)) for lane in range(3) for number in range(42)])
    served = [lease.note.lane for _ in range(21) if (lease := await lanes.take()).note is not None]
    assert served.index(1) < 5, "normal does not wait for a row of high ones"
    assert 5 < served.index(2) < 15


async def test_a_lease_belongs_to_its_queue_alone() -> None:
    lanes, others = Lanes(60.0), Lanes(60.0)
    lanes.show([Entry(0.0, 1, Note(Id("0x1")))])
    lease = await lanes.take()
    with pytest.raises(LeaseLost):
        others.end(lease)
    assert lanes.end(lease).note == lease.note
