"""The delivery of one letter: claim, call, write the end; the next provider where the last one surely did not take it.

The order of things is the promise. The claim is committed before the first byte; what a call ended with is written
before the note is touched; and nobody else is asked unless the ledger has written, in the same transaction, why the
former did not take the letter.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import structlog
import trio

from postman import journal
from postman.address import MAX_ADDRESS
from postman.answer import MAX_REASON, without_addresses
from postman.breaker import BreakerOpen
from postman.carrier import Carrier
from postman.errors import (
    LeaseLost,
    MailRefused,
    MailRejected,
    NotAccepted,
    OutcomeUnknown,
    PluginBug,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    StoreFull,
    StoreUnavailable,
    TooLate,
)
from postman.failpoint import failpoint
from postman.guard import Cut, Guard, Hold
from postman.ledger import Claim, End, Ended, EndKind, Ledger, Row, State, Unclaimable
from postman.mail import Id, Letter
from postman.postbox import Turn
from postman.provider import Attempt, Phase, Receipt, Refusal, boottime
from postman.queue import MAX_DELAY, Lease, Note, Queue

_log = structlog.get_logger()

ELSEWHERE = frozenset({EndKind.UNAVAILABLE, EndKind.MISCONFIGURED, EndKind.REFUSED})
"""Ends after which another provider may be asked now."""

UNREADY_DELAY = 1.0
"""Seconds until a note is shown again whose letter nobody could be asked for just now."""


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
        queue: Queue,
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
        if self._guard.draining:
            await self._put_back_or_ack(lease, lease.note, State.QUEUED, 0.0)
            return
        outcome = await self._ask_in_turn(lease.note.id, turn, hold)
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
                receipt = await ask(carrier, claim, attempt, hold)
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

    async def _bury(self, lease: Lease, reason: str) -> None:
        _log.warning("a note was buried", id=lease.note.id if lease.note else None, reason=reason)
        try:
            await self._queue.bury(lease, reason)
        except (LeaseLost, StoreUnavailable) as error:
            _log.warning("a note could not be buried; it will be shown again", reason=str(error))


async def _unless_surely_not[T](write: Callable[[], Awaitable[T]]) -> T:
    """Write once, and insist when it may have been done: a claim that nobody knows of becomes doubt."""
    try:
        return await write()
    except StoreUnavailable as error:
        if not error.may_have_happened:
            raise
    return await _insist(write)


async def _insist[T](write: Callable[[], Awaitable[T]]) -> T:
    """Write, for as long as the guard lets us: an end that is not written becomes doubt."""
    pause = INSIST[0]
    while True:
        try:
            return await write()
        except (StoreUnavailable, StoreFull) as error:
            _log.warning("a call could not be written down yet", reason=str(error))
            await trio.sleep(pause)
            pause = min(INSIST[1], pause * 2)


class Stopped(Exception):
    """The process stops and the call was ended by us; says nothing about the provider."""

    def __init__(self, *, handed_over: bool) -> None:
        super().__init__("cut because the process stopped")
        self.handed_over = handed_over


async def ask(carrier: Carrier, claim: Claim, attempt: Attempt, hold: Hold) -> Receipt:
    """The wall between us and a plugin: whatever the plugin does, the call ends in the closed list.

    Raises:
        ProviderError: one of its leaves.
        TooLate: the lease was over before the first byte.
        Stopped: we ended the call.
    """
    with hold.call(carrier.terms.timeout) as call:
        try:
            receipt = await carrier.provider.send(claim.letter, attempt)
            if isinstance(receipt, Receipt):
                return fit(receipt, claim.letter)
        except (ProviderError, TooLate, trio.Cancelled):
            raise
        except BaseException as error:  # a plugin may raise anything, SystemExit too
            leaf = _without_cancellation(error)
            if leaf is None:
                raise
            if isinstance(leaf, ProviderError | TooLate):
                raise leaf from error
            raise _judge_bug(leaf, carrier, attempt) from error
        raise OutcomeUnknown(f"bug in plugin of {carrier.name}: send() returned {type(receipt).__name__}")
    handed_over = may_have_been_accepted(attempt.phase, marks=carrier.terms.marks)
    if call.cut is Cut.DRAIN:
        raise Stopped(handed_over=handed_over)
    if handed_over:
        raise OutcomeUnknown(f"no answer within {carrier.terms.timeout:g} s")
    raise ProviderUnavailable(f"nothing was sent within {carrier.terms.timeout:g} s")


def fit(receipt: Receipt, letter: Letter) -> Receipt:
    """A receipt as the ledger takes it: no longer than it need be, and without words that nobody should read."""
    said = receipt.message_id
    return Receipt(
        None if said is None else "".join(c for c in str(said)[:MAX_REASON] if c.isprintable()),
        tuple(
            Refusal(str(refusal.recipient)[:MAX_ADDRESS], without_addresses(str(refusal.reason), MAX_REASON))
            for refusal in receipt.refused[: len(letter.mail.recipients)]
        ),
    )


def _without_cancellation(error: BaseException) -> BaseException | None:
    """What a plugin's nursery raised, beside that it was cancelled; a group of one is that one."""
    if isinstance(error, BaseExceptionGroup):
        _, rest = error.split(trio.Cancelled)
        while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
            rest = rest.exceptions[0]
        return rest
    return error


def may_have_been_accepted(phase: Phase, *, marks: bool) -> bool:
    """Whether a call that came so far may have been taken; a plugin that makes no marks may have sent all."""
    return phase is Phase.HANDED_OVER or (phase is Phase.UNMARKED and not marks)


_KINDS: tuple[tuple[type[Exception], EndKind], ...] = (
    (ProviderUnavailable, EndKind.UNAVAILABLE),
    (ProviderMisconfigured, EndKind.MISCONFIGURED),
    (MailRefused, EndKind.REFUSED),
    (MailRejected, EndKind.REJECTED),
    (NotAccepted, EndKind.REFUSED),
    (TooLate, EndKind.UNSENT),
)


def end_of(error: Exception, phase: Phase, *, fail_over_suppressed: bool = False) -> End:
    """How the ledger sees the error that ended a call; what is not known to be harmless is doubt."""
    kind = next((kind for cls, kind in _KINDS if isinstance(error, cls)), EndKind.UNKNOWN)
    if isinstance(error, Stopped) and not error.handed_over:
        kind = EndKind.UNSENT
    if isinstance(error, TooLate) and phase is Phase.HANDED_OVER:
        kind = EndKind.UNKNOWN  # a plugin that sent once, and then began anew
    if isinstance(error, MailRejected) and error.suppressed and fail_over_suppressed:
        kind = EndKind.REFUSED
    reason = without_addresses(str(error), MAX_REASON)
    return End(kind, reason, phase, retry_after=getattr(error, "retry_after", None))


def _judge_bug(bug: BaseException, carrier: Carrier, attempt: Attempt) -> ProviderError:
    _log.error("bug in a plugin", provider=carrier.name, error=type(bug).__name__, exc_info=bug)
    reason = f"bug in the plugin of {carrier.name}: {type(bug).__name__}"
    if may_have_been_accepted(attempt.phase, marks=carrier.terms.marks):
        return OutcomeUnknown(reason)
    return PluginBug(reason)


def _ms(called: Called) -> float:
    return round(called.seconds * 1000, 1)
