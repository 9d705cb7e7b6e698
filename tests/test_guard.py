"""The critical section: what may cut it, when, and what its owner is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from postman.guard import WRITE_TIME, Cut, Guard


class Work:
    """A delivery in miniature: a call, then the writing of its end; notes when what ended and by what."""

    def __init__(self, guard: Guard, *, call: float = 0.0, write: float = 0.0, timeout: float = math.inf) -> None:
        self.guard = guard
        self.call = call
        self.write = write
        self.timeout = timeout
        self.call_ended = self.hold_ended = math.nan
        self.call_cut: Cut | None = None
        self.hold_cut: Cut | None = None
        self.written = False

    async def run(self) -> None:
        started = trio.current_time()
        with self.guard.hold() as hold:
            with hold.call(self.timeout) as call:
                await trio.sleep(self.call)
            self.call_ended = trio.current_time() - started
            self.call_cut = call.cut
            await trio.sleep(self.write)
            self.written = True
        self.hold_ended = trio.current_time() - started
        self.hold_cut = hold.cut


async def after(seconds: float, act: Callable[[], None]) -> None:
    await trio.sleep(seconds)
    act()


async def test_a_cancellation_from_outside_waits_for_the_end_of_the_hold(
    autojump_clock: MockClock,
) -> None:
    work = Work(Guard(), call=10, write=5)
    reached = False
    with trio.move_on_after(1) as outside:
        await work.run()
        reached = True
        await trio.lowlevel.checkpoint()
        pytest.fail("this checkpoint is cancelled")  # pragma: no cover
    assert reached
    assert outside.cancelled_caught
    assert (work.call_ended, work.hold_ended, work.call_cut, work.written) == (10, 15, None, True)


async def test_the_crash_of_a_neighbour_does_not_cut_a_hold(autojump_clock: MockClock) -> None:
    work = Work(Guard(), call=10, write=5)

    async def crash() -> None:
        await trio.sleep(1)
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.run)
            nursery.start_soon(crash)
    assert work.written
    assert work.hold_ended == 15


async def test_a_call_is_cut_by_its_own_timeout_and_its_end_is_written(autojump_clock: MockClock) -> None:
    work = Work(Guard(), call=100, write=5, timeout=25)
    await work.run()
    assert (work.call_ended, work.call_cut) == (25, Cut.TIMEOUT)
    assert (work.hold_ended, work.hold_cut, work.written) == (30, None, True)


@pytest.mark.parametrize(
    ("call", "write", "patience", "ends"),
    [
        pytest.param(1, 1, 25, (1, None, 2, None), id="a fast delivery ends by itself"),
        pytest.param(9, 2, 25, (9, None, 11, None), id="a call that ends within grace may write beyond it"),
        pytest.param(99, 1, math.inf, (10, Cut.DRAIN, 11, None), id="a hanging call is cut and its end written"),
        pytest.param(99, 1, 5, (5, Cut.TIMEOUT, 6, None), id="a timeout before the deadline is a timeout"),
        pytest.param(99, 1, 25, (10, Cut.DRAIN, 11, None), id="a timeout after the deadline is not"),
        pytest.param(99, 99, 25, (10, Cut.DRAIN, 11.5, Cut.DRAIN), id="a hanging write is cut at grace and 1.5 s"),
        pytest.param(1, 99, 25, (1, None, 11.5, Cut.DRAIN), id="also after a call that ended by itself"),
    ],
)
async def test_a_drain_of_10_seconds(
    autojump_clock: MockClock,
    call: float,
    write: float,
    patience: float,
    ends: tuple[object, ...],
) -> None:
    guard = Guard()
    work = Work(guard, call=call, write=write, timeout=patience)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.run)
        guard.drain(10)
    assert (work.call_ended, work.call_cut, work.hold_ended, work.hold_cut) == ends
    assert work.written == (work.hold_cut is None)
    assert guard.held == 0


async def test_a_drain_counts_from_when_it_was_asked_for(autojump_clock: MockClock) -> None:
    guard = Guard()
    work = Work(guard, call=99)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.run)
        nursery.start_soon(after, 3, partial(guard.drain, 10))
        await trio.sleep(2)
        assert not guard.draining
        await trio.sleep(2)
        assert guard.draining
    assert work.call_ended == 13


@pytest.mark.parametrize(("second", "end"), [(2, 5), (20, 10), (0, 3), (-1, 3), (math.inf, 10)])
async def test_of_two_drains_the_earlier_deadline_counts(autojump_clock: MockClock, second: float, end: float) -> None:
    guard = Guard()
    work = Work(guard, call=99, write=99)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.run)
        guard.drain(10)
        nursery.start_soon(after, 3, partial(guard.drain, second))
    assert (work.call_ended, work.call_cut) == (end, Cut.DRAIN)
    assert work.hold_ended == end + WRITE_TIME


async def test_a_drain_without_grace_cuts_calls_at_once_and_leaves_time_to_write(autojump_clock: MockClock) -> None:
    guard = Guard()
    work = Work(guard, call=99, write=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.run)
        await wait_all_tasks_blocked()
        guard.drain(0)
    assert (work.call_ended, work.call_cut, work.written) == (0, Cut.DRAIN, True)


async def test_a_drain_without_end_cuts_nothing(autojump_clock: MockClock) -> None:
    guard = Guard()
    guard.drain(math.inf)
    work = Work(guard, call=1000, write=1000)
    await work.run()
    assert guard.draining
    assert work.written


async def test_a_hold_begun_while_draining_has_the_same_deadline(autojump_clock: MockClock) -> None:
    guard = Guard()
    guard.drain(10)
    await trio.sleep(4)
    work = Work(guard, call=99, write=1)
    await work.run()
    assert (work.call_ended, work.call_cut, work.written) == (6, Cut.DRAIN, True)


async def test_a_call_begun_after_the_deadline_is_cut_at_its_first_checkpoint(autojump_clock: MockClock) -> None:
    guard = Guard()
    guard.drain(0)
    await trio.sleep(1)
    work = Work(guard, call=99, write=0.25)
    await work.run()
    assert (work.call_ended, work.call_cut, work.written) == (0, Cut.DRAIN, True)


async def test_a_hold_begun_after_all_deadlines_is_cut_at_its_first_checkpoint(autojump_clock: MockClock) -> None:
    guard = Guard()
    guard.drain(0)
    await trio.sleep(2)
    with guard.hold() as hold:
        began = True
        await trio.lowlevel.checkpoint()
        pytest.fail("this checkpoint is cancelled")  # pragma: no cover
    assert began
    assert hold.cut is Cut.DRAIN


async def test_a_drain_cuts_though_the_outside_is_cancelled_too(autojump_clock: MockClock) -> None:
    guard = Guard()
    work = Work(guard, call=99, write=99)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        guard.drain(10)
    assert (work.call_ended, work.call_cut) == (10, Cut.DRAIN)
    assert trio.current_time() == 11.5


async def test_a_second_call_in_one_hold_has_a_timeout_of_its_own(autojump_clock: MockClock) -> None:
    with Guard().hold() as hold:
        with hold.call(timeout=5) as first:
            await trio.sleep(99)
        with hold.call(timeout=5) as second:
            await trio.sleep(4)
    assert (first.cut, second.cut, hold.cut) == (Cut.TIMEOUT, None, None)
    assert trio.current_time() == 9


async def test_a_call_that_ends_past_its_deadline_without_a_checkpoint_was_not_cut(autojump_clock: MockClock) -> None:
    with Guard().hold() as hold, hold.call(timeout=5) as call:
        autojump_clock.jump(6)
    assert call.cut is None


async def test_a_drain_while_a_timed_out_call_cleans_up_does_not_change_what_cut_it(
    autojump_clock: MockClock,
) -> None:
    guard = Guard()

    async def deliver() -> Cut | None:
        with guard.hold() as hold, hold.call(timeout=5) as call:
            try:
                await trio.sleep(99)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(2)
        return call.cut

    async with trio.open_nursery() as nursery:
        nursery.start_soon(after, 6, partial(guard.drain, 0))
        assert await deliver() is Cut.TIMEOUT


async def test_a_hold_that_is_cut_within_a_call_ends_as_a_whole(autojump_clock: MockClock) -> None:
    guard = Guard()
    guard.drain(1)
    with guard.hold() as hold:
        with hold.call() as call:
            try:
                await trio.sleep(99)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)  # a plugin that hangs in its cleaning up
        await trio.lowlevel.checkpoint()
        pytest.fail("the hold was cut")  # pragma: no cover
    assert hold.cut is Cut.DRAIN
    assert call.cut is None


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), BaseExceptionGroup("x", [SystemExit(1)])])
async def test_an_exception_leaves_call_and_hold_unchanged(autojump_clock: MockClock, error: BaseException) -> None:
    guard = Guard()
    with pytest.raises(BaseException) as caught, guard.hold() as hold, hold.call(1) as call:  # noqa: PT011  # any kind
        raise error
    assert caught.value is error
    assert (call.cut, hold.cut, guard.held) == (None, None, 0)


async def test_an_exception_beside_a_cancellation_is_not_swallowed(autojump_clock: MockClock) -> None:
    async def clean_up_badly() -> None:
        try:
            await trio.sleep(99)
        finally:
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError), Guard().hold() as hold, hold.call(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up_badly)
            nursery.start_soon(trio.sleep, 99)


async def test_entering_and_leaving_are_no_checkpoints(autojump_clock: MockClock) -> None:
    guard = Guard()
    with trio.testing.assert_no_checkpoints():
        with guard.hold() as hold, hold.call(1):
            pass
        guard.drain(1)


async def test_a_hold_may_not_be_entered_twice(autojump_clock: MockClock) -> None:
    guard = Guard()
    hold = guard.hold()
    with hold:
        pass
    with pytest.raises(RuntimeError), hold:
        pass
    assert guard.held == 0


async def test_who_waits_for_idleness_wakes_when_the_last_hold_ends(autojump_clock: MockClock) -> None:
    guard = Guard()
    async with trio.open_nursery() as nursery:
        for seconds in (1, 7, 3):
            nursery.start_soon(Work(guard, call=seconds).run)
        await wait_all_tasks_blocked()
        assert guard.held == 3
        await guard.wait_idle()
        assert trio.current_time() == 7
        assert guard.held == 0


async def test_who_waits_for_idleness_waits_on_when_a_new_hold_begins_at_that_moment(autojump_clock: MockClock) -> None:
    guard = Guard()

    async def one_after_the_other() -> None:
        await Work(guard, call=2).run()
        with guard.hold():  # no checkpoint between
            await trio.sleep(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_after_the_other)
        await wait_all_tasks_blocked()
        await guard.wait_idle()
        assert trio.current_time() == 4


async def test_who_waits_for_idleness_may_be_cancelled_and_never_waits_for_nothing(autojump_clock: MockClock) -> None:
    guard = Guard()
    with trio.testing.assert_checkpoints():
        await guard.wait_idle()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Work(guard, call=9).run)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as waiting:
            await guard.wait_idle()
        assert waiting.cancelled_caught


@given(
    works=st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=30),
    drain_at=st.integers(0, 20),
    grace=st.integers(0, 20),
)
@settings(max_examples=60, deadline=None)
def test_nothing_outlasts_a_drain_and_nothing_is_cut_before_it(
    works: list[tuple[int, int, int]], drain_at: int, grace: int
) -> None:
    end = drain_at + grace + 0.25  # fractions keep what ends a call apart

    async def main() -> None:
        guard = Guard()
        all_work = [Work(guard, call=call, write=write, timeout=timeout + 0.5) for call, write, timeout in works]
        async with trio.open_nursery() as nursery:
            for work in all_work:
                nursery.start_soon(work.run)
            nursery.start_soon(after, drain_at, partial(guard.drain, grace + 0.25))
            await wait_all_tasks_blocked()
            await guard.wait_idle()
        assert not guard._sections
        for work in all_work:
            assert work.call_ended == min(work.call, work.timeout, end)
            cut = {work.call: None, work.timeout: Cut.TIMEOUT, end: Cut.DRAIN}[work.call_ended]
            assert work.call_cut is cut
            assert work.hold_ended == min(work.call_ended + work.write, end + WRITE_TIME)
            assert work.written == (work.hold_cut is None)

    trio.run(main, clock=MockClock(autojump_threshold=0))
