"""Tasks that share a breaker; and the examples of the documentation."""

from __future__ import annotations

import doctest

import pytest
import trio
from trio.testing import MockClock

import postman.breaker
from postman.breaker import Breaker, BreakerOpen
from tests.breaker.bench import CLOSED, FATAL, HALF_OPEN, Call, blame_of, steady


async def test_a_cancelled_probe_frees_its_place(autojump_clock: MockClock) -> None:
    breaker = Breaker(faults_in_a_row=1, probe_delay=steady, clock=trio.current_time)
    with pytest.raises(ValueError, match="x"), breaker.attempt():
        raise ValueError("x")
    await trio.sleep(breaker.seconds_until_free())
    with trio.move_on_after(5) as scope, breaker.attempt():
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert (breaker.state, breaker.free) == (HALF_OPEN, 1)


async def test_of_sixty_four_tasks_one_probes(autojump_clock: MockClock) -> None:
    breaker = Breaker(is_fault=blame_of, probe_delay=steady, clock=trio.current_time)
    Call(breaker).end(FATAL)
    await trio.sleep(30)
    asked = 0

    async def ask() -> None:
        nonlocal asked
        try:
            with breaker.attempt():
                asked += 1
                await trio.sleep(1)
        except BreakerOpen:
            pass

    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(ask)
    assert asked == 1
    assert breaker.state is CLOSED
    assert breaker.statistics().refused == 63


def test_the_examples_of_the_documentation_are_true() -> None:
    results = doctest.testmod(postman.breaker)
    assert results.attempted > 0
    assert results.failed == 0
