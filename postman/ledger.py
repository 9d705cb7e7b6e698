"""The contract of a ledger: the truth about every letter. Implementations are in backends/, each an entry point.

What may happen to a row is decided by the pure functions of `postman.transitions`; a ledger reads a row, asks them,
and writes the answer with one compare-and-set. So all ledgers decide alike, and the decisions are tested without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from postman.mail import Id, Letter
from postman.provider import Receipt
from postman.row import End, Policy, Row, State, Verb


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


HEARD = 86_400.0
"""Seconds for which an instance that was not heard of is remembered, so that somebody learns of it the next morning."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One process among those on a ledger.

    Attributes:
        id: of this very process.
        name: of its machine.
        only: the part of the service that it is; "": all.
        delivered: mails that providers took from it in the last `seconds` in which mail waited.
        left: it has ended in good order.
        at: when it said so, in wall seconds of the ledger's clock; the ledger writes it.
    """

    id: str
    name: str
    pid: int
    only: str = ""
    workers: int = 0
    delivered: int = 0
    seconds: float = 0.0
    left: bool = False
    at: float = 0.0


class LedgerStatistics(msgspec.Struct, frozen=True):
    """Counts of rows.

    Attributes:
        states: how many rows are in each state; states without rows may be left out.
        oldest_due: wall seconds since when the oldest queued letter has been due; None: nothing waits.
        doubled: letters that more than one receipt came for.
        troubles: sentences about what the store has lost, or what hinders it.
    """

    states: Mapping[State, int]
    oldest_due: float | None = None
    doubled: int = 0
    troubles: tuple[str, ...] = ()


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

    Every method is one transaction, but that `act` and `sweep` may be one for each letter; each raises
    `StoreUnavailable` when the engine does not answer. A write that was begun is never abandoned: a cancelled caller
    waits for its fate. What is asked of one letter raises `NewerRow` or `DamagedRow` when its row cannot be read; what
    is asked of many goes on without it.
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
        """Rows, newest first, beginning behind `after`; fewer than `limit`: there are no more."""
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

    async def enrol(self, instance: Instance) -> Sequence[Instance]:
        """Say that an instance is there, in place of what it said before; all that said so within `HEARD` seconds.

        One that has left is forgotten.
        A ledger that is not shared has one instance. Need not be durable.
        """
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
