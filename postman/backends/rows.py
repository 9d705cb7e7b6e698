"""What a ledger does to its rows.

The functions here run within one transaction of whoever calls them; they read and write through `Rows`, and leave every
decision to `postman.transitions`. Those that raise have changed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from postman import transitions
from postman.backends import seal
from postman.errors import DamagedRow, IdTaken, KeyReused, NewerRow, StoreError, StoreFull
from postman.failpoint import failpoint
from postman.ledger import Accepted, Call, Claim, Ended, Filter, Unclaimable, Which, labels
from postman.mail import Id, Letter
from postman.movable import Stored, UsedKey
from postman.provider import Receipt
from postman.row import End, Now, Policy, Row, State, Verb

OVERDUE = 60.0
"""Seconds after which a letter that is due and has a note counts as `waiting`."""


class Parcel(NamedTuple):
    """A letter made ready to be stored."""

    row: Row
    body: bytes
    labels: frozenset[tuple[Which, str]]


class Used(NamedTuple):
    """What is known of an idempotency key."""

    fingerprint: bytes
    ids: tuple[Id, ...]


class Present(Protocol):
    """Rows that are there already, within a transaction."""

    def get(self, id: Id) -> Row | None:
        """The row.

        Raises:
            NewerRow, DamagedRow: see `seal.read`.
        """

    def body(self, id: Id) -> bytes | None:
        """The letter's bytes; None when they were lost, or the row is in a state of BODY_NOT_NEEDED."""

    def write(self, row: Row, before: Row) -> None:
        """Replace `before`. The body goes when it is needed no more."""


class Rows(Present, Protocol):
    """The rows of a ledger, within a transaction."""

    def count(self, state: State) -> int:
        """How many rows are in `state`."""

    def known(self, id: Id) -> bool:
        """Whether a row has this id; may be False for one that `add` will refuse."""

    def add(self, parcel: Parcel) -> None:
        """Store a new letter."""

    def used(self, client: str, key: str) -> Used | None:
        """What came before with this key."""

    def remember(self, client: str, key: str, used: Used, now: Now) -> None:
        """Keep the key."""


def parcels(letters: Sequence[Letter], client: str, policy: Policy, now: Now) -> list[Parcel]:
    """Make letters ready; needs no transaction."""
    ready = []
    for letter in letters:
        body = seal.sealed(letter)
        ready.append(
            Parcel(transitions.accepted_row(letter, client, len(body), policy, now), body, labels(letter)),
        )
    return ready


def too_many(policy: Policy) -> StoreFull:
    """As many mails are queued as may be."""
    return StoreFull(f"{policy.max_queued} mails are queued already; see why they wait, or raise max-length of [queue]")


def accept(
    rows: Rows,
    parcels: Sequence[Parcel],
    client: str,
    key: str | None,
    fingerprint: bytes,
    *,
    policy: Policy,
    now: Now,
) -> Accepted:
    """See `Ledger.accept`."""
    ids = tuple(parcel.row.id for parcel in parcels)
    used = None if key is None else rows.used(client, key)
    if used is not None:
        if used.fingerprint != fingerprint:
            raise KeyReused("this Idempotency-Key came before with another body")
        return Accepted(used.ids, replayed=True)
    if rows.count(State.QUEUED) + len(ids) > policy.max_queued:
        raise too_many(policy)
    if len(set(ids)) < len(ids) or any(rows.known(id) for id in ids):
        raise IdTaken("a letter with one of these ids exists")
    for parcel in parcels:
        rows.add(parcel)
    if key is not None:
        rows.remember(client, key, Used(fingerprint, ids), now)
    failpoint("A3")
    return Accepted(ids)


def claim(
    rows: Present, id: Id, calls: Sequence[Call], after: Ended | None, *, owner: str, policy: Policy, now: Now
) -> Claim | Unclaimable:
    """See `Ledger.claim`."""
    before = rows.get(id)
    if before is None:
        return Unclaimable(None)
    row, call = transitions.claim(before, calls, after, policy, now, owner=owner)
    letter = None if call is None else seal.letter_of(id, rows.body(id)) if after is None else after.claim.letter
    if letter is None and call is not None:
        row, call = transitions.spoil(before, now), None
    if row is not before:
        rows.write(row, before)
    if call is None or letter is None:
        delay = transitions.seconds_until_due(row, now) if row.state is State.QUEUED else 0.0
        return Unclaimable(row.state, delay, row if row.state.ended and not before.state.ended else None)
    return Claim(letter, row.fence, call, row.lease)


