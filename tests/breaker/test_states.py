"""Closed, open, half-open: what may begin, and what each end of a call leads to."""

from __future__ import annotations

import math

import pytest

from postman.breaker import Blame, BreakerOpen, State
from tests.breaker.bench import CLOSED, FATAL, HALF_OPEN, NEITHER, NONE, OPEN, PROVIDER, Bench


@pytest.mark.parametrize(
    ("before", "blame", "after", "opened_in_a_row"),
    [
        (CLOSED, NONE, CLOSED, 0),
        (CLOSED, PROVIDER, CLOSED, 0),
        (CLOSED, FATAL, OPEN, 1),
        (CLOSED, NEITHER, CLOSED, 0),
        (HALF_OPEN, NONE, CLOSED, 0),
        (HALF_OPEN, PROVIDER, OPEN, 2),
        (HALF_OPEN, FATAL, OPEN, 2),
        (HALF_OPEN, NEITHER, HALF_OPEN, 1),
    ],
)
def test_each_end_of_a_call_in_each_state(
    bench: Bench, before: State, blame: Blame, after: State, opened_in_a_row: int
) -> None:
    bench.bring_to(before)
    bench.call(blame)
    assert bench.breaker.state is after
    assert bench.breaker.statistics().opened_in_a_row == opened_in_a_row
    changed = after is not before or before is HALF_OPEN
    assert bench.notices == ([after] if changed else [])


@pytest.mark.parametrize(("state", "free", "seconds"), [(CLOSED, math.inf, 0.0), (OPEN, 0, 30.0), (HALF_OPEN, 1, 0.0)])
def test_how_many_calls_may_begin_in_each_state_and_when(
    bench: Bench, state: State, free: float, seconds: float
) -> None:
    bench.bring_to(state)
    assert (bench.breaker.free, bench.breaker.seconds_until_free()) == (free, seconds)


def test_an_open_breaker_refuses_and_says_how_long_and_why(bench: Bench) -> None:
    bench.bring_to(OPEN)
    bench.clock.now += 10
    with pytest.raises(BreakerOpen) as caught:
        bench.begin()
    assert caught.value.seconds == 20
    assert str(caught.value) == "not asked: a fault that needs a person, the last Ended; again in 20.0 s"
    assert bench.breaker.statistics().refused == 1


def test_half_open_lets_one_probe_through_at_a_time(bench: Bench) -> None:
    bench.bring_to(HALF_OPEN)
    probe = bench.begin()
    assert (bench.breaker.free, bench.breaker.seconds_until_free()) == (0, math.inf)
    with pytest.raises(BreakerOpen, match="again when the probe under way succeeds") as caught:
        bench.begin()
    assert caught.value.seconds == math.inf
    probe.end(NONE)
    assert bench.breaker.free == math.inf


def test_a_probe_that_says_nothing_frees_its_place_for_the_next(bench: Bench) -> None:
    bench.bring_to(HALF_OPEN)
    bench.call(NEITHER, NEITHER)
    assert (bench.breaker.free, bench.breaker.seconds_until_free()) == (1, 0.0)
    assert bench.notices == [HALF_OPEN, HALF_OPEN]


@pytest.mark.parametrize("state", State)
def test_a_reset_closes_in_each_state_and_forgets(bench: Bench, state: State) -> None:
    bench.bring_to(state)
    bench.breaker.reset()
    assert bench.notices == [CLOSED]
    bench.call(PROVIDER, PROVIDER, PROVIDER, PROVIDER)
    assert bench.breaker.state is CLOSED
    bench.call(PROVIDER)
    assert bench.breaker.seconds_until_free() == 30


def test_a_reset_during_a_probe_makes_its_end_meaningless(bench: Bench) -> None:
    bench.bring_to(HALF_OPEN)
    probe = bench.begin()
    bench.breaker.reset()
    assert (bench.breaker.free, bench.breaker.seconds_until_free()) == (math.inf, 0.0)
    probe.end(FATAL)
    assert bench.breaker.state is CLOSED
