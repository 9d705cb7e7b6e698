"""A breaker beside a small model of it, driven by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from postman.breaker import Blame, Breaker, BreakerOpen, State, linear_delay
from tests.breaker.bench import CLOSED, FATAL, HALF_OPEN, NEITHER, NONE, OPEN, PROVIDER, Call, Clock, blame_of


@dataclass
class Model:
    """A breaker in the fewest words: 3 in a row, or half of 6 within 30 s; then 30 s times n, up to 90."""

    generation = row = n = 0
    until: float | None = None
    probing = False

    def __post_init__(self) -> None:
        self.ends: list[tuple[float, bool]] = []

    def state(self, now: float) -> State:
        return CLOSED if self.until is None else OPEN if now < self.until else HALF_OPEN

    def recent(self, now: float) -> list[bool]:
        return [fault for at, fault in self.ends if at // 1 > now // 1 - 30]

    def end(self, generation: int, blame: Blame, now: float) -> None:
        if generation != self.generation:
            return
        probe, self.probing, fault = self.until is not None, False, blame in {PROVIDER, FATAL}
        if blame is NONE and probe:
            self.close()
        elif blame is not NEITHER:
            self.row = self.row + 1 if fault else 0
            self.ends += [] if probe else [(now, fault)]
            recent = self.recent(now)
            half = len(recent) >= 6 and sum(recent) >= len(recent) / 2
            if fault and (probe or blame is FATAL or self.row >= 3 or half):
                self.n, self.generation = self.n + 1, self.generation + 1
                self.until = now + min(30 * self.n, 90)

    def close(self) -> None:
        self.until, self.probing, self.n, self.row, self.ends = None, False, 0, 0, []
        self.generation += 1


class AgreesWithModel(RuleBasedStateMachine):
    """Calls that overlap, ends of every kind in any order, time and resets: breaker and model never differ."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.model = Model()
        self.notices = 0
        self.breaker = Breaker(
            is_fault=blame_of,
            probe_delay=linear_delay(cap=90.0, jitter=0.0),
            faults_in_a_row=3,
            least_calls=6,
            clock=self.clock,
            on_change=self._noticed,
        )

    def _noticed(self) -> None:
        self.notices += 1

    @precondition(lambda self: self.model.state(self.clock.now) is CLOSED or self._may_probe())
    @rule(target=calls)
    def begin(self) -> tuple[Call, int]:
        self.model.probing = self.model.until is not None
        return Call(self.breaker), self.model.generation

    @precondition(lambda self: self.model.state(self.clock.now) is not CLOSED and not self._may_probe())
    @rule()
    def be_refused(self) -> None:
        with pytest.raises(BreakerOpen):
            Call(self.breaker)

    @rule(call=consumes(calls), blame=st.sampled_from([NONE, NONE, PROVIDER, PROVIDER, FATAL, NEITHER]))
    def end(self, call: tuple[Call, int], blame: Blame) -> None:
        before = (self.model.generation, self.model.probing)
        call[0].end(blame)
        self.model.end(call[1], blame, self.clock.now)
        assert self.notices == (before != (self.model.generation, self.model.probing))
        self.notices = 0

    @rule(blames=st.lists(st.sampled_from([NONE, PROVIDER]), max_size=8))
    def call_in_turn(self, blames: list[Blame]) -> None:
        for blame in blames:
            if self.model.state(self.clock.now) is CLOSED:
                self.end((Call(self.breaker), self.model.generation), blame)

    @rule(seconds=st.sampled_from([0.25, 1.0, 14.5, 29.0, 30.0, 60.0, 90.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def reset(self) -> None:
        self.breaker.reset()
        self.model.close()
        self.notices = 0

    @invariant()
    def they_agree(self) -> None:
        now, recent = self.clock.now, self.model.recent(self.clock.now)
        statistics = self.breaker.statistics()
        assert self.breaker.state is statistics.state is self.model.state(now)
        assert self.breaker.free == (math.inf if statistics.state is CLOSED else self._may_probe())
        assert (statistics.calls, statistics.faults) == (len(recent), sum(recent))
        assert (statistics.faults_in_a_row, statistics.opened_in_a_row) == (self.model.row, self.model.n)
        wait = math.inf if self.model.probing else max(0.0, (self.model.until or now) - now)
        assert self.breaker.seconds_until_free() == wait

    def _may_probe(self) -> bool:
        return self.model.state(self.clock.now) is HALF_OPEN and not self.model.probing


TestAgreesWithModel = AgreesWithModel.TestCase
TestAgreesWithModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
