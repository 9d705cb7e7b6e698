"""The critical section around work that must not be cut in the middle, and its end when the process stops.

    guard = Guard()

    with guard.hold() as hold:                       # from here a cancellation from outside waits
        await write_that_a_call_begins()
        with hold.call(timeout=25) as call:          # this alone can be cut: by its timeout, or by a drain
            answer = await ask()
        await write_how_it_ended(call.cut)

    guard.drain(grace=30)                            # cuts calls in 30 s, and what still holds 1.5 s later

For trio. Everything but `wait_idle` is sync and no checkpoint: nothing can come between the line before a block and its
first line.
"""

from __future__ import annotations

import enum
import math
from types import TracebackType
from typing import Self

import trio

WRITE_TIME = 1.5
"""Seconds that a hold outlasts the calls within it when drained, so that a call that was cut can write its end."""


class Cut(enum.StrEnum):
    """What ended a block before its end."""

    TIMEOUT = "timeout"
    """The call took longer than its own timeout."""
    DRAIN = "drain"
    """The process is stopping."""


class Guard:
    """All critical sections of the process, within one trio run."""

    def __init__(self) -> None:
        self._draining = False
        self._drain_at = math.inf
        self._sections: set[_Section] = set()
        self._held = 0
        self._waiting = trio.lowlevel.ParkingLot()

    def hold(self) -> Hold:
        """A critical section, to be entered once by `with`. Works while draining too, as long as the drain allows."""
        return Hold(self)

    def drain(self, grace: float) -> None:
        """Cut calls in `grace` seconds and holds `WRITE_TIME` later, those too that begin from now on.

        Of several drains the earliest deadline counts. `inf` cuts nothing.
        """
        self._draining = True
        self._drain_at = min(self._drain_at, trio.current_time() + max(0.0, grace))
        for section in self._sections:
            section._drain(self._drain_at)  # noqa: SLF001  # a section is a part of its guard

    @property
    def draining(self) -> bool:
        """Whether `drain` was called: nothing new should begin."""
        return self._draining

    @property
    def held(self) -> int:
        """How many holds there are now."""
        return self._held

    async def wait_idle(self) -> None:
        """Wait until nothing is held. Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while self._held:
            await self._waiting.park()

    def _entered(self, section: _Section) -> None:
        self._sections.add(section)
        self._held += isinstance(section, Hold)

    def _left(self, section: _Section) -> None:
        self._sections.discard(section)
        self._held -= isinstance(section, Hold)
        if not self._held:
            self._waiting.unpark_all()


class _Section:
    """A block that its guard can cut.

    A cut is a cancellation at a checkpoint within the block, and it ends with the block: the lines after it are
    reached. Every other exception passes through.
    """

    _slack = 0.0
    """Seconds that it outlasts the deadline of a drain."""

    def __init__(self, guard: Guard, *, timeout: float = math.inf, shield: bool = False) -> None:
        self._guard = guard
        self._timeout = timeout
        self._timeout_at = math.inf
        self._drain_at = math.inf
        self._scope = trio.CancelScope(shield=shield)

    def __enter__(self) -> Self:
        self._timeout_at = trio.current_time() + self._timeout
        self._drain(self._guard._drain_at)  # noqa: SLF001  # a section is a part of its guard
        self._scope.__enter__()
        self._guard._entered(self)  # noqa: SLF001  # the same
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._guard._left(self)  # noqa: SLF001  # a section is a part of its guard
        return self._scope.__exit__(kind, error, traceback)

    @property
    def cut(self) -> Cut | None:
        """What cut the block; None when it ended by itself, be it past a deadline. To be asked after the block."""
        if not self._scope.cancelled_caught:
            return None
        return Cut.DRAIN if self._drain_at < self._timeout_at else Cut.TIMEOUT

    def _drain(self, at: float) -> None:
        self._drain_at = at + self._slack
        self._scope.deadline = min(self._drain_at, self._timeout_at)


class Hold(_Section):
    """A critical section: no cancellation from outside enters it before it ends or is cut by a drain."""

    _slack = WRITE_TIME

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard, shield=True)

    def call(self, timeout: float = math.inf) -> Call:
        """The part of this section that can be cut; a block to be entered once, within this one.

        Args:
            timeout: seconds from entering the block.
        """
        return Call(self._guard, timeout=timeout)


class Call(_Section):
    """A call within a hold, cut by its timeout or by a drain; begun too late, it is cut at its first checkpoint."""
