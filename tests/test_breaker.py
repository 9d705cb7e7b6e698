"""The breaker: every state and every event, and a small model that it must agree with."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from trio.testing import MockClock

import postman.breaker
from postman.breaker import Blame, Breaker, BreakerOpen, BreakerStatistics, State, any_exception, linear_delay

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

    def __init__(self, probe_delay: Callable[[BreakerStatistics], float] = steady) -> None:
        self.clock = Clock()
        self.notices: list[State] = []
        self.breaker = Breaker(is_fault=blame_of, probe_delay=probe_delay, clock=self.clock, on_change=self._noticed)

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


@pytest.fixture
def bench() -> Bench:
    return Bench()


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
