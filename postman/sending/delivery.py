"""The delivery of one letter: claim, call, write the end; the next provider where the last one surely did not take it.

The order of things is the promise. The claim is committed before the first byte; what a call ended with is written
before the note is touched; and nobody else is asked unless the ledger has written, in the same transaction, why the
former did not take the letter.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import structlog
import trio

from postman import journal
from postman.breaker import BreakerOpen
from postman.errors import (
    DamagedRow,
    LeaseLost,
    NewerRow,
    ProviderError,
    StoreBroken,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    TooLate,
)
from postman.failpoint import failpoint
from postman.guard import Guard, Hold
from postman.ledger import Claim, Ended, Ledger, Unclaimable
from postman.mail import Id
from postman.provider import Attempt, Phase, boottime
from postman.queue import MAX_DELAY, VERSION, Lease, Note, Notes
from postman.row import End, EndKind, Row, State
from postman.sending.postbox import Turn
from postman.sending.wall import Stopped, ask, end_of

_log = structlog.get_logger()

ELSEWHERE = frozenset({EndKind.UNAVAILABLE, EndKind.MISCONFIGURED, EndKind.REFUSED})
"""Ends after which another provider may be asked now."""

UNREADY_DELAY = 1.0
"""Seconds until a note is shown again whose letter nobody could be asked for just now."""

NEWER_DELAY = 15.0
"""Seconds until a note is shown again that only a newer Postman understands."""

NEWER_TOLD = 300.0
"""Seconds between two lines in the log about such notes."""

INSIST = (0.1, 5.0)
"""Seconds between two tries to write: the first, the longest; doubling."""


class Called(msgspec.Struct, frozen=True):
    """One provider call, for whoever watches.

    Attributes:
        seconds: that the call took.
    """

    id: Id
    provider: str
    end: End
    seconds: float


class Delivery:
    """Delivers letters.

    Args:
        ledger: the truth.
        queue: where the notes came from.
        guard: holds each delivery together.
        steady: the clock of leases.
        wall: seconds since 1970.
        on_call: told of each provider call after its end.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Notes,
        guard: Guard,
        *,
        steady: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
        on_call: Callable[[Called], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._guard = guard
        self._steady = steady
        self._wall = wall
        self._on_call = on_call
        self._tell_newer_at = -math.inf

    async def deliver(self, lease: Lease, turn: Turn, hold: Hold) -> None:
        """Do what can be done now for the letter that a note names, and write what came of it.

        Claims nothing once the guard drains, which it may have begun while the worker waited for room.

        Args:
            lease: of the note.
            turn: of the worker at the postbox.
            hold: of the guard; this runs inside it.

        Raises:
            StoreUnavailable: the ledger does not answer; the note is left to be shown again.
        """
        if lease.note is None:
            await self._bury(lease, "this is no note that can be read")
            return
        if lease.note.version > VERSION:
            await self._leave_to_newer(lease, f"its note is of version {lease.note.version}")
            return
        if self._guard.draining:
            await self._put_back_or_ack(lease, lease.note, State.QUEUED, 0.0)
            return
        try:
            outcome = await self._ask_in_turn(lease.note.id, turn, hold)
        except NewerRow as error:
            await self._leave_to_newer(lease, str(error))
            return
        except DamagedRow as error:
            await self._bury(lease, str(error))
            return
        failpoint("W9")
        match outcome:
            case Row():
                journal.write(outcome)
                await self._put_back_or_ack(lease, lease.note, outcome.state, outcome.due - self._wall())
            case Unclaimable(state=None):
                await self._bury(lease, "the ledger has no such letter")
            case Unclaimable(state=state, delay=delay, ended=ended):
                if ended is not None:
                    journal.write(ended)
                await self._put_back_or_ack(lease, lease.note, state, delay)

    async def _ask_in_turn(self, id: Id, turn: Turn, hold: Hold) -> Row | Unclaimable:
        """The heart: one provider after the other until one takes the letter, ends it, or leaves doubt."""
        owner = secrets.token_hex(8)
        asked_at = self._steady()
        claim = await _unless_surely_not(partial(self._ledger.claim, id, turn.calls(), owner=owner))
        while isinstance(claim, Claim):
            failpoint("W2")
            end = await self._call(claim, asked_at, turn, hold)
            failpoint("W8")
            if end.kind not in ELSEWHERE or self._guard.draining:
                return await _insist(partial(self._ledger.finish, claim, end))
            asked_at = self._steady()
            claim = await _insist(partial(self._ledger.claim, id, turn.calls(), Ended(claim, end), owner=owner))
        return claim

    async def _call(self, claim: Claim, asked_at: float, turn: Turn, hold: Hold) -> End:
        """Make the call that was claimed. Whatever happens, it has an end."""
        lease_ends = asked_at + claim.call.lease
        attempt = Attempt(claim.id.replace("0x", "postman-"), lease_ends=lease_ends, clock=self._steady)
        began = trio.current_time()
        try:
            with turn.call(claim.call.provider) as carrier:
                receipt = await ask(carrier, claim.letter, attempt, hold)
            end = End(EndKind.ACCEPTED, phase=attempt.phase, receipt=receipt)
        except BreakerOpen:
            end = End(EndKind.UNAVAILABLE, "not asked: its breaker had just opened", Phase.UNMARKED)
        except (ProviderError, TooLate, Stopped) as error:
            end = end_of(error, attempt.phase, fail_over_suppressed=carrier.terms.fail_over_suppressed)
        called = Called(claim.id, claim.call.provider, end, trio.current_time() - began)
        _log.debug("called", id=called.id, provider=called.provider, end=end.kind, reason=end.reason, ms=_ms(called))
        self._on_call(called)
        return end

    async def _put_back_or_ack(self, lease: Lease, note: Note, state: State | None, delay: float) -> None:
        """The note's fate follows from the letter's. A note that is lost or doubled here does no harm."""
        try:
            if state is not State.QUEUED or delay > MAX_DELAY:
                await self._queue.ack(lease)
                failpoint("W10")
                return
            delay = max(UNREADY_DELAY, delay)
            try:
                await self._queue.release(lease, delay)
            except LeaseLost:
                await self._queue.put([note], delay)
        except LeaseLost:
            pass
        except StoreUnavailable as error:
            _log.warning("the queue does not answer; the note will be shown again", reason=str(error))

    async def _leave_to_newer(self, lease: Lease, why: str) -> None:
        """During a roll-out: what a newer Postman wrote is given back as it was, for those who understand it."""
        if self._steady() >= self._tell_newer_at:
            self._tell_newer_at = self._steady() + NEWER_TOLD
            _log.warning("a mail is left to newer instances of Postman on this queue; end the roll-out", reason=why)
        try:
            await self._queue.release(lease, NEWER_DELAY)
        except (LeaseLost, StoreUnavailable) as error:
            _log.warning("a note could not be given back; it will be shown again", reason=str(error))

    async def _bury(self, lease: Lease, reason: str) -> None:
        try:
            await self._queue.bury(lease, reason)
        except (LeaseLost, StoreUnavailable) as error:
            _log.warning("a note could not be buried; it will be shown again", reason=str(error))
        else:
            _log.warning("a note was buried", id=lease.note.id if lease.note else None, reason=reason)


async def _unless_surely_not[T](write: Callable[[], Awaitable[T]]) -> T:
    """Write once, and insist when it may have been done: a claim that nobody knows of becomes doubt."""
    try:
        return await write()
    except StoreUnavailable as error:
        if not error.may_have_happened:
            raise
    return await _insist(write)


async def _insist[T](write: Callable[[], Awaitable[T]]) -> T:
    """Write, for as long as the guard lets us and there is hope: an end that is not written becomes doubt."""
    pause = INSIST[0]
    while True:
        try:
            return await write()
        except StoreBroken:
            raise
        except (StoreUnavailable, StoreFull, StoreRefused) as error:
            _log.warning("a call could not be written down yet", reason=str(error))
            await trio.sleep(pause)
            pause = min(INSIST[1], pause * 2)


def _ms(called: Called) -> float:
    return round(called.seconds * 1000, 1)
