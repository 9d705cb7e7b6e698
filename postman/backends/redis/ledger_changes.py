"""How the ledger in Redis changes rows: read, decided here as everywhere, written if nobody wrote meanwhile; else anew.

Nothing is locked, and commands of all letters travel together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from postman.backends import seal
from postman.backends.redis import ledger_rows as shelf
from postman.backends.redis import ledger_scripts as scripts
from postman.backends.redis.client import Client
from postman.backends.redis.ledger_lists import RedisLists
from postman.backends.redis.ledger_rows import Known, Snapshot
from postman.backends.redis.witness import Witness
from postman.errors import StoreUnavailable
from postman.mail import Id
from postman.row import Now, Policy, Row, State

TURNS: Final = 50
"""So often a change is decided anew because others were faster: each time one of them came further."""
IN_HAND: Final = 10_000
"""Claims of this process whose rows are remembered, so that their ends need not be read for."""
BROUGHT: Final = 128
"""Letters that came along with their notes and are remembered, so that they need not be read to be claimed."""


class Changes:
    """Makes changes, a transaction for each row.

    Args:
        client: connected to the server.
        lists: of the ledger.
        witness: told of each change.
    """

    def __init__(self, client: Client, lists: RedisLists, witness: Witness) -> None:
        self._client = client
        self._lists = lists
        self._witness = witness
        self._in_hand: dict[Id, Known] = {}
        self._brought: dict[Id, Known] = {}

    def bring(self, id: Id, values: Sequence[bytes]) -> None:
        """A letter came along with its note: `v`, `r` and `b`, see `ledger_rows`."""
        letter = shelf.found(values)
        row = letter.row and seal.decoded(id, letter.row)
        if row:
            self._brought[id] = Known(letter.version, row, letter.more)
            if len(self._brought) > BROUGHT:
                del self._brought[next(iter(self._brought))]

    async def make[T](
        self,
        ids: Sequence[Id],
        decide: Callable[[Snapshot, Now], T],
        policy: Policy,
        *,
        with_body: bool = False,
        in_hand: bool = False,
        read: Callable[[Id, bytes], Row | None] = seal.read,
    ) -> T:
        """Read rows, decide, write what is decided; again for those that somebody else wrote meanwhile.

        What is in hand need not be read, since a write tells whether it is so still; no write tells nothing.
        """
        hand = self._brought if with_body else self._in_hand
        known, now = {id: hand[id] for id in ids if in_hand and id in hand}, self._lists.now()
        for _ in range(TURNS):
            guessed = bool(known)
            if not guessed:
                known, now = await self.read(ids, with_body=with_body, read=read)
            snapshot = Snapshot(known)
            decided = decide(snapshot, now)
            lost = await self._write(snapshot, known, policy)
            if not lost and (snapshot.written or not guessed):
                return decided
            ids, known = lost or ids, {}
        raise StoreUnavailable("a row was changed by others again and again")

    async def read(
        self, ids: Sequence[Id], *, with_body: bool = False, read: Callable[[Id, bytes], Row | None] = seal.read
    ) -> tuple[dict[Id, Known], Now]:
        """The rows that there are and can be read, and the time."""
        found, now = await self._lists.fetch(ids, "b" if with_body else "l")
        known = {}
        for id, letter in found.items():
            row = None if letter.row is None else read(id, letter.row)
            if row is not None:
                known[id] = Known(letter.version, row, letter.more if with_body else None)
        return known, now

    async def _write(self, snapshot: Snapshot, known: Mapping[Id, Known], policy: Policy) -> list[Id]:
        """Write; the ids of those for which somebody was faster."""
        written, swaps = list(snapshot.written.values()), []
        for row in written:
            self._in_hand.pop(row.id, None)
            self._brought.pop(row.id, None)
            arguments = shelf.swap_arguments(known[row.id], row, policy)
            swaps.append(([self._lists.letter(row.id)], [self._client.prefix, *arguments]))
        versions = await self._client.commit_all(scripts.SWAP, swaps) if swaps else []
        for row, version in zip(written, versions, strict=True):
            if version:
                self._witness.remember(row, version)
            if version and row.state is State.SENDING:
                self._in_hand[row.id] = Known(version, row)
                if len(self._in_hand) > IN_HAND:
                    del self._in_hand[next(iter(self._in_hand))]
        return [row.id for row, version in zip(written, versions, strict=True) if not version]
