"""A breaker with a clock of the test's own, and calls that end as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from postman.breaker import Blame, Breaker, BreakerStatistics, State, any_exception, linear_delay

CLOSED, OPEN, HALF_OPEN = State
NONE, PROVIDER, FATAL, NEITHER = Blame

steady = linear_delay(jitter=0.0)
"""30 s times n, up to 300 s."""


class Clock:
    """Seconds that pass when told to."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Ended(BaseException):
    """How a call ended: an exception that carries its own blame."""

    def __init__(self, blame: Blame) -> None:
        super().__init__(blame)
        self.blame = blame


def blame_of(error: BaseException) -> Blame:
    return error.blame if isinstance(error, Ended) else any_exception(error)


class Call:
    """A call under way."""

    def __init__(self, breaker: Breaker) -> None:
        self._body = self._run(breaker)
        next(self._body)

    @staticmethod
    def _run(breaker: Breaker) -> Generator[None]:
        with breaker.attempt():
            yield

    def end(self, blame: Blame) -> None:
        """End it; what is raised in it must come out, the very same."""
        if blame is NONE:
            assert next(self._body, "ended") == "ended"
            return
        error = Ended(blame)
        with pytest.raises(Ended) as caught:
            self._body.throw(error)
        assert caught.value is error


class Bench:
    """A breaker by a clock that stands still, and a count of its notices."""

    def __init__(self, probe_delay: Callable[[BreakerStatistics], float] = steady, **limits: Any) -> None:  # noqa: ANN401  # those of Breaker
        self.clock = Clock()
        self.notices: list[State] = []
        self.breaker = Breaker(
            is_fault=blame_of, probe_delay=probe_delay, clock=self.clock, on_change=self._noticed, **limits
        )

    def _noticed(self) -> None:
        self.notices.append(self.breaker.state)

    def begin(self) -> Call:
        return Call(self.breaker)

    def call(self, *blames: Blame) -> None:
        for blame in blames:
            self.begin().end(blame)

    def bring_to(self, state: State) -> None:
        if state is not CLOSED:
            self.call(FATAL)
        if state is HALF_OPEN:
            self.clock.now += 30
        self.notices.clear()
