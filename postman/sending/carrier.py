"""A provider in service: what postman.toml grants it, its breaker, and how many calls it may begin now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import structlog

from postman.answer import MAX_REASON, without_addresses
from postman.breaker import Blame, Breaker, BreakerStatistics, State
from postman.bucket import Bucket
from postman.errors import (
    MailRefused,
    MailRejected,
    OutcomeUnknown,
    PluginBug,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
)
from postman.provider import Provider

COOL_DOWN = 5.0
"""Seconds without calls after a 429 that did not say how long."""
COOL_DOWN_BOUNDS = (1.0, 3_600.0)

_log = structlog.get_logger()


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What postman.toml and the plugin say about one provider.

    Attributes:
        name: in postman.toml.
        account: see `Kind.account`.
        weight: its share of the workers; 0: only when no other can.
        timeout: seconds that one call may take.
        rate: mails a second that may begin; None: any.
        max_concurrent: calls under way at once; None: any.
        from_domains: it may send for these; empty: any.
        fail_over_suppressed: a suppressed recipient is asked of the next provider instead of ending the letter.
        marks: the plugin marks its phases, see `Kind.marks`.
        delivers: False for fakes.
    """

    name: str
    account: str
    weight: int = 1
    timeout: float = 25.0
    rate: float | None = None
    max_concurrent: int | None = None
    from_domains: frozenset[str] = frozenset()
    fail_over_suppressed: bool = False
    marks: bool = False
    delivers: bool = True


class CarrierStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /status` says about one provider; times are seconds.

    Attributes:
        under_way: calls now.
        accepted: calls that ended with a receipt, since start.
        not_accepted: calls that surely were not accepted.
        unknown: calls in doubt.
        again_in: seconds until the breaker lets a call through; 0 while it does, `inf` while a probe is under way.
        cooling: seconds that it still rests after a 429.
        paused: by a person.
        last_fault: the reason of the last call that counted against it.
        bug: the last one that its plugin showed, since it was opened.
    """

    name: str
    weight: int
    under_way: int
    accepted: int
    not_accepted: int
    unknown: int
    again_in: float
    cooling: float
    paused: bool
    delivers: bool
    last_fault: str
    bug: str
    breaker: BreakerStatistics


def blame(error: BaseException) -> Blame:
    """Whose fault the end of a provider call is: the breaker's question."""
    match error:
        case ProviderMisconfigured():
            return Blame.FATAL
        case ProviderUnavailable(throttled=True) | PluginBug():
            return Blame.NEITHER
        case ProviderUnavailable(mail_only=True) | MailRefused() | MailRejected():
            return Blame.NONE
        case ProviderUnavailable() | OutcomeUnknown():
            return Blame.PROVIDER
        case _:
            return Blame.NEITHER


class Carrier:
    """A provider in service.

    Args:
        provider: opened by its plugin.
        terms: what it is granted.
        breaker: its health; made with `blame`. Outlives a reload that does not change the provider.
        clock: seconds, monotonic.

    Attributes:
        on_free: called when a call may have become possible.
        bug: what was wrong with its plugin the last time; "": nothing.
    """

    def __init__(
        self,
        provider: Provider,
        terms: Terms,
        breaker: Breaker,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.provider = provider
        self.terms = terms
        self.breaker = breaker
        self.on_free: Callable[[], None] = lambda: None
        self.bug = ""
        self._clock = clock
        self._reserved = 0
        self._epoch = 0
        self._under_way = 0
        self._paused = False
        self._cool_until = -math.inf
        self._bucket = self._new_bucket()
        self._ends = {"accepted": 0, "not_accepted": 0, "unknown": 0}
        self._last_fault = ""
        self._failing = breaker.state is not State.CLOSED
        breaker.on_change = self._forget_places

    @property
    def name(self) -> str:
        """Its name in postman.toml."""
        return self.terms.name

    def retune(self, terms: Terms) -> None:
        """Grant other terms to the same provider; breaker and connections stay."""
        old, self.terms = self.terms, terms
        if terms.rate != old.rate:
            self._bucket = self._new_bucket()
        self._forget_places()

    @property
    def in_service(self) -> bool:
        """Whether calls may begin, now or when others have ended: not paused, resting or with its breaker open."""
        cool = self._clock() >= self._cool_until
        return not self._paused and cool and self.breaker.state is not State.OPEN

    def room(self) -> float:
        """How many calls could begin now; `inf` when nothing limits."""
        if not self.in_service:
            return 0
        room = self.breaker.free
        if self.terms.max_concurrent is not None:
            room = min(room, self.terms.max_concurrent - self._under_way)
        if self._bucket:
            room = min(room, self._bucket.tokens())
        return max(0, room)

    def free(self) -> float:
        """How many calls could begin now beyond those that places are kept for."""
        return max(0, self.room() - self._reserved)

    def seconds_until_free(self) -> float:
        """How long at least nothing is free; `inf` when an event, not time, will change that."""
        if self._paused:
            return math.inf
        wait = max(
            self._cool_until - self._clock(),
            self.breaker.seconds_until_free(),
            self._bucket.seconds_until(self._reserved + 1) if self._bucket else 0.0,
        )
        if wait > 0:
            return wait
        return 0.0 if self.free() > 0 else math.inf  # in this order: what time lifts meanwhile is no event to wait for

    def reserve(self) -> Place:
        """Keep a place for one call that is about to begin."""
        self._reserved += 1
        return Place(self, self._epoch)

    def _forget_places(self) -> None:
        """What may begin has changed: places kept for the old state are void."""
        self._epoch += 1
        self._reserved = 0
        self.on_free()

    @property
    def paused(self) -> bool:
        """Whether a person stopped it."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self._forget_places()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call: counts it and lets the breaker judge the error that ends it.

        Raises:
            BreakerOpen: the call must not begin.
        """
        self._under_way += 1
        try:
            with self.breaker.attempt():
                if self._bucket:
                    self._bucket.spend(1)
                yield
            self._ends["accepted"] += 1
        except ProviderError as error:
            self._note(error)
            raise
        finally:
            self._under_way -= 1
            self.on_free()
            self._log_health()

    def statistics(self) -> CarrierStatistics:
        """Numbers for `GET /status`."""
        return CarrierStatistics(
            name=self.name,
            weight=self.terms.weight,
            under_way=self._under_way,
            again_in=self.breaker.seconds_until_free(),
            cooling=max(0.0, self._cool_until - self._clock()),
            paused=self._paused,
            delivers=self.terms.delivers,
            last_fault=self._last_fault,
            bug=self.bug,
            breaker=self.breaker.statistics(),
            **self._ends,
        )

    def _log_health(self) -> None:
        """One line when the breaker has opened, and one when it has closed; not one for each probe that fails."""
        failing = self.breaker.state is not State.CLOSED
        if failing == self._failing:
            return
        self._failing = failing
        if failing:
            why = self.breaker.statistics().why
            _log.warning("a provider fails; others are asked", provider=self.name, reason=self._last_fault, why=why)
        else:
            _log.info("a provider works again", provider=self.name)

    def _new_bucket(self) -> Bucket | None:
        """Up to one second's worth at once; at least one."""
        rate = self.terms.rate
        return Bucket(rate, max(1.0, rate), self._clock) if rate else None

    def _note(self, error: ProviderError) -> None:
        self._ends["unknown" if isinstance(error, OutcomeUnknown) else "not_accepted"] += 1
        if isinstance(error, ProviderUnavailable) and error.throttled:
            wait = COOL_DOWN if error.retry_after is None else error.retry_after
            self._cool_until = self._clock() + min(max(wait, COOL_DOWN_BOUNDS[0]), COOL_DOWN_BOUNDS[1])
            self._forget_places()
        if blame(error) in {Blame.PROVIDER, Blame.FATAL}:
            self._last_fault = without_addresses(error.reason, MAX_REASON)


class Place:
    """One call's place at a carrier, kept until given back or until the carrier's state changes."""

    def __init__(self, carrier: Carrier, epoch: int) -> None:
        self.carrier = carrier
        self._epoch = epoch

    @property
    def good(self) -> bool:
        """Whether the call may begin now."""
        return self._kept and self.carrier.room() > 0

    def give_back(self) -> None:
        """The call begins, or is not needed any more."""
        if self._kept:
            self._epoch = -1
            self.carrier._reserved -= 1  # noqa: SLF001  # a place is a part of its carrier
            self.carrier.on_free()

    @property
    def _kept(self) -> bool:
        return self._epoch == self.carrier._epoch  # noqa: SLF001  # a place is a part of its carrier
