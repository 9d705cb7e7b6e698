"""The wall between us and a plugin: whatever a plugin does with a letter, the call ends in the closed list.

What it raises is judged by the marks of the attempt, what it says is bounded and searched for what nobody should read,
and the time that it takes is ours to end.
"""

from __future__ import annotations

from types import FrameType

import structlog
import trio

from postman.address import MAX_ADDRESS
from postman.answer import MAX_REASON, without_addresses
from postman.errors import (
    MailRefused,
    MailRejected,
    NotAccepted,
    OutcomeUnknown,
    PluginBug,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    TooLate,
    leaf,
)
from postman.guard import Cut, Hold
from postman.mail import Letter
from postman.provider import Attempt, Phase, Receipt, Refusal
from postman.row import End, EndKind
from postman.sending.carrier import Carrier

_log = structlog.get_logger()


class Stopped(Exception):
    """The process stops and the call was ended by us; says nothing about the provider."""

    def __init__(self, *, handed_over: bool) -> None:
        super().__init__("cut because the process stopped")
        self.handed_over = handed_over


async def ask(carrier: Carrier, letter: Letter, attempt: Attempt, hold: Hold) -> Receipt:
    """Make one call of a plugin; its receipt is `fit`.

    Raises:
        ProviderError: one of its leaves.
        TooLate: the lease was over before the first byte.
        Stopped: we ended the call.
    """
    attempt.be_in_time()
    with hold.call(carrier.terms.timeout) as call:
        try:
            receipt = await carrier.provider.send(letter, attempt)
            if isinstance(receipt, Receipt):
                return fit(receipt, letter)
        except (ProviderError, TooLate, trio.Cancelled):
            raise
        except BaseException as error:  # a plugin may raise anything, SystemExit too
            raised = _without_cancellation(error)
            if raised is None:
                raise
            if isinstance(raised, ProviderError | TooLate):
                raise raised from error
            raise _judge_bug(raised, carrier, attempt) from error
        raise OutcomeUnknown(_told(carrier, f"send() returned {type(receipt).__name__}"))
    handed_over = may_have_been_accepted(attempt.phase, marks=carrier.terms.marks)
    if call.cut is Cut.DRAIN:
        raise Stopped(handed_over=handed_over)
    if handed_over:
        raise OutcomeUnknown(f"no answer within {carrier.terms.timeout:g} s")
    raise ProviderUnavailable(f"nothing was sent within {carrier.terms.timeout:g} s")


def work_of(frame: FrameType) -> str:
    """What a stack is at: which provider's plugin, if any, and the innermost line."""
    place = f"{frame.f_globals.get('__name__')}:{frame.f_lineno}"
    outer: FrameType | None = frame
    while outer is not None:
        if outer.f_code is ask.__code__:
            return f"while provider {outer.f_locals['carrier'].name} was asked, at {place}"
        outer = outer.f_back
    return f"at {place}"


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
    if not isinstance(error, BaseExceptionGroup):
        return error
    _, rest = error.split(trio.Cancelled)
    return None if rest is None else leaf(rest)


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
    reason = _told(carrier, type(bug).__name__)
    if may_have_been_accepted(attempt.phase, marks=carrier.terms.marks):
        return OutcomeUnknown(reason)
    return PluginBug(reason)


def _told(carrier: Carrier, bug: str) -> str:
    carrier.bug = bug
    return f"bug in the plugin of {carrier.name}: {bug}"
