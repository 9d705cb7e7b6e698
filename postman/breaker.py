"""A circuit breaker: stops asking a service that fails, and finds out with one call at a time when it works again.

On its own, with any library, sync or async:

    >>> breaker = Breaker(faults_in_a_row=2)
    >>> def ask(answer):
    ...     with breaker.attempt():
    ...         return answer()
    >>> for answer in [lambda: 42, lambda: 1 / 0, lambda: 1 / 0, lambda: 42]:
    ...     try:
    ...         print(ask(answer))
    ...     except ZeroDivisionError:
    ...         print("failed")
    ...     except BreakerOpen as error:
    ...         print("not asked:", error.why)
    42
    failed
    failed
    not asked: 2 faults in a row, the last ZeroDivisionError

Two questions are the owner's to answer: whose fault an error is (`is_fault`), and how long to wait before a probe
(`probe_delay`).
"""

from __future__ import annotations

import enum
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


class BreakerOpen(Exception):
    """The call was not begun.

    Attributes:
        seconds: until one may begin; `inf` while the answer to a probe is awaited.
        why: what opened the breaker.
    """

    def __init__(self, seconds: float, why: str) -> None:
        again = "when the probe under way succeeds" if math.isinf(seconds) else f"in {seconds:.1f} s"
        super().__init__(f"not asked: {why}; again {again}")
        self.seconds = seconds
        self.why = why


