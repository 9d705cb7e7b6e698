"""By what engines find letters: keys in the order of their ids, numbers of states, hashes of labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from postman import transitions
from postman.backends import seal
from postman.ledger import Which
from postman.mail import Id
from postman.row import Policy, Row, State

STATES: Final = tuple(State)
NUMBERS: Final = {state: number for number, state in enumerate(STATES)}
"""States as tables have them: 0 queued, 1 sending, 2 in doubt, 3 held, from 4 on the ends. New ones come last."""
SLACK: Final = 3_600.0
"""Seconds that may pass from the making of an id to its acceptance."""

_HASH: Final = 8
"""Bytes."""


def key_of(id: Id) -> int:
    """The primary key of an id: signed 64 bits, in the order of the ids."""
    return int(id, 16) - 2**63


def id_of(key: int) -> Id:
    """The id of a primary key."""
    return Id(f"0x{key + 2**63:016x}")


def first_id(since: float) -> Id:
    """No letter that was accepted since then has an id before this one: an id begins with its time."""
    return Id(f"0x{min(max(0, int((since - SLACK) * 1_000)), 2**42 - 1) << 22:016x}")


def hash_of(label: tuple[Which, str]) -> bytes:
    """What is stored of a label: no address stays longer than its letter's body."""
    return hashlib.blake2b(f"{label[0]}\0{label[1]}".encode(), digest_size=_HASH).digest()


def joined(labels: Iterable[tuple[Which, str]]) -> bytes:
    """The hashes of a letter's labels, to be kept with its row."""
    return b"".join(map(hash_of, labels))


def hashes_of(joined: bytes) -> list[bytes]:
    """The hashes that were joined."""
    return [joined[start : start + _HASH] for start in range(0, len(joined), _HASH)]


def changing(row: Row, policy: Policy) -> tuple[int, float, float, bool, bytes]:
    """The columns that change with a row: state, due, wake, put, and the row itself."""
    return NUMBERS[row.state], row.due, transitions.wake(row, policy), row.put, seal.sealed(row)
