"""What a ledger can do besides, so that its letters may move to another one; who moves them is `postman.removal`.

The old ledger gives a letter up only as it was written down, so of a removal and a worker one wins. It ends there as
cancelled, with a reason that names the removal: whoever was cut in the middle of one can tell what was done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from postman.ledger import Ledger
from postman.mail import Id, Letter
from postman.row import Row, State

MOVABLE = (State.QUEUED, State.IN_DOUBT, State.HELD)
"""What has not ended and is in nobody's hands."""


class Stored(msgspec.Struct, frozen=True, tag="mail"):
    """A letter with all that a ledger knows of it."""

    row: Row
    letter: Letter


class UsedKey(msgspec.Struct, frozen=True, tag="key"):
    """An idempotency key and what came with it.

    Attributes:
        at: when, in wall seconds.
    """

    client: str
    key: str
    fingerprint: bytes
    ids: tuple[Id, ...]
    at: float


@runtime_checkable
class Movable(Ledger, Protocol):
    """A ledger whose letters may move. Every method can be repeated."""

    async def letters(self, ids: Sequence[Id]) -> Mapping[Id, Letter]:
        """The letters that there still are; those without a row, or that cannot be read, are left out."""
        ...

    async def keys(self, cursor: str, limit: int) -> tuple[Sequence[UsedKey], str]:
        """Some keys, about `limit`, and the cursor of the next ones; "" is the first, and says that there are no more.

        A key that is there all the time is among them, perhaps twice.
        """
        ...

    async def let_go(self, written: Sequence[Row], removal: str) -> frozenset[Id]:
        """Give up those of the rows `written` that still are exactly so, and in one of `MOVABLE`.

        Returns:
            The letters that `removal` took away, now or before.
        """
        ...

    async def take_in(self, letters: Sequence[Stored]) -> frozenset[Id]:
        """Store letters as they are, but for those whose ids are there, which stay.

        Returns:
            Of those that were there.
        """
        ...

    async def take_keys(self, keys: Sequence[UsedKey]) -> None:
        """Remember keys, but for those that are there, which stay."""
        ...
