"""The contract of a ledger: the truth about every letter. Implementations are in ledgers/, each an entry point.

What may happen to a row is decided by the pure functions of `postman.transitions`; a ledger reads a row, asks them,
and writes the answer with one compare-and-set. So all ledgers decide alike, and the decisions are tested without them.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from postman.mail import Id, Letter, OnDoubt
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


class Call(msgspec.Struct, frozen=True):
    """A provider that could be asked, in the order of preference.

    Attributes:
        provider: its name in postman.toml.
        account: its account, see `Kind.account`.
        lease: seconds that the claim may last: the provider's timeout + 5.
        ready: whether it can be asked now (breaker, pause, limits); one that is not still counts as "left".
        domains: the from-domains that it may send for; empty: any.
    """

    provider: str
    account: str
    lease: float
    ready: bool = True
    domains: frozenset[str] = frozenset()


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


class Claim(msgspec.Struct, frozen=True):
    """The right, and the duty, to make one provider call. Committed before it is returned.

    Attributes:
        letter: what to send.
        fence: the number of this call for this letter; only its owner may write its end.
        call: whom to ask.
        lease_ends: on the steady clock; the call must not begin after it.
    """

    letter: Letter
    fence: int
    call: Call
    lease_ends: float

    @property
    def id(self) -> Id:
        """The letter's id."""
        return self.letter.id


class Unclaimable(msgspec.Struct, frozen=True):
    """No claim: the ledger says what the row is now.

    Attributes:
        state: None: there is no such row.
        delay: for a queued row: seconds until it is due.
        ended: the row, when this very claim ended it (nobody is left to be asked, or its time was over).
    """

    state: State | None
    delay: float = 0.0
    ended: Row | None = None


class Ended(msgspec.Struct, frozen=True):
    """A claim and how its call ended, when another provider may be asked in the same write."""

    claim: Claim
    end: End


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

    Fields are only ever added, at the end and with defaults, so that a row written by an older version can be read.
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


class Accepted(msgspec.Struct, frozen=True):
    """The promise.

    Attributes:
        ids: in the order of the letters; of the first request, when replayed.
        replayed: the key came before with the same body; nothing was written.
        noted: the notes were put in the same transaction (ledger and queue are one store).
    """

    ids: tuple[Id, ...]
    replayed: bool = False
    noted: bool = False


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows; None: any. `recipient` and `tag` are exact, `since` is the earliest time of acceptance."""

    client: str | None = None
    state: State | None = None
    since: float | None = None
    recipient: str | None = None
    tag: str | None = None


class Overdue(msgspec.Struct, frozen=True):
    """The clerk's lists, each at most `limit` rows, oldest first.

    Attributes:
        lapsed: sending, with the lease over.
        doubtful: in doubt, and their time has come.
        aged: queued, past `expires` or past giving up.
        unput: queued, due within `MAX_DELAY`, without a note.
        waiting: queued with a note, due for over 60 s.
    """

    lapsed: tuple[Row, ...] = ()
    doubtful: tuple[Row, ...] = ()
    aged: tuple[Row, ...] = ()
    unput: tuple[Row, ...] = ()
    waiting: tuple[Row, ...] = ()


ALL = "*"
"""In place of a provider's name: every provider."""


class Pause(msgspec.Struct, frozen=True):
    """A person stopped a provider, or all of them."""

    provider: str
    """A name, or `ALL`."""
    since: float
    who: str


class LedgerStatistics(msgspec.Struct, frozen=True):
    """Counts of rows.

    Attributes:
        states: how many rows are in each state; states without rows may be left out.
        oldest_due: wall seconds since when the oldest queued letter has been due; None: nothing waits.
        doubled: letters that more than one receipt came for.
    """

    states: Mapping[State, int]
    oldest_due: float | None = None
    doubled: int = 0


class LedgerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What every ledger is configured with; a kind's own settings extend it (they come from the URL's query).

    Attributes:
        url: where it is.
        policy: the ledger's first; it decides on what a dead process left behind while the ledger is opened.
    """

    url: str
    policy: Policy = Policy()


class Ledger(Protocol):
    """The truth about every letter.

    Attributes:
        durable: what returned has survived a power cut.
        shared: other processes may use it at the same time.
        policy: replaced whole by a reload.

    Every method is one transaction, and raises `StoreUnavailable` when the engine does not answer. A write that was
    begun is never abandoned: a cancelled caller waits for its fate.
    """

    durable: bool
    shared: bool
    policy: Policy

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        """Take letters, all or none. On return the promise is given.

        Args:
            letters: with fresh ids; their order is kept.
            client: whose they are; the scope of `key`.
            key: the Idempotency-Key. Key and rows are one transaction.
            fingerprint: of the request's body; the same key with another one is refused.

        Raises:
            KeyReused: nothing was changed.
            IdTaken: nothing was changed; mint new ids and call again.
            StoreFull: nothing was changed.
            StoreUnavailable: `may_have_happened` tells whether to read before answering.
        """
        ...

    async def claim(
        self, id: Id, calls: Sequence[Call], after: Ended | None = None, *, owner: str = ""
    ) -> Claim | Unclaimable:
        """Choose the first of `calls` that may have this letter, and take the right to make that call.

        Args:
            id: the letter.
            calls: every provider there is, in order of preference, those that cannot be asked now marked so.
            after: the call that just ended without acceptance; written in the same transaction.
            owner: who asks, one name for each delivery. Who repeats a claim whose answer was lost is given the same
                claim, lease included; without a name it is not known again.
        """
        ...

    async def finish(self, claim: Claim, end: End) -> Row:
        """Write how the call ended, if the claim still is the newest; a receipt is taken even if it is not.

        Written twice, it counts once.

        Returns:
            What the row now says.
        """
        ...

    async def settle(self, id: Id, receipt: Receipt, source: str) -> Row | None:
        """Evidence, from anyone, that a provider took the letter. None: no such row."""
        ...

    async def act(self, ids: Sequence[Id], verb: Verb, who: str) -> Mapping[Id, tuple[Row, bool]]:
        """Do `verb` to each row that allows it.

        Returns:
            For each id that exists: the row as it now is, and whether `verb` was done.
        """
        ...

    async def read(self, id: Id, client: str | None) -> Row | None:
        """The row; None if there is none or it is another client's. `client` None: anybody's."""
        ...

    async def find(self, filter: Filter, after: Id | None, limit: int) -> Sequence[Row]:
        """Rows, newest first, beginning behind `after`."""
        ...

    async def overdue(self, limit: int) -> Overdue:
        """The clerk's lists."""
        ...

    async def sweep(self, limit: int) -> int:
        """Delete at most `limit` ended rows past retention and keys past theirs; how many."""
        ...

    async def pause(self, provider: str, who: str | None) -> None:
        """Remember that `provider` (`*`: all) is paused by `who`; None: no longer. Survives a restart where durable."""
        ...

    async def pauses(self) -> Sequence[Pause]:
        """Who is paused."""
        ...

    async def statistics(self) -> LedgerStatistics:
        """Count. Cheap: kept as a running count, not by scanning."""
        ...


Which = Literal["to", "tag"]


def labels(letter: Letter) -> frozenset[tuple[Which, str]]:
    """What a letter can be found by: each recipient's address and each tag."""
    return frozenset(
        {("to", address.email.lower()) for address in letter.mail.recipients}
        | {("tag", tag) for tag in letter.mail.tags},
    )
