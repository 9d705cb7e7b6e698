from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from postman.backends.sqs.batches import CALLS, FULL, LATE, Batches, Entry
from postman.errors import StoreError, StoreUnavailable


class Calls:
    """What is called: each call waits until it is let go."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = trio.Event()
        self.wrong: StoreError | None = None

    async def __call__(self, entries: Sequence[Entry]) -> Sequence[StoreError | None]:
        self.sizes.append(len(entries))
        await self.go.wait()
        return [self.wrong if entry.get("wrong") else None for entry in entries]


@pytest.fixture
async def calls() -> Calls:
    return Calls()


@pytest.fixture
async def batches(calls: Calls) -> AsyncGenerator[Batches]:
    async with trio.open_nursery() as nursery:
        yield Batches(calls, nursery)
        nursery.cancel_scope.cancel()


async def test_the_first_goes_at_once_and_what_comes_meanwhile_goes_together(calls: Calls, batches: Batches) -> None:
    groups = [batches.submit([{}]) for _ in range(8)]
    await trio.testing.wait_all_tasks_blocked()
    assert calls.sizes == [1]
    calls.go.set()
    for group in groups:
        await group.wait()
    assert calls.sizes == [1, 7]


async def test_full_calls_do_not_wait_for_others_up_to_a_number(calls: Calls, batches: Batches) -> None:
    group = batches.submit([{}] * (FULL * CALLS + 13))
    await trio.testing.wait_all_tasks_blocked()
    assert calls.sizes == [FULL] * CALLS
    calls.go.set()
    await group.wait()
    assert sum(calls.sizes) == FULL * CALLS + 13


async def test_a_call_that_hangs_does_not_hold_others_up_for_long(
    calls: Calls, batches: Batches, autojump_clock: MockClock
) -> None:
    batches.submit([{}])
    for _ in range(3):
        batches.submit([{}] * 2)
        await trio.sleep(1.5 * LATE)
    assert calls.sizes == [1, 2, 2, 2]


async def test_who_waits_is_told_of_its_own_entries_when_all_were_tried(calls: Calls, batches: Batches) -> None:
    calls.wrong = StoreUnavailable("why", may_have_happened=True)
    good, bad = batches.submit([{}] * 4), batches.submit([{"wrong": True}, *[{}] * 4])
    calls.go.set()
    await good.wait()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="why") as caught:
            await bad.wait()
        assert caught.value.may_have_happened
        assert caught.value is not calls.wrong
    assert sum(calls.sizes) == 9


async def test_the_entries_of_a_caller_that_left_are_done(calls: Calls, batches: Batches) -> None:
    with trio.move_on_after(0):
        await batches.submit([{}]).wait()
    calls.go.set()
    await batches.wait_idle()
    assert calls.sizes == [1]


async def test_who_waits_when_everything_ends_is_told(calls: Calls) -> None:
    async with trio.open_nursery() as outer:

        async def wait(batches: Batches) -> None:
            with pytest.raises(StoreUnavailable, match="closed"):
                await batches.submit([{}] * (CALLS * FULL + 1)).wait()

        async with trio.open_nursery() as inner:
            outer.start_soon(wait, Batches(calls, inner))
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
