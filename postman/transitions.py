r"""What may happen to a row of the ledger: pure functions that all ledgers share. No I/O, no clock, no chance.

    queued --claim--> sending --receipt--------------> sent
      ^  ^               | |  \--wrong mail----------> rejected
      |  |               | \-----unknown, or lapsed--> in-doubt --policy--> held | queued | failed
      |  \--not accepted-/                                 |
      \---------------- late end of the owner -------------/          a receipt, from anyone, at any time --> sent

Each function takes the row as it is and returns the row as it shall be (the same object when nothing changes). The
fence makes an end count only for the call that it belongs to; a receipt is a fact about the world and counts always.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from postman.ledger import Call, Ended
from postman.mail import Letter, OnDoubt
from postman.movable import MOVABLE
from postman.provider import Receipt
from postman.queue import MAX_DELAY
from postman.row import HISTORY_ENDS, End, EndKind, Entry, Now, Policy, Row, State, Verb

MAX_CRASHES = 3
"""A letter whose calls were cut by so many crashes or stalls is given up."""

BACKOFF = 5.0
BACKOFF_CAP = 3_600.0
RETRY_AFTER_BOUNDS = (1.0, 3_600.0)

_OWNED = frozenset({State.SENDING, State.IN_DOUBT, State.HELD})
_READ_BY_PROVIDER = frozenset({EndKind.ACCEPTED, EndKind.REFUSED, EndKind.REJECTED, EndKind.UNKNOWN})


def accepted_row(letter: Letter, client: str, size: int, policy: Policy, now: Now) -> Row:
    """The first row of a letter."""
    mail = letter.mail
    born = max(now.wall, mail.send_at.timestamp()) if mail.send_at else now.wall
    return Row(
        id=letter.id,
        client=client,
        state=State.QUEUED,
        since=now.wall,
        accepted=now.wall,
        born=born,
        due=born,
        lane=mail.priority.lane,
        size=size,
        sender=mail.from_.domain,
        on_doubt=mail.on_doubt or policy.on_doubt,
        expires=mail.expires_at.timestamp() if mail.expires_at else None,
        put=born - now.wall <= MAX_DELAY,
        history=(Entry(now.wall, State.QUEUED, "accepted"),),
    )


def claim(
    row: Row, calls: Sequence[Call], after: Ended | None, policy: Policy, now: Now, *, owner: str = ""
) -> tuple[Row, Call | None]:
    """The next call for a letter, if there shall be one.

    Args:
        row: as it is.
        calls: every provider there is, in order of preference.
        after: the call that just ended without acceptance.
        policy: of postman.toml.
        now: the time.
        owner: who asks.

    Returns:
        The row as it shall be, and the call to make; None: none now.
    """
    if _is_granted(row, after, owner):
        return row, next((call for call in calls if call.provider == row.provider), None)
    before, tries = row, row.tries
    if after is not None:
        row = finish(row, after.claim.fence, after.claim.call.provider, after.end, policy, now)
    if row.state is not State.QUEUED or (seconds_until_due(row, now) > 0 if after is None else row is before):
        return row, None
    row = age(row, policy, now)
    if row.state is not State.QUEUED:
        return row, None
    left = [call for call in calls if call.provider not in row.refusals and _may_send(call, row.sender)]
    if calls and not left:
        return _enter(row, now, State.REJECTED, _nobody_left(row, calls)), None
    chosen = next((call for call in left if call.ready), None)
    if chosen is None:
        return row, None
    row = msgspec.structs.replace(
        row,
        fence=row.fence + 1,
        provider=chosen.provider,
        account=chosen.account,
        lease=now.steady + chosen.lease,
        tries=tries,
        owner=owner,
    )
    return _enter(row, now, State.SENDING, provider=chosen.provider), chosen


def finish(row: Row, fence: int, provider: str, end: End, policy: Policy, now: Now) -> Row:
    """How call `fence` ended. An end of an older call changes nothing, unless it is a receipt."""
    told = row.told == fence
    if end.kind is EndKind.ACCEPTED and not (told and row.receipts):
        return msgspec.structs.replace(settle(row, end.receipt or Receipt(), provider, now), told=fence)
    if told or row.fence != fence or row.state not in _OWNED:
        return row
    row = msgspec.structs.replace(row, told=fence)
    if end.kind in _READ_BY_PROVIDER:
        row = msgspec.structs.replace(row, attempts=row.attempts + 1)
    if end.kind is EndKind.REJECTED:
        return _enter(row, now, State.REJECTED, end.reason, provider, end.phase)
    if end.kind is EndKind.UNKNOWN:
        if row.state is not State.SENDING:
            return _enter(row, now, row.state, end.reason, provider, end.phase)
        return _doubt(row, now, policy, end.reason, end.phase)
    if end.kind is EndKind.REFUSED:
        row = msgspec.structs.replace(row, refusals={**row.refusals, provider: end.reason})
    return _requeue(row, provider, end, policy, now)


def settle(row: Row, receipt: Receipt, source: str, now: Now) -> Row:
    """A provider took the letter, whatever we thought. A second receipt is kept and counted.

    Args:
        row: as it is.
        receipt: the provider's word; with the message id that we know already it is the same word again.
        source: who says so.
        now: the time.
    """
    if row.receipts and receipt.message_id is not None and receipt.message_id == row.message_id:
        return row
    row = msgspec.structs.replace(row, receipts=row.receipts + 1)
    if row.receipts > 1:
        return _enter(
            row, now, row.state, f"a second receipt, {receipt.message_id or 'without an id'}: doubled", source
        )
    row = msgspec.structs.replace(
        row,
        attempts=row.attempts + (row.state is State.SENDING),
        message_id=receipt.message_id,
        refused=receipt.refused,
    )
    if row.state is State.SENT:
        return _enter(row, now, State.SENT, "the receipt came after a person had settled it", source)
    late = "" if row.state is State.SENDING else f"the receipt came while {row.state}"
    return _enter(row, now, State.SENT, late, source)


def act(row: Row, verb: Verb, who: str, policy: Policy, now: Now) -> tuple[Row, bool]:
    """Do `verb` if the row allows it; the row, and whether it was done."""
    changed = _act(row, verb, who, policy, now)
    return changed, changed is not row


def orphan(row: Row, policy: Policy, now: Now) -> Row:
    """A row that was `sending` when its process died; nobody will write the end of that call."""
    if row.state is not State.SENDING:
        return row
    row = msgspec.structs.replace(row, crashes=row.crashes + 1)
    return _doubt(row, now, policy, "the process ended during the call", "")


def age(row: Row, policy: Policy, now: Now) -> Row:
    """End a queued letter whose time is over."""
    if row.state is not State.QUEUED:
        return row
    if row.expires is not None and _expired(row, now):
        return _enter(row, now, State.EXPIRED, f"not sent before {_rfc3339(row.expires)}{_last_reason(row)}")
    if now.wall >= row.born + policy.give_up_after:
        return _enter(row, now, State.FAILED, f"given up after {_span(policy.give_up_after)}{_last_reason(row)}")
    return row


def spoil(row: Row, now: Now) -> Row:
    """A letter that cannot be sent, because its bytes in the ledger are damaged."""
    return _enter(row, now, State.FAILED, "its content in the ledger is damaged; post it again")


def let_go(row: Row, written: Row, removal: str, now: Now) -> Row:
    """Give up a letter that moves to another ledger, if it still is as it was written down for that."""
    if row != written or row.state not in MOVABLE:
        return row
    return _enter(row, now, State.CANCELLED, _went(removal))


def is_gone(row: Row, removal: str) -> bool:
    """Whether `removal` took the letter away."""
    return row.state is State.CANCELLED and row.history[-1].reason == _went(removal)


def arrive(row: Row, removal: str, now: Now) -> Row:
    """The row of a letter that comes from another ledger: all the same, but there is no note for it here."""
    return _enter(msgspec.structs.replace(row, put=False), now, row.state, f"came with export {removal}")


def seconds_until_due(row: Row, now: Now) -> float:
    """How long a queued row must not be claimed.

    After the wall clock was set back, only a time that the client named still counts: what was due is due, and a
    back-off has passed when its note is shown, because notes wait by a clock that does not jump.
    """
    if now.wall < row.since and row.due != row.born:
        return 0.0
    return max(0.0, row.due - max(now.wall, row.since))


def wake(row: Row, policy: Policy) -> float:
    """When the clerk must look again: wall seconds; for `sending` steady seconds; for ends, when they ended."""
    match row.state:
        case State.QUEUED:
            return min(math.inf if row.expires is None else row.expires, row.born + policy.give_up_after)
        case State.SENDING:
            return row.lease
        case State.IN_DOUBT:
            return row.resolve
        case _:
            return row.since


def backoff(row: Row) -> float:
    """Seconds until the next round: full jitter over 5 s x 2^tries, at most 1 h. The jitter comes from id and round."""
    return max(1.0, min(BACKOFF_CAP, BACKOFF * 2.0 ** min(row.tries, 20)) * _chance(row))


def _chance(row: Row) -> float:
    """From 0 to 1, for each round anew. No checksum: letters that it puts close together once it would always."""
    digest = hashlib.blake2b(f"{row.id}:{row.fence}:{row.tries}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) / 2**32


def _is_granted(row: Row, after: Ended | None, owner: str) -> bool:
    """Whether this very claim was granted before and its answer lost, so that its call was not begun."""
    owned = owner != "" and row.owner == owner and row.state in _OWNED and row.told != row.fence
    return owned and (after is None or row.fence == after.claim.fence + 1)


def _act(row: Row, verb: Verb, who: str, policy: Policy, now: Now) -> Row:  # noqa: PLR0911  # one line a verb
    state = row.state
    match verb:
        case Verb.CANCEL | Verb.DISCARD if state in {State.QUEUED, State.HELD}:
            return _enter(row, now, State.CANCELLED, f"{verb} by {who}")
        case Verb.RELEASE if state is State.HELD:
            return _queue(row, now, f"released by {who}; may be a second copy")
        case Verb.SETTLE if state in {State.HELD, State.IN_DOUBT}:
            return _enter(row, now, State.SENT, f"settled as sent by {who}")
        case Verb.REPLAY if state in {State.REJECTED, State.FAILED} and not _expired(row, now):
            fresh = msgspec.structs.replace(row, refusals={}, attempts=0, crashes=0, tries=0, born=now.wall)
            return _queue(fresh, now, f"replayed by {who}")
        case Verb.LAPSE if state is State.SENDING and row.lease <= now.steady:
            row = msgspec.structs.replace(row, crashes=row.crashes + 1)
            return _doubt(row, now, policy, "the lease of the call was over before its end was written", "")
        case Verb.DECIDE if state is State.IN_DOUBT and row.resolve <= now.wall:
            return _decide(row, policy, now)
        case Verb.AGE:
            return age(row, policy, now)
        case Verb.PUT if state is State.QUEUED and not row.put and row.due <= now.wall + MAX_DELAY:
            # Else the note was for an earlier time, and is used up.
            return msgspec.structs.replace(row, put=True)
        case _:
            return row


def _decide(row: Row, policy: Policy, now: Now) -> Row:
    if row.crashes >= MAX_CRASHES:
        return _enter(row, now, State.FAILED, f"given up after {row.crashes} calls that were cut; may have been sent")
    if row.on_doubt is OnDoubt.HOLD:
        return _enter(row, now, State.HELD, f"{row.provider} may have taken it; a person decides")
    if row.attempts >= policy.max_attempts:
        return _enter(row, now, State.FAILED, f"given up after {row.attempts} attempts; may have been sent")
    # Sent again together, all letters that a crash cut would be given up for the one among them that kills the process.
    spread = policy.resend_after * _chance(row) if row.crashes else 0.0
    return _queue(row, now, "sent again by policy; may be a second copy", spread)


def _requeue(row: Row, provider: str, end: End, policy: Policy, now: Now) -> Row:
    """Back to the queue after a call that was surely not accepted. The note of a letter in doubt may be gone."""
    noted = row.state is State.SENDING
    if end.kind is EndKind.UNSENT:
        row = msgspec.structs.replace(row, due=now.wall, put=noted and row.put)
        return _enter(row, now, State.QUEUED, end.reason, provider, end.phase)
    if row.attempts >= policy.max_attempts:
        reason = f"given up after {row.attempts} attempts: {end.reason}"
        return _enter(row, now, State.FAILED, reason, provider, end.phase)
    least = 0.0 if end.retry_after is None else min(max(end.retry_after, RETRY_AFTER_BOUNDS[0]), RETRY_AFTER_BOUNDS[1])
    wait = max(least, backoff(row))
    row = msgspec.structs.replace(row, due=now.wall + wait, tries=row.tries + 1, put=noted and wait <= MAX_DELAY)
    return _enter(row, now, State.QUEUED, end.reason, provider, end.phase)


def _queue(row: Row, now: Now, reason: str, wait: float = 0.0) -> Row:
    return _enter(msgspec.structs.replace(row, due=now.wall + wait, put=False), now, State.QUEUED, reason)


def _doubt(row: Row, now: Now, policy: Policy, reason: str, phase: str) -> Row:
    # What need not wait is decided on though the wall clock should be set back meanwhile.
    resolve = 0.0 if row.on_doubt is OnDoubt.HOLD else now.wall + policy.resend_after
    row = msgspec.structs.replace(row, resolve=resolve)
    return _enter(row, now, State.IN_DOUBT, reason, row.provider, phase)


def _enter(row: Row, now: Now, state: State, reason: str = "", provider: str = "", phase: str = "") -> Row:
    """The row in `state`, with a line in its history. `since` stays when the state does."""
    history = (*row.history, Entry(now.wall, state, reason, provider, phase))
    omitted = row.omitted
    if len(history) > 2 * HISTORY_ENDS:
        history = history[:HISTORY_ENDS] + history[HISTORY_ENDS + 1 :]
        omitted += 1
    since = row.since if state is row.state else now.wall
    return msgspec.structs.replace(row, state=state, since=since, history=history, omitted=omitted)


def _went(removal: str) -> str:
    return f"moved to another ledger by export {removal}"


def _expired(row: Row, now: Now) -> bool:
    return row.expires is not None and now.wall >= row.expires


def _may_send(call: Call, sender: str) -> bool:
    return not call.domains or sender in call.domains


def _nobody_left(row: Row, calls: Iterable[Call]) -> str:
    reasons = [f"{name}: {reason}" for name, reason in row.refusals.items()]
    reasons += [f"{call.provider}: may not send from {row.sender}" for call in calls if not _may_send(call, row.sender)]
    return "refused by every provider. " + "; ".join(reasons)


def _last_reason(row: Row) -> str:
    return f"; last: {row.last_reason}" if row.last_reason else ""


def _rfc3339(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")


def _span(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"  # an hour
