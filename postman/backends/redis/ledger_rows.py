"""The rows of the ledger in Redis: where a letter stands, what was read of it, what shall be written.

A letter is a hash: `v` the version, which every write counts up, `r` the row, `b` the body, `l` the labels. All
else are indices, sorted sets of ids, by name:

    state:X     what is in a state          score 0, so in the order of ids
    client:X    a client's letters          the same
    label:X     a recipient's or a tag's    the same; X is a hash, no address stays longer than its letter's body
    wake:X      when the clerk must look    of the three states that it looks at, and of `ended`
    due:put, due:unput                      what is queued, by the time it is due
    doubled     what more than one receipt came for
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from postman import transitions
from postman.backends import rows, seal
from postman.backends.columns import hash_of, hashes_of
from postman.mail import Id
from postman.movable import UsedKey
from postman.row import BODY_NOT_NEEDED, Policy, Row, State

ENDED: Final = "wake:ended"
PUT, UNPUT = "due:put", "due:unput"
DOUBLED: Final = "doubled"

_LOOKED_AT: Final = frozenset({State.QUEUED, State.SENDING, State.IN_DOUBT})

_used = msgspec.msgpack.Decoder(rows.Used)


class Known(NamedTuple):
    """What the server has of a letter."""

    version: bytes | int
    row: Row
    body: bytes | None = None


class Found(NamedTuple):
    """The bytes that the server has of a letter.

    Attributes:
        version: empty: none that could be one.
        row: empty: damaged; None: there is no letter.
        more: its body or its labels.
    """

    version: bytes
    row: bytes | None
    more: bytes | None


def found(values: Sequence[bytes | None] | None) -> Found:
    """What the fields `v`, `r` and another one say; None: the key holds no letter, but something else."""
    version, row, more = values or (b"", b"", b"")
    if version is None and row is None:
        return Found(b"", None, more)
    return Found(version, row or b"", more) if version and version.isdigit() else Found(version or b"", b"", more)


class Snapshot:
    """See `postman.backends.rows.Present`.

    Attributes:
        known: what was read.
        written: what is to be written instead.
    """

    def __init__(self, known: Mapping[Id, Known]) -> None:
        self.known = known
        self.written: dict[Id, Row] = {}

    def get(self, id: Id) -> Row | None:
        """See `Present.get`."""
        return self.known[id].row if id in self.known else None

    def body(self, id: Id) -> bytes | None:
        """See `Present.body`."""
        return self.known[id].body

    def write(self, row: Row, before: Row) -> None:  # noqa: ARG002  # the version tells
        """See `Present.write`."""
        self.written[row.id] = row


def used(encoded: bytes) -> rows.Used | None:
    """What is known of an idempotency key; None when it is damaged."""
    try:
        return _used.decode(encoded)
    except seal.UNREADABLE:
        return None


def field_of_key(client: str, key: str) -> str:
    """The name of an idempotency key."""
    return f"{client}\0{key}"


def index_of_state(state: State) -> str:
    """The name of the index of a state."""
    return f"state:{state}"


def index_of_wake(state: State) -> str:
    """The name of the index of what the clerk looks at."""
    return ENDED if state.ended else f"wake:{state}"


def index_of_client(client: str) -> str:
    """The name of the index of a client."""
    return f"client:{client}"


def index_of_label(hash: bytes) -> str:
    """The name of the index of a label."""
    return f"label:{hash.hex()}"


def places(row: Row, policy: Policy) -> dict[str, float]:
    """Where a row stands while it is as it is: names of indices, and the scores there.

    Where the clerk looks comes first: it finds what stands there alone because a script failed.
    """
    found = {PUT if row.put else UNPUT: row.due} if row.state is State.QUEUED else {}
    if row.state in _LOOKED_AT or row.state.ended:
        found[index_of_wake(row.state)] = transitions.wake(row, policy)
    found[index_of_state(row.state)] = 0.0
    if row.receipts > 1:
        found[DOUBLED] = 0.0
    return found


EVERYWHERE: Final = (
    *(index_of_state(state) for state in State),
    *sorted({index_of_wake(state) for state in State}),
    PUT,
    UNPUT,
    DOUBLED,
)
"""All names that `places` may give."""


def swap_arguments(known: Known, row: Row, policy: Policy) -> list[Any]:
    """For the script SWAP, behind the prefix."""
    now = places(row, policy)
    left = [name for name in places(known.row, policy) if name not in now]
    bodiless = row.state in BODY_NOT_NEEDED and known.row.state not in BODY_NOT_NEEDED
    return [row.id, known.version, seal.sealed(row), int(bodiless), len(left), *left, *_flat(now)]


def accept_arguments(parcel: rows.Parcel, policy: Policy) -> list[Any]:
    """For the script ACCEPT: one letter."""
    row, body, labels = parcel
    hashes = [hash_of(label) for label in labels]
    stays = {index_of_client(row.client): 0.0, **{index_of_label(hash): 0.0 for hash in hashes}}
    found = {**places(row, policy), **stays}
    return [row.id, seal.sealed(row), body, b"".join(hashes), len(found), *_flat(found)]


def key_arguments(used: UsedKey) -> list[Any]:
    """For the script TAKE_KEYS: one key."""
    value = msgspec.msgpack.encode(rows.Used(used.fingerprint, used.ids))
    return [field_of_key(used.client, used.key), value, used.at]


def forget_arguments(id: Id, letter: Found, row: Row | None) -> list[Any]:
    """For the script FORGET, behind the prefix. Where a damaged row stood for its client is not known."""
    client = [index_of_client(row.client)] if row else []
    labels = [index_of_label(hash) for hash in hashes_of(letter.more or b"")]
    return [id, letter.version, *EVERYWHERE, *client, *labels]


def _flat(found: Mapping[str, float]) -> Sequence[Any]:
    return [part for name, score in found.items() for part in (name, score)]
