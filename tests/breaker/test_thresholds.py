"""How many faults open a breaker."""

from __future__ import annotations

import pytest

from postman.breaker import BreakerStatistics
from tests.breaker.bench import CLOSED, NEITHER, NONE, OPEN, PROVIDER, Bench


def test_the_fifth_fault_in_a_row_opens(bench: Bench) -> None:
    bench.call(NONE, PROVIDER, PROVIDER, PROVIDER, PROVIDER)
    assert bench.breaker.state is CLOSED
    bench.call(PROVIDER)
    assert bench.breaker.state is OPEN
    assert bench.breaker.statistics().why == "5 faults in a row, the last Ended"


def test_a_success_ends_a_row_and_silence_does_not(bench: Bench) -> None:
    bench.call(*[PROVIDER] * 4, NONE, *[PROVIDER] * 4)
    assert bench.breaker.state is CLOSED
    bench.call(NEITHER, PROVIDER)
    assert bench.breaker.state is OPEN


def test_half_of_twenty_calls_opens(bench: Bench) -> None:
    bench.call(*[NONE, PROVIDER] * 9, NONE)
    assert bench.breaker.state is CLOSED
    bench.call(PROVIDER)
    assert bench.breaker.state is OPEN
    assert bench.breaker.statistics().why == "10 faults in 20 calls within 30 s, the last Ended"


def test_nineteen_calls_are_too_few_for_a_share(bench: Bench) -> None:
    bench.call(*[PROVIDER, PROVIDER, NONE] * 6, PROVIDER)
    assert bench.breaker.statistics().calls == 19
    assert bench.breaker.state is CLOSED
    bench.call(PROVIDER)
    assert bench.breaker.state is OPEN


def test_less_than_half_does_not_open_however_long(bench: Bench) -> None:
    bench.call(*[PROVIDER, NONE, NONE] * 100)
    assert bench.breaker.state is CLOSED


def test_what_is_older_than_the_window_does_not_count(bench: Bench) -> None:
    bench.call(*[PROVIDER, NONE] * 9)
    bench.clock.now += 30
    bench.call(*[PROVIDER, NONE] * 9)
    assert (bench.breaker.statistics().calls, bench.breaker.statistics().faults) == (18, 9)
    assert bench.breaker.state is CLOSED


def test_what_is_a_little_younger_than_the_window_counts(bench: Bench) -> None:
    bench.call(*[PROVIDER, NONE] * 9)
    bench.clock.now += 28.9
    bench.call(NONE, PROVIDER)
    assert bench.breaker.state is OPEN


def test_how_many_of_how_many_calls_within_how_long_open_it_is_its_owners_to_say() -> None:
    bench = Bench(faults_in_a_row=99, window=3.0, least_calls=4, fault_share=0.75)
    bench.call(*[PROVIDER] * 3)
    bench.clock.now += 3
    bench.call(NONE, PROVIDER, NONE, *[PROVIDER] * 4)
    assert bench.breaker.state is CLOSED
    bench.call(PROVIDER)
    assert bench.breaker.statistics().why == "6 faults in 8 calls within 3 s, the last Ended"


def test_a_row_of_faults_has_no_window(bench: Bench) -> None:
    for _ in range(5):
        bench.call(PROVIDER)
        bench.clock.now += 3600
    assert bench.breaker.statistics().opened == 1


def test_a_window_takes_no_more_room_for_more_calls(bench: Bench) -> None:
    for _ in range(20_000):
        bench.call(NONE)
        bench.clock.now += 0.01
    assert len(bench.breaker._window._ends) <= 30
    assert bench.breaker.statistics().calls == pytest.approx(3_000, rel=1 / 30)


def test_an_idle_breaker_starts_afresh_after_closing(bench: Bench) -> None:
    bench.call(*[NONE, PROVIDER] * 10)
    bench.clock.now += 31
    bench.call(NONE)
    assert bench.breaker.statistics() == BreakerStatistics(
        state=CLOSED, age=0.0, why="", faults_in_a_row=0, calls=0, faults=0, opened_in_a_row=0, opened=1, refused=0
    )
