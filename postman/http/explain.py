"""A row of the ledger in words: the document of `GET /mail/{id}`, with what happens next or what a person can do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from postman.mail import OnDoubt
from postman.row import Entry, Row, State


def document(row: Row, now: float) -> dict[str, Any]:
    """What is told of a letter: everything but its content.

    Args:
        row: the letter's.
        now: wall seconds.
    """
    return {**summary(row, now), "history": _history(row)}


def summary(row: Row, now: float) -> dict[str, Any]:
    """The same without the history; for lists."""
    return {
        "tracking-id": row.id,
        "state": row.state,
        "since": rfc3339(row.since),
        "accepted": rfc3339(row.accepted),
        "provider": row.provider or None,
        "message-id": row.message_id,
        "calls": row.fence,
        "attempts": row.attempts,
        "due": rfc3339(row.due) if row.state is State.QUEUED else None,
        "expires-at": None if row.expires is None else rfc3339(row.expires),
        "on-doubt": row.on_doubt,
        "refused": [{"recipient": refusal.recipient, "reason": refusal.reason} for refusal in row.refused],
        "next": next_step(row, now),
    }


def next_step(row: Row, now: float) -> str:  # noqa: PLR0911  # one line a state
    """One or two sentences: what happens next by itself, or what a person can do, with the command."""
    match row.state:
        case State.QUEUED:
            return _queued(row, now)
        case State.SENDING:
            return f"{row.provider} is being asked now; look again in a moment."
        case State.IN_DOUBT:
            return _in_doubt(row)
        case State.HELD:
            return (
                f"Waits for a person, because {row.provider} may have taken it. Ask the recipient or look there; then"
                f" `postman settle {row.id}` if it arrived, `postman release {row.id}` to send it (again),"
                f" or `postman discard {row.id}`."
            )
        case State.SENT:
            return _sent(row)
        case State.REJECTED | State.FAILED:
            return (
                f"Nothing happens by itself. {_why(row)}If the cause is mended `postman replay {row.id}` sends it;"
                " if the mail itself is wrong, post a corrected one."
            )
        case State.EXPIRED:
            return "Nothing; its time was over before a provider took it. Post it anew if it is still wanted."
        case State.CANCELLED:
            return "Nothing; it was cancelled before a provider took it."


def rfc3339(wall: float) -> str:
    """Wall seconds as text, in UTC, to the millisecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _queued(row: Row, now: float) -> str:
    if row.due <= now:
        when = "Waits for its turn at a provider that can be asked"
    elif row.tries:
        when = f"Is tried again at {rfc3339(row.due)}"
    else:
        when = f"Is not due before {rfc3339(row.due)}"
    reason = row.last_reason if row.tries or row.attempts else ""
    because = f", because the last try ended so: {reason}" if reason else ""
    return f"{when}{because}. `postman cancel {row.id}` stops it."


def _in_doubt(row: Row) -> str:
    doubt = f"{row.provider} may have taken it, so no other provider is asked."
    if row.on_doubt is OnDoubt.HOLD:
        return f"{doubt} Unless that is settled it will soon be held for a person."
    return f"{doubt} Unless that is settled it is sent again after {rfc3339(row.resolve)}, perhaps as a second copy."


def _sent(row: Row) -> str:
    said = f"Nothing; {row.provider or 'a provider'} took it."
    if row.receipts == 0:
        said = "Nothing; a person said that it arrived."
    if row.refused:
        said += f" {len(row.refused)} of its recipients were refused there; see `refused`."
    if row.receipts > 1:
        said += f" {row.receipts} receipts came for it, so it was sent more than once."
    return said


def _why(row: Row) -> str:
    return f"It ended so: {row.last_reason.rstrip('.')}. " if row.last_reason else ""


def _history(row: Row) -> list[dict[str, Any]]:
    entries = [_entry(entry) for entry in row.history]
    if row.omitted:
        half = len(entries) // 2
        entries.insert(half, {"at": entries[half]["at"], "reason": f"{row.omitted} entries were left out here"})
    return entries


def _entry(entry: Entry) -> dict[str, Any]:
    told = {"provider": entry.provider, "reason": entry.reason, "phase": entry.phase}
    return {"at": rfc3339(entry.at), "state": entry.state, **{name: text for name, text in told.items() if text}}
