"""Ends that come late, and who hears of a change."""

from __future__ import annotations

import pytest

from postman.breaker import Blame, Breaker, BreakerOpen, State
from tests.breaker.bench import CLOSED, FATAL, HALF_OPEN, NONE, OPEN, PROVIDER, Bench, Call, Clock, blame_of, steady


@pytest.mark.parametrize("blame", Blame)
def test_the_end_of_a_call_that_began_before_the_opening_is_ignored(bench: Bench, blame: Blame) -> None:
    late = [bench.begin() for _ in range(3)]
    bench.call(FATAL)
    late[0].end(blame)
    assert (bench.breaker.state, bench.breaker.seconds_until_free()) == (OPEN, 30)
    bench.clock.now += 30
    late[1].end(blame)
    assert (bench.breaker.state, bench.breaker.free) == (HALF_OPEN, 1)
    probe = bench.begin()
    late[2].end(blame)
    assert bench.breaker.free == 0
    probe.end(NONE)
    assert bench.breaker.statistics().faults_in_a_row == 0


def test_the_end_of_a_call_that_began_before_the_closing_is_ignored(bench: Bench) -> None:
    late = bench.begin()
    bench.call(FATAL)
    bench.clock.now += 30
    bench.call(NONE)
    late.end(FATAL)
    assert bench.breaker.state is CLOSED
    assert bench.breaker.statistics().calls == 0


def test_of_many_calls_that_fail_together_one_opens_and_the_others_are_ignored(bench: Bench) -> None:
    for call in [bench.begin() for _ in range(64)]:
        call.end(PROVIDER)
    assert bench.breaker.statistics().opened == 1
    assert bench.notices == [OPEN]


def test_the_age_counts_from_the_last_change_of_state(bench: Bench) -> None:
    bench.clock.now += 5
    assert bench.breaker.statistics().age == 5
    bench.call(FATAL)
    bench.clock.now += 20
    assert bench.breaker.statistics().age == 20
    bench.clock.now += 17
    assert bench.breaker.statistics().state is HALF_OPEN
    assert bench.breaker.statistics().age == 7


def test_statistics_hold_no_text_of_an_error() -> None:
    breaker = Breaker(faults_in_a_row=1)
    with pytest.raises(ValueError, match="secret"), breaker.attempt():
        raise ValueError("secret key of alice@example.org")
    assert "secret" not in str(breaker.statistics())
    assert "ValueError" in breaker.statistics().why


def test_who_hears_of_a_change_may_call_at_once() -> None:
    clock = Clock()
    breaker = Breaker(is_fault=blame_of, probe_delay=steady, clock=clock)
    Call(breaker).end(FATAL)
    clock.now += 30
    began: list[Call] = []
    breaker.on_change = lambda: began.append(Call(breaker))
    Call(breaker).end(NONE)
    assert len(began) == 1
    began[0].end(NONE)
    assert breaker.statistics().calls == 1


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("x"), OPEN),
        (StopIteration(1), OPEN),
        (StopAsyncIteration(), OPEN),
        (ExceptionGroup("x", [ValueError()]), OPEN),
        (BreakerOpen(1.0, "another breaker, further down"), OPEN),
        (BaseExceptionGroup("x", [KeyboardInterrupt()]), CLOSED),
        (KeyboardInterrupt(), CLOSED),
        (SystemExit(3), CLOSED),
        (GeneratorExit(), CLOSED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_every_exception_passes_through_unchanged(error: BaseException, state: State) -> None:
    breaker = Breaker(faults_in_a_row=1)
    with pytest.raises(BaseException) as caught, breaker.attempt():  # noqa: PT011  # of any kind
        raise error
    assert caught.value is error
    assert caught.value.__context__ is None
    assert breaker.state is state
