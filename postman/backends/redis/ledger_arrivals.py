"""How letters come into the ledger in Redis: all of a request or none, and none when nobody waits any more.

The network may bring a request long after its connection was given up, and after somebody has looked for its letters.
So the script is told how long the answer is waited for, by the server's clock; and who looks waits as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from postman.backends import rows
from postman.backends.redis import ledger_rows as shelf
from postman.backends.redis import ledger_scripts as scripts
from postman.backends.redis.client import Client
from postman.backends.redis.ledger_lists import RedisLists
from postman.backends.redis.queue import RedisQueue, put_arguments
from postman.backends.redis.queue_scripts import keys_of
from postman.backends.redis.witness import Witness
from postman.errors import StoreUnavailable
from postman.mail import Id
from postman.queue import Note
from postman.row import Policy, Row, State

NO_LIMIT: Final = 2**53
"""As many as Lua can count."""


class Arrivals:
    """Stores letters.

    Args:
        client: connected to the server.
        lists: of the ledger.
        witness: told of each request.
        queue: on the same server, by the same prefix, if there is one.
    """

    def __init__(self, client: Client, lists: RedisLists, witness: Witness, queue: RedisQueue | None) -> None:
        self._client = client
        self._lists = lists
        self._witness = witness
        self._queue = queue
        self._timeout = client.connection.address.timeout
        self._under_way: dict[Id, float] = {}
        """Letters whose requests may still come to the server, each with when they would be too late."""

    async def store(
        self,
        parcels: Sequence[rows.Parcel],
        policy: Policy,
        *,
        notes: Sequence[Row] = (),
        field: str = "",
        used: bytes = b"",
        now: float = 0.0,
        room: int = NO_LIMIT,
    ) -> list[bytes]:
        """Run ACCEPT; what it says.

        Args:
            parcels: the letters.
            policy: of the ledger.
            notes: to be put in the same transaction.
            field: of the idempotency key; "": there is none.
            used: what is remembered of it.
            now: wall seconds.
            room: so many letters may be queued.

        Raises:
            StoreUnavailable: see `Ledger.accept`.
        """
        time = "" if self._queue is None else self._queue.now()
        asked = (self._client.prefix, time, field, used, now, room)
        arguments: list[Any] = [len(parcels)]
        for parcel in parcels:
            arguments += shelf.accept_arguments(parcel, policy)
        for row in notes:
            arguments += put_arguments(Note(row.id, row.lane, row.size), row.due - now)
        names = ("keys", "keyed", shelf.index_of_state(State.QUEUED))
        keys = [*keys_of(self._client.prefix), *map(self._lists.key, names)]
        for _ in range(2):  # the server's clock may have been set since we looked at it
            ends = trio.current_time() + self._timeout
            call = (*asked, self._lists.server_time() + self._timeout, *arguments)
            try:
                answer: list[bytes] = await self._client.commit(scripts.ACCEPT, keys, *call)
            except StoreUnavailable as error:
                if error.may_have_happened:
                    self._remember(parcels, ends)
                raise
            if answer[0] != b"late":
                break
            self._lists.now(answer[1:])
        else:
            raise StoreUnavailable("a request came to Redis too late")
        if answer == [b"accepted"]:
            for parcel in parcels[-1:]:
                self._witness.remember(parcel.row, 1)
        return answer

    async def has_waited(self, id: Id) -> bool:
        """Wait for a letter that may be under way still; False: it is not."""
        if id not in self._under_way:
            return False
        await trio.sleep_until(self._under_way[id])
        return True

    def _remember(self, parcels: Sequence[rows.Parcel], ends: float) -> None:
        now = trio.current_time()
        self._under_way = {id: end for id, end in self._under_way.items() if end > now}
        self._under_way |= {parcel.row.id: ends for parcel in parcels}
