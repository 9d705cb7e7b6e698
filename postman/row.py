"""A row of the ledger: all that is known of a letter but its body, and the words for what happens to it.

What may happen to a row, and when, is in `postman.transitions`.
"""

from __future__ import annotations

import enum
import time

import msgspec

from postman.mail import Id, OnDoubt
from postman.provider import Receipt, Refusal, boottime


class State(enum.StrEnum):
    """Where a letter is. The last five are ends; `held` waits for a person."""

    QUEUED = "queued"
    SENDING = "sending"
    IN_DOUBT = "in-doubt"
    HELD = "held"
    SENT = "sent"
    REJECTED = "rejected"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself and retention counts."""
        return self in ENDS


ENDS = frozenset({State.SENT, State.REJECTED, State.FAILED, State.EXPIRED, State.CANCELLED})
BODY_NOT_NEEDED = frozenset({State.SENT, State.EXPIRED, State.CANCELLED})
"""States in which the body has been deleted: nobody will ever send it again."""


class Verb(enum.StrEnum):
    """What a person, or the clerk, asks of rows."""

    CANCEL = "cancel"
    """Client or person: queued or held -> cancelled."""
    RELEASE = "release"
    """Person: held -> queued, "it did not arrive, send it"."""
    DISCARD = "discard"
    """Person: queued or held -> cancelled."""
    SETTLE = "settle"
    """Person: held or in-doubt -> sent, "it did arrive"."""
    REPLAY = "replay"
    """Person: rejected or failed -> queued, with everything counted anew."""
    LAPSE = "lapse"
    """Clerk: sending with its lease over -> in-doubt, one more crash."""
    DECIDE = "decide"
    """Clerk: in-doubt whose time has come -> held, queued or failed, by policy."""
    AGE = "age"
    """Clerk: queued past its time -> expired or failed."""
    PUT = "put"
    """Clerk or whoever made it queued: a note was put for it."""


class EndKind(enum.StrEnum):
    """How a provider call ended, as the ledger sees it."""

    ACCEPTED = "accepted"
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"
    REFUSED = "refused"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    UNSENT = "unsent"
    """We stopped before anything was handed over; says nothing about the provider."""


class Now(msgspec.Struct, frozen=True):
    """The time of a decision.

    Attributes:
        wall: seconds since 1970; for what people see and what must survive a restart.
        steady: seconds by the clock of leases, which never jumps (CLOCK_BOOTTIME, or the engine's clock where shared).
    """

    wall: float
    steady: float


def present() -> Now:
    """The clock of this machine."""
    return Now(time.time(), boottime())


class Policy(msgspec.Struct, frozen=True):
    """What postman.toml says about the life of letters. A reload replaces it whole."""

    max_attempts: int = 8
    give_up_after: float = 172_800.0
    on_doubt: OnDoubt = OnDoubt.HOLD
    resend_after: float = 60.0
    doubt_patience: float = 3_600.0
    retention: float = 2_592_000.0
    key_retention: float = 259_200.0
    max_queued: int = 1_000_000


class End(msgspec.Struct, frozen=True):
    """How a provider call ended.

    Attributes:
        kind: what it means.
        reason: a sentence for the history.
        phase: how far the call came, see `provider.Phase`.
        receipt: for ACCEPTED.
        retry_after: for UNAVAILABLE, seconds the provider asked for.
    """

    kind: EndKind
    reason: str = ""
    phase: str = ""
    receipt: Receipt | None = None
    retry_after: float | None = None


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One line of a row's history."""

    at: float
    state: State
    reason: str = ""
    provider: str = ""
    phase: str = ""


HISTORY_ENDS = 20
"""The first and the last so many entries of a history are kept."""


class Row(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """All that the ledger knows of a letter but its body. Times are wall seconds unless said otherwise.

    Fields are only ever added, at the end and with defaults, so that a row written by an older version can be read. An
    older version that reads it passes over new fields, and loses them when it writes: during a roll-out they must be
    such that this does no harm. A row with a new word (a state, a policy) it leaves alone.
    """

    id: Id
    client: str
    state: State
    since: float
    """When the state began."""
    accepted: float
    born: float
    """When it was first due; give-up counts from here. A replay sets it anew."""
    due: float
    """Not to be claimed before."""
    lane: int
    size: int
    sender: str
    """The domain of From."""
    on_doubt: OnDoubt
    expires: float | None = None
    put: bool = False
    """A note was put since it became queued, as far as we know."""
    fence: int = 0
    """How many calls were begun."""
    tries: int = 0
    """Rounds that ended without an end for the letter; the exponent of the back-off."""
    attempts: int = 0
    """Calls in which a provider read the letter."""
    crashes: int = 0
    """Calls whose end was never written."""
    provider: str = ""
    """Of the last call."""
    account: str = ""
    lease: float = 0.0
    """Steady clock: until when the call may last."""
    resolve: float = 0.0
    """In doubt: when the policy decides."""
    message_id: str | None = None
    refused: tuple[Refusal, ...] = ()
    """Recipients not taken by the provider that took the letter."""
    refusals: dict[str, str] = {}
    """Providers that refused the letter, each with its reason; not asked again."""
    receipts: int = 0
    """More than one: doubled."""
    history: tuple[Entry, ...] = ()
    omitted: int = 0
    """Entries left out of the middle of the history."""
    owner: str = ""
    """Who claimed the last call."""
    told: int = 0
    """The call whose end was written last."""

    @property
    def last_reason(self) -> str:
        """What the history said last of why, since the letter was accepted; "": nothing."""
        return next((entry.reason for entry in reversed(self.history[1:]) if entry.reason), "")