class State(enum.StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"  # every call
    OPEN = "open"  # none, until the time for a probe has come
    HALF_OPEN = "half-open"  # one call at a time, a probe


class Blame(enum.Enum):
    """Whose fault the end of a call is.

    NONE: the service answered; all is well, or the fault is in what it was asked. Counts as success.
    PROVIDER: the service failed. Counts as a fault.
    FATAL: the service will not work before a person mends something, as with a wrong key. Opens at once.
    NEITHER: it says nothing about the service, as when the call was cancelled. Not counted; frees a probe's place.
    """

    NONE = enum.auto()
    PROVIDER = enum.auto()
    FATAL = enum.auto()
    NEITHER = enum.auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerStatistics:
    """How a breaker stands."""

    state: State
    age: float  # seconds in this state
    why: str  # a sentence on what opened it, with the class of the last error but not its text; "" while closed
    faults_in_a_row: int  # without a success between
    calls: int  # that ended within the window while closed, successes and faults
    faults: int  # those of them that failed
    opened_in_a_row: int  # times it opened without closing between
    opened: int  # times it opened, since it was made
    refused: int  # calls not begun, since it was made


def any_exception(error: BaseException) -> Blame:
    """The default of `is_fault`: each Exception is the service's fault; a cancellation or an exit says nothing."""
    return Blame.PROVIDER if isinstance(error, Exception) else Blame.NEITHER


def linear_delay(
    step: float = 30.0, cap: float = 300.0, jitter: float = 0.1, chance: Callable[[], float] = random.random
) -> Callable[[BreakerStatistics], float]:
    """A `probe_delay` that grows by `step` each time a probe fails, up to `cap` seconds, give or take `jitter` of it.

    Args:
        step: seconds after the first opening.
        cap: seconds, before the jitter.
        jitter: a share of the delay, so that many processes do not probe at once.
        chance: gives numbers from 0 to 1.
    """

    def delay(statistics: BreakerStatistics) -> float:
        return min(step * statistics.opened_in_a_row, cap) * (1 + jitter * (2 * chance() - 1))

    return delay


class Breaker:
    """The health of one service, shared by all who call it from one thread.

    Never waits, never sleeps, starts nothing. It opens at a fault that is the last of `faults_in_a_row`, or that makes
    `fault_share` of at least `least_calls` within the window. Once `probe_delay` is over it is half-open: one call at a
    time is let through as a probe. An answer closes the breaker, a fault opens it again. Ends of calls that began
    before the last opening, closing or reset are ignored.

    The window is counted in thirty slices: its length is true to a thirtieth, and memory does not grow with the calls.

    Args:
        is_fault: whose fault an error is that leaves the block of `attempt`. If it raises, its error leaves the block
            instead and the call is not counted.
        probe_delay: seconds until the first probe, asked at each opening with the statistics after it; `inf` for never.
            None: `linear_delay()`. If it raises, its error leaves the block and the breaker is half-open at once.
        faults_in_a_row: that open it.
        window: seconds.
        least_calls: within the window, before shares are looked at.
        fault_share: of the calls within the window that opens it.
        clock: seconds, monotonic.
        on_change: called after an opening, a closing, a reset and the end of a probe; not when a delay is over, see
            `seconds_until_free`. Must not raise. May be replaced.
    """

    def __init__(
        self,
        *,
        is_fault: Callable[[BaseException], Blame] = any_exception,
        probe_delay: Callable[[BreakerStatistics], float] | None = None,
        faults_in_a_row: int = 5,
        window: float = 30.0,
        least_calls: int = 20,
        fault_share: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_change = on_change
        self._is_fault = is_fault
        self._probe_delay = probe_delay or linear_delay()
        self._most_in_a_row = faults_in_a_row
        self._least_calls = least_calls
        self._fault_share = fault_share
        self._clock = clock
        self._window = _Window(window)
        self._since = clock()
        self._probe_at: float | None = None  # None: closed
        self._probing = False
        self._generation = 0
        self._faults_in_a_row = 0
        self._opened_in_a_row = 0
        self._opened = 0
        self._refused = 0
        self._why = ""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around one call. Sync, so that nothing happens between the permission and the call.

        The end of the block is judged: success when nothing is raised, else by `is_fault`. Every exception, of
        BaseException's kind too, leaves the block unchanged.

        Raises:
            BreakerOpen: the call may not begin; the block was not entered.
        """
        generation = self._begin()
        try:
            yield
        except BaseException as error:
            self._end(generation, error)
            raise
        self._end(generation, None)

    @property
    def state(self) -> State:
        """Now. An open breaker whose delay is over is half-open."""
        if self._probe_at is None:
            return State.CLOSED
        return State.OPEN if self._clock() < self._probe_at else State.HALF_OPEN

    @property
    def free(self) -> float:
        """How many calls may begin now: `inf` closed, 1 half-open without a probe under way, else 0."""
        if self._probe_at is None:
            return math.inf
        return 1 if self.state is State.HALF_OPEN and not self._probing else 0

    def seconds_until_free(self) -> float:
        """Until a call may begin: 0 when one may now; `inf` while a probe is under way, whose end calls `on_change`."""
        if self._probing:
            return math.inf
        return 0.0 if self._probe_at is None else max(0.0, self._probe_at - self._clock())

    def statistics(self) -> BreakerStatistics:
        """The numbers of now."""
        now = self._clock()
        state = self.state
        since = self._probe_at if state is State.HALF_OPEN and self._probe_at is not None else self._since
        calls, faults = self._window.count(now)
        return BreakerStatistics(
            state=state,
            age=max(0.0, now - since),
            why=self._why,
            faults_in_a_row=self._faults_in_a_row,
            calls=calls,
            faults=faults,
            opened_in_a_row=self._opened_in_a_row,
            opened=self._opened,
            refused=self._refused,
        )

    def reset(self) -> None:
        """Close and forget all faults: what was wrong was mended. Ends of calls under way are ignored."""
        self._close()
        self.on_change()

    def _begin(self) -> int:
        if self.free == 0:
            self._refused += 1
            raise BreakerOpen(self.seconds_until_free(), self._why)
        self._probing = self._probe_at is not None
        return self._generation

    def _end(self, generation: int, error: BaseException | None) -> None:
        if generation != self._generation:
            return
        probed, self._probing = self._probing, False
        try:
            blame = Blame.NONE if error is None else self._is_fault(error)
            if blame is Blame.NONE:
                self._succeeded(probed=probed)
            elif blame is not Blame.NEITHER:
                self._failed(f"the last {type(error).__name__}", fatal=blame is Blame.FATAL, probed=probed)
        finally:
            if probed or generation != self._generation:
                self.on_change()

    def _succeeded(self, *, probed: bool) -> None:
        if probed:
            self._close()
        else:
            self._faults_in_a_row = 0
            self._window.add(self._clock(), fault=False)

    def _failed(self, last: str, *, fatal: bool, probed: bool) -> None:
        self._faults_in_a_row += 1
        if not probed:
            self._window.add(self._clock(), fault=True)
        calls, faults = self._window.count(self._clock())
        if fatal:
            self._open(f"a fault that needs a person, {last}")
        elif probed or self._faults_in_a_row >= self._most_in_a_row:
            self._open(f"{self._faults_in_a_row} faults in a row, {last}")
        elif calls >= self._least_calls and faults >= self._fault_share * calls:
            self._open(f"{faults} faults in {calls} calls within {self._window.length:g} s, {last}")

    def _open(self, why: str) -> None:
        now = self._clock()
        self._since = self._probe_at = now
        self._generation += 1
        self._opened_in_a_row += 1
        self._opened += 1
        self._why = why
        self._probe_at = now + max(0.0, self._probe_delay(replace(self.statistics(), state=State.OPEN)))

    def _close(self) -> None:
        self._since = self._clock()
        self._probe_at = None
        self._probing = False
        self._generation += 1
        self._faults_in_a_row = 0
        self._opened_in_a_row = 0
        self._why = ""
        self._window.clear()


class _Window:
    """Calls and faults of the last `length` seconds."""

    SLICES = 30

    def __init__(self, length: float) -> None:
        self.length = length
        self._ends: dict[int, list[int]] = {}  # by slice, the oldest first: successes and faults

    def add(self, now: float, *, fault: bool) -> None:
        self._ends.setdefault(self._expire(now), [0, 0])[fault] += 1

    def count(self, now: float) -> tuple[int, int]:
        """Calls, and the faults among them."""
        self._expire(now)
        return sum(map(sum, self._ends.values())), sum(faults for _, faults in self._ends.values())

    def clear(self) -> None:
        self._ends.clear()

    def _expire(self, now: float) -> int:
        """Drop what is too old; the slice of now."""
        current = int(now * self.SLICES // self.length)
        while self._ends and (oldest := next(iter(self._ends))) <= current - self.SLICES:
            del self._ends[oldest]
        return current
