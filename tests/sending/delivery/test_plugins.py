"""Whatever a plugin does, and however long it takes, its call ends in the closed list."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import memory_queue
from postman.errors import ProviderUnavailable
from postman.provider import Attempt, Receipt
from postman.row import State
from postman.sending.postbox import Postbox
from tests.sending.delivery.bench import (
    LETTER,
    Bench,
    Deed,
    Scripted,
    accept,
    bench,
    carrier,
    fail,
    hang,
    hang_after_hand_over,
    trio_now,
)


async def return_nothing(attempt: Attempt) -> None:
    attempt.starting()
    attempt.handed_over()


@pytest.mark.parametrize("bug", [KeyError("x"), MemoryError(), RecursionError(), SystemExit(1), KeyboardInterrupt()])
@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_plugin_s_crash_of_any_kind_ends_neither_worker_nor_letter(
    autojump_clock: MockClock, bug: BaseException, handed_over: bool
) -> None:
    buggy, other = Scripted(fail(bug, handed_over=handed_over)), Scripted()
    async with bench(buggy=buggy) as b:
        b.postbox = Postbox([*b.carriers, carrier("other", other, weight=0)], 1)
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, other.asked) == ((State.IN_DOUBT, 0) if handed_over else (State.SENT, 1))
        assert any(f"bug in the plugin of buggy: {type(bug).__name__}" in entry.reason for entry in row.history)
        assert b.carriers[0].breaker.statistics().faults_in_a_row == (1 if handed_over else 0)
        assert b.carriers[0].statistics().bug == type(bug).__name__, "the status tells"


async def test_a_plugin_that_makes_no_marks_may_have_sent_all_when_it_crashes(autojump_clock: MockClock) -> None:
    async def crash(_: Attempt) -> None:
        raise KeyError("x")

    async with memory_queue(60.0) as queue:
        b = Bench(queue, MemoryLedger(None, trio_now), {"a": Scripted(crash), "b": Scripted()}, marks=False)
        b.postbox = Postbox(b.carriers[:1], 1)
        await b.post()
        await b.deliver()
        assert (await b.row()).state is State.IN_DOUBT


async def test_a_plugin_that_returns_no_receipt_leaves_doubt(autojump_clock: MockClock) -> None:
    async with bench(a=Scripted(return_nothing)) as b:
        await b.post()
        await b.deliver()
        assert (await b.row()).state is State.IN_DOUBT


async def fails_in_a_nursery(attempt: Attempt) -> Receipt:
    attempt.starting()
    async with trio.open_nursery():
        raise ProviderUnavailable("connection refused")


async def test_an_outcome_from_a_plugin_s_nursery_is_that_outcome(autojump_clock: MockClock) -> None:
    async with bench(a=Scripted(fails_in_a_nursery)) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.refusals, row.history[-1].reason) == (State.QUEUED, {}, "connection refused")


def hang_in_a_nursery(*, handed_over: bool) -> Deed:
    async def deed(attempt: Attempt) -> Receipt:
        attempt.starting()
        if handed_over:
            attempt.handed_over()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
        raise AssertionError

    return deed


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_plugin_cut_in_its_own_nursery_has_no_bug(
    autojump_clock: MockClock, handed_over: bool, drained: bool
) -> None:
    async with bench(a=Scripted(hang_in_a_nursery(handed_over=handed_over))) as b:
        await b.post()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.deliver)
            await trio.sleep(1)
            if drained:
                b.guard.drain(1)
        row = await b.row()
        assert (row.state, row.refusals) == (State.IN_DOUBT if handed_over else State.QUEUED, {})
        assert b.carriers[0].breaker.statistics().faults_in_a_row == (0 if drained else 1)


async def test_a_call_without_an_answer_in_time_is_in_doubt(autojump_clock: MockClock) -> None:
    async with bench(a=Scripted(hang_after_hand_over)) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.history[-1].phase) == (State.IN_DOUBT, "handed-over")
        assert b.carriers[0].statistics().unknown == 1


async def test_a_call_that_handed_nothing_over_in_time_goes_to_the_next(autojump_clock: MockClock) -> None:
    slow, other = Scripted(hang), Scripted()
    async with bench(slow=slow) as b:
        b.postbox = Postbox([*b.carriers, carrier("other", other, weight=0)], 1)
        await b.post()
        await b.deliver()
        assert ((await b.row()).state, other.accepted) == (State.SENT, [LETTER])


async def test_a_call_whose_lease_is_over_before_the_first_byte_is_not_begun(autojump_clock: MockClock) -> None:
    async def too_late(attempt: Attempt) -> Receipt:
        attempt._lease_ends = trio.current_time()
        return await accept(attempt)

    async with bench(a=Scripted(too_late)) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.attempts, b.carriers[0].breaker.statistics().faults) == (State.QUEUED, 0, 0)
        await b.deliver()
        assert (await b.row()).state is State.SENT


async def test_a_plugin_without_marks_is_not_asked_after_the_lease(autojump_clock: MockClock) -> None:
    class Slow(MemoryLedger):
        async def claim(self, *args: object, **named: object) -> object:  # type: ignore[override]  # only watched
            claim = await super().claim(*args, **named)  # type: ignore[arg-type]  # passed on
            await trio.sleep(30)
            return claim

    provider = Scripted()
    async with memory_queue(60.0) as queue:
        b = Bench(queue, Slow(None, trio_now), {"a": provider}, marks=False)
        await b.post()
        await b.deliver()
        assert ((await b.row()).state, provider.asked) == (State.QUEUED, 0)
