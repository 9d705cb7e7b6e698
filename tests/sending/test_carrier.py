"""One provider in service: its limits, its pause, its breaker, and the places kept for calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from postman.breaker import Blame, Breaker, BreakerOpen, State
from postman.errors import (
    MailRefused,
    MailRejected,
    OutcomeUnknown,
    PluginBug,
    ProviderMisconfigured,
    ProviderUnavailable,
)
from postman.mail import Letter
from postman.provider import Attempt, Receipt
from postman.sending.carrier import Carrier, Terms, blame


class Silent:
    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        raise AssertionError("not asked in these tests")


def make(
    *,
    rate: float | None = None,
    max_concurrent: int | None = None,
    clock: Callable[[], float] = trio.current_time,
) -> Carrier:
    breaker = Breaker(is_fault=blame, probe_delay=lambda _: 30.0, faults_in_a_row=2, clock=clock)
    terms = Terms(name="lamda", account="", rate=rate, max_concurrent=max_concurrent)
    return Carrier(Silent(), terms, breaker, clock=clock)


def end(carrier: Carrier, error: Exception | None = None) -> None:
    with suppress(Exception), carrier.call():
        if error:
            raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ProviderUnavailable("down"), Blame.PROVIDER),
        (ProviderUnavailable("slow down", throttled=True), Blame.NEITHER),
        (ProviderUnavailable("mailbox full", mail_only=True), Blame.NONE),
        (ProviderMisconfigured("bad key"), Blame.FATAL),
        (MailRefused("not here"), Blame.NONE),
        (PluginBug("KeyError"), Blame.NEITHER),
        (MailRejected("nowhere"), Blame.NONE),
        (OutcomeUnknown("no answer"), Blame.PROVIDER),
        (KeyError("x"), Blame.NEITHER),
    ],
)
def test_each_outcome_is_blamed_on_whom_it_is_the_fault_of(error: Exception, expected: Blame) -> None:
    assert blame(error) is expected


async def test_a_carrier_without_limits_is_free_without_bound() -> None:
    carrier = make()
    assert carrier.free() == math.inf
    carrier.reserve()
    assert carrier.free() == math.inf


async def test_places_and_calls_under_way_count_against_max_concurrent() -> None:
    carrier = make(max_concurrent=2)
    place = carrier.reserve()
    assert carrier.free() == 1
    with carrier.call():
        assert carrier.free() == 0
        assert carrier.seconds_until_free() == math.inf
    place.give_back()
    place.give_back()
    assert carrier.free() == 2


async def test_a_rate_refills_with_time_and_never_beyond_a_second(autojump_clock: MockClock) -> None:
    carrier = make(rate=2)
    assert carrier.free() == 2
    end(carrier)
    end(carrier)
    assert carrier.free() == 0
    assert carrier.seconds_until_free() == pytest.approx(0.5)
    await trio.sleep(0.5)
    assert carrier.free() == 1
    await trio.sleep(100)
    assert carrier.free() == 2


async def test_a_rate_below_one_a_second_still_lets_one_through(autojump_clock: MockClock) -> None:
    carrier = make(rate=0.1)
    assert carrier.free() == 1
    end(carrier)
    assert carrier.seconds_until_free() == pytest.approx(10)


async def test_a_throttled_provider_cools_down_without_a_fault(autojump_clock: MockClock) -> None:
    carrier = make()
    for _ in range(5):
        end(carrier, ProviderUnavailable("429", retry_after=7, throttled=True))
    assert carrier.free() == 0
    assert carrier.breaker.state is State.CLOSED
    await trio.sleep(7)
    assert carrier.free() == math.inf


@pytest.mark.parametrize(("asked", "waits"), [(-5.0, 1.0), (0.0, 1.0), (1e9, 3600.0), (None, 5.0)])
async def test_the_wait_that_a_throttling_provider_asks_for_is_clamped(asked: float | None, waits: float) -> None:
    carrier = make()
    end(carrier, ProviderUnavailable("429", retry_after=asked, throttled=True))
    assert carrier.seconds_until_free() == pytest.approx(waits, abs=0.1)


class Ticking:
    """A clock that goes on whenever it is looked at, as every clock does."""

    tick = 2.0**-10

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.mark.parametrize(
    "error", [None, ProviderUnavailable("429", throttled=True), ProviderMisconfigured("401")], ids=type
)
def test_a_limit_that_time_lifts_between_two_looks_at_the_clock_is_not_waited_for_for_ever(
    error: Exception | None,
) -> None:
    for ticks in range(1, 10):
        clock = Ticking()
        carrier = make(rate=1, clock=clock)
        end(carrier, error)
        wait = carrier.seconds_until_free()
        clock.now += wait - ticks * clock.tick
        assert carrier.seconds_until_free() < math.inf, f"{ticks} ticks before"


async def test_a_paused_carrier_begins_nothing_and_says_when_it_is_resumed() -> None:
    carrier = make()
    freed: list[bool] = []
    carrier.on_free = lambda: freed.append(carrier.free() > 0)
    carrier.paused = True
    assert (carrier.free(), carrier.seconds_until_free()) == (0, math.inf)
    carrier.paused = False
    assert freed[-1]


async def test_places_kept_before_the_breaker_opened_are_void_so_that_one_call_probes(
    autojump_clock: MockClock,
) -> None:
    carrier = make()
    places = [carrier.reserve() for _ in range(10)]
    end(carrier, ProviderUnavailable("down"))
    end(carrier, ProviderUnavailable("down"))
    assert not any(place.good for place in places)
    await trio.sleep(30)
    assert carrier.free() == 1
    assert not any(place.good for place in places)
    probe = carrier.reserve()
    assert probe.good
    assert carrier.free() == 0
    for place in places:
        place.give_back()
    assert carrier.free() == 0


async def test_a_call_that_an_open_breaker_stops_is_not_counted(autojump_clock: MockClock) -> None:
    carrier = make()
    end(carrier, ProviderMisconfigured("bad key"))
    with pytest.raises(BreakerOpen), carrier.call():
        raise AssertionError("must not begin")
    statistics = carrier.statistics()
    assert (statistics.under_way, statistics.not_accepted, statistics.last_fault) == (0, 1, "bad key")
    assert statistics.again_in == pytest.approx(30)


async def test_ends_are_counted_by_what_they_mean() -> None:
    carrier = make()
    end(carrier)
    end(carrier, MailRefused("not here"))
    end(carrier, OutcomeUnknown("no answer"))
    end(carrier, KeyError("bug"))
    statistics = carrier.statistics()
    assert (statistics.accepted, statistics.not_accepted, statistics.unknown) == (1, 1, 1)


async def test_a_call_that_became_free_between_two_looks_is_not_waited_for() -> None:
    now = 0.0
    carrier = make(clock=lambda: now)
    end(carrier, ProviderUnavailable("429", retry_after=7, throttled=True))
    assert carrier.free() == 0
    now = 7.0
    assert carrier.seconds_until_free() == 0.0


async def test_an_outage_is_two_lines_in_the_log_however_many_probes_fail(autojump_clock: MockClock) -> None:
    carrier = make()
    with capture_logs() as lines:
        end(carrier, ProviderMisconfigured("bad key"))
        for error in (ProviderMisconfigured("bad key"), None):
            end(carrier)
            await trio.sleep(30)
            end(carrier, error)
    told = [(line["log_level"], line["provider"], line.get("reason")) for line in lines]
    assert told == [("warning", "lamda", "bad key"), ("info", "lamda", None)]