def finish(rows: Present, claim: Claim, end: End, policy: Policy, now: Now) -> Row:
    """See `Ledger.finish`."""
    before = rows.get(claim.id)
    if before is None:
        raise StoreError(f"{claim.id} is not in the ledger, so the end of its call cannot be written")
    return _write(rows, transitions.finish(before, claim.fence, claim.call.provider, end, policy, now), before)


def settle(rows: Present, id: Id, receipt: Receipt, source: str, now: Now) -> Row | None:
    """See `Ledger.settle`."""
    before = rows.get(id)
    return None if before is None else _write(rows, transitions.settle(before, receipt, source, now), before)


def shown(row: Row | None, client: str | None) -> Row | None:
    """What `Ledger.read` answers: another client's row is as unknown as none."""
    return row if row is not None and client in {None, row.client} else None


def act(
    rows: Present, ids: Sequence[Id], verb: Verb, who: str, policy: Policy, now: Now
) -> Mapping[Id, tuple[Row, bool]]:
    """See `Ledger.act`."""
    acted: dict[Id, tuple[Row, bool]] = {}
    for id in dict.fromkeys(ids):
        before = _ours(rows, id)
        if before is not None:
            acted[id] = row, done = transitions.act(before, verb, who, policy, now)
            # A row that is not to be aged is written as well: when to look again depends on a policy that may be new.
            if done or verb is Verb.AGE:
                rows.write(row, before)
    return acted


def letters(rows: Present, ids: Sequence[Id]) -> Mapping[Id, Letter]:
    """See `Movable.letters`."""
    return seal.readable((id, rows.body(id)) for id in ids if _ours(rows, id) is not None)


def let_go(rows: Present, written: Sequence[Row], removal: str, now: Now) -> frozenset[Id]:
    """See `Movable.let_go`."""
    gone = set()
    for row in written:
        before = _ours(rows, row.id)
        if before is not None:
            after = _write(rows, transitions.let_go(before, row, removal, now), before)
            if transitions.is_gone(after, removal):
                gone.add(row.id)
    return frozenset(gone)


def repacked(letters: Sequence[Stored]) -> list[Parcel]:
    """Make letters of another ledger ready; needs no transaction."""
    return [Parcel(stored.row, seal.sealed(stored.letter), labels(stored.letter)) for stored in letters]


def take_in(rows: Rows, parcels: Sequence[Parcel]) -> frozenset[Id]:
    """See `Movable.take_in`."""
    there = frozenset(parcel.row.id for parcel in parcels if _is_there(rows, parcel.row.id))
    for parcel in parcels:
        if parcel.row.id not in there:
            rows.add(parcel)
    return there


def take_keys(rows: Rows, keys: Sequence[UsedKey]) -> None:
    """See `Movable.take_keys`."""
    for key in keys:
        if rows.used(key.client, key.key) is None:
            rows.remember(key.client, key.key, Used(key.fingerprint, key.ids), Now(key.at, key.at))


def page_of_keys(found: Sequence[tuple[Any, ...]], limit: int) -> tuple[Sequence[UsedKey], str]:
    """What `Movable.keys` answers, from a table in the order of client and key; `key_at` reads the cursor."""
    keys = [UsedKey(client, key, fingerprint, tuple(ids.split()), at) for client, key, fingerprint, ids, at in found]
    return keys, f"{keys[-1].client} {keys[-1].key}" if len(keys) == limit else ""


def key_at(cursor: str) -> tuple[str, str]:
    """Client and key of a cursor of `page_of_keys`."""
    client, _, key = cursor.partition(" ")
    return client, key


def matches(row: Row, filter: Filter) -> bool:
    """Whether a row fits what a filter says of rows; recipient and tag are not in them."""
    return (
        (filter.client is None or row.client == filter.client)
        and (filter.state is None or row.state is filter.state)
        and (filter.since is None or row.accepted >= filter.since)
    )


def labels_of(filter: Filter) -> list[tuple[Which, str]]:
    """The labels that a filter asks for."""
    asked: list[tuple[Which, str | None]] = [("to", filter.recipient and filter.recipient.lower()), ("tag", filter.tag)]
    return [(which, value) for which, value in asked if value is not None]


def _ours(rows: Present, id: Id) -> Row | None:
    """The row; None also when it cannot be read."""
    try:
        return rows.get(id)
    except (NewerRow, DamagedRow):
        return None


def _is_there(rows: Present, id: Id) -> bool:
    try:
        return rows.get(id) is not None
    except (NewerRow, DamagedRow):
        return True


def _write(rows: Present, row: Row, before: Row) -> Row:
    if row is not before:
        rows.write(row, before)
    return row
