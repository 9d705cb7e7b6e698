"""When to probe is the user's, and whose fault an error is; their bugs are heard."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from postman.breaker import Blame, Breaker, BreakerStatistics, linear_delay
from tests.breaker.bench import CLOSED, FATAL, HALF_OPEN, NONE, OPEN, PROVIDER, Bench, Clock, Ended, steady


def test_the_delay_grows_with_each_failed_probe_and_begins_anew_after_a_success(bench: Bench) -> None:
    delays = []
    bench.call(FATAL)
    for _ in range(12):
        delays.append(bench.breaker.seconds_until_free())
        bench.clock.now += delays[-1]
        bench.call(PROVIDER)
    assert delays == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    bench.clock.now += 300
    bench.call(NONE, FATAL)
    assert bench.breaker.seconds_until_free() == 30


@pytest.mark.parametrize(("n", "middle"), [(1, 30), (2, 60), (10, 300), (1_000, 300)])
def test_the_default_delay_keeps_within_a_tenth(n: int, middle: float) -> None:
    bench = Bench(probe_delay=lambda statistics: float(statistics.opened_in_a_row))
    bench.call(FATAL)
    opened = replace(bench.breaker.statistics(), opened_in_a_row=n)
    assert linear_delay(chance=lambda: 0.0)(opened) == pytest.approx(middle * 0.9)
    assert linear_delay(chance=lambda: 1.0)(opened) == pytest.approx(middle * 1.1)
    delays = {linear_delay()(opened) for _ in range(50)}
    assert len(delays) > 1
    assert all(middle * 0.9 <= delay <= middle * 1.1 for delay in delays)


def test_the_delay_is_asked_with_the_statistics_after_the_opening() -> None:
    asked: list[BreakerStatistics] = []

    def delay(statistics: BreakerStatistics) -> float:
        asked.append(statistics)
        return 7.0

    bench = Bench(probe_delay=delay)
    bench.call(PROVIDER, NONE, FATAL)
    assert bench.breaker.seconds_until_free() == 7
    assert asked == [
        BreakerStatistics(
            state=OPEN,
            age=0.0,
            why="a fault that needs a person, the last Ended",
            faults_in_a_row=1,
            calls=3,
            faults=2,
            opened_in_a_row=1,
            opened=1,
            refused=0,
        )
    ]


@pytest.mark.parametrize("nonsense", [-5.0, 0.0, math.nan])
def test_a_delay_that_makes_no_sense_is_none(nonsense: float) -> None:
    bench = Bench(probe_delay=lambda _: nonsense)
    bench.call(FATAL)
    assert bench.breaker.state is HALF_OPEN


def test_a_delay_without_end_waits_for_a_reset() -> None:
    bench = Bench(probe_delay=lambda _: math.inf)
    bench.call(FATAL)
    bench.clock.now += 1e9
    assert bench.breaker.state is OPEN
    bench.breaker.reset()
    bench.call(NONE)


def test_a_bug_in_probe_delay_is_heard_and_does_not_lock_the_breaker() -> None:
    def bug(_: BreakerStatistics) -> float:
        raise ZeroDivisionError

    bench = Bench(probe_delay=bug)
    with pytest.raises(ZeroDivisionError), bench.breaker.attempt():
        raise Ended(FATAL)
    assert bench.notices == [HALF_OPEN]
    bench.call(NONE)
    assert bench.breaker.state is CLOSED


def test_a_bug_in_is_fault_is_heard_and_frees_the_place_of_the_probe() -> None:
    clock = Clock()

    def bug(error: BaseException) -> Blame:
        return FATAL if isinstance(error, KeyError) else Blame[str(error)]

    breaker = Breaker(is_fault=bug, probe_delay=steady, clock=clock)
    with pytest.raises(KeyError, match="first"), breaker.attempt():
        raise KeyError("first")
    clock.now += 30
    with pytest.raises(KeyError, match="unheard of"), breaker.attempt():
        raise ValueError("unheard of")
    assert (breaker.state, breaker.free) == (HALF_OPEN, 1)
