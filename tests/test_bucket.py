from __future__ import annotations

import doctest

from hypothesis import given, settings
from hypothesis import strategies as st

from postman import bucket
from postman.bucket import Bucket


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(bucket).attempted == 3
    assert doctest.testmod(bucket).failed == 0


def test_tokens_come_back_with_time_and_never_beyond_the_size() -> None:
    clock = Clock()
    spent = Bucket(2, 4, clock)
    spent.spend(4)
    assert spent.tokens() == 0
    clock.now = 1.4
    assert spent.tokens() == 2
    clock.now = 100
    assert spent.tokens() == 4


def test_what_was_spent_beyond_what_was_there_has_to_come_back_first() -> None:
    clock = Clock()
    spent = Bucket(2, 4, clock)
    spent.spend(10)
    assert (spent.tokens(), spent.seconds_until(1)) == (-6, 3.5)


def test_more_than_it_holds_is_waited_for_until_it_is_full() -> None:
    full = Bucket(2, 4, Clock())
    assert full.seconds_until(100) == 0
    full.spend(1)
    assert full.seconds_until(100) == 0.5


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 1_000), st.integers(1, 10), st.floats(0, 1e9))
def test_whoever_waits_as_long_as_it_says_has_no_more_to_wait(rate: float, tokens: int, start: float) -> None:
    clock = Clock()
    clock.now = start
    spent = Bucket(rate, 10, clock)
    spent.spend(10)
    clock.now += spent.seconds_until(tokens)
    assert spent.seconds_until(tokens) < 1e-6


def test_what_is_missing_by_rounding_alone_is_not_waited_for() -> None:
    clock = Clock()
    spent = Bucket(1, 1, clock)
    spent.spend(1e-14)
    assert (spent.tokens(), spent.seconds_until(1)) == (1, 0.0)
