"""What people and the clerk ask the ledger in Redis. A list is read in two steps, so it may be a moment old."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import Any, Final, Literal

import msgspec
import structlog

from postman.backends import rows, seal
from postman.backends.columns import first_id, hash_of, hashes_of
from postman.backends.damage import Damage
from postman.backends.redis import ledger_rows as shelf
from postman.backends.redis import ledger_scripts as scripts
from postman.backends.redis.client import Client
from postman.backends.redis.clock import ServerClock
from postman.backends.redis.ledger_rows import Found
from postman.errors import DamagedRow, NewerRow
from postman.ledger import HEARD, Filter, Instance, LedgerStatistics, Overdue, Pause
from postman.mail import Id
from postman.movable import UsedKey
from postman.queue import MAX_DELAY
from postman.row import Now, Row, State

PAGE: Final = 100
"""Letters that are looked at together."""

_log = structlog.get_logger()
_pauses = msgspec.msgpack.Decoder(Pause)
_instances = msgspec.msgpack.Decoder(Instance)


class RedisLists:
    """The lists of a ledger.

    Args:
        client: connected to the server.
        clock: the time; None: the server's.

    Attributes:
        damage: what the last look for the clerk came across.
    """

    def __init__(self, client: Client, clock: Callable[[], Now] | None) -> None:
        self.damage = Damage()
        self._client = client
        self._server = ServerClock()
        self._clock = clock or self._server

    def now(self, time: Sequence[bytes] | None = None) -> Now:
        """The time by the ledger's clock; `time` is what the server's command TIME just answered."""
        if time is not None:
            self._server.observe(time)
        return self._clock()

    def server_time(self) -> float:
        """Wall seconds by the server's clock, whatever the ledger's is. Never ahead of it, unless it was set back."""
        return self._server().wall

    def key(self, name: str) -> str:
        """The key of an index, or of what else has a name."""
        return self._client.prefix + name

    def letter(self, id: Id) -> str:
        """The key of a letter."""
        return self.key(f"letter:{id}")

    async def fetch(self, ids: Sequence[Id], more: Literal["b", "l"] = "l") -> tuple[Mapping[Id, Found], Now]:
        """What there is of letters, with their bodies or labels; and the time."""
        letters = (("HMGET", self.letter(id), "v", "r", more) for id in ids)
        *read, time = await self._client.ask_confirmed(*letters, ("TIME",), tolerant=True)
        return {id: shelf.found(values) for id, values in zip(ids, read, strict=True)}, self.now(time)

    async def find(self, filter: Filter, after: Id | None, limit: int) -> Sequence[Row]:
        """See `Ledger.find`. The smallest index is read, newest first; what else is asked for is looked at."""
        labels = {hash_of(label) for label in rows.labels_of(filter)}
        names = await self._indices(filter, labels)
        found: list[Row] = []
        while len(found) < limit:
            ids = await self._page(names, filter.since, after)
            if not ids or ids[-1] == after:  # what is no id of ours is not passed, since its bytes are not known here
                break
            after = ids[-1]
            read, _ = await self.fetch(ids)
            for id, (_, stored, joined) in read.items():
                row = None if stored is None else seal.decoded(id, stored)
                if row is not None and rows.matches(row, filter) and labels <= set(hashes_of(joined or b"")):
                    found.append(row)
        return found[:limit]

    async def _indices(self, filter: Filter, labels: Collection[bytes]) -> Sequence[str]:
        """The smallest index that has all that a filter asks for; when it asks for none, those that have everything."""
        names = [shelf.index_of_label(hash) for hash in labels]
        names += [] if filter.client is None else [shelf.index_of_client(filter.client)]
        names += [] if filter.state is None else [shelf.index_of_state(filter.state)]
        if not names:
            return [shelf.index_of_state(state) for state in State]
        sizes = await self._client.ask(*(("ZCARD", self.key(name)) for name in names))
        return [min(zip(sizes, names, strict=True))[1]]

    async def _page(self, names: Sequence[str], since: float | None, after: Id | None) -> list[Id]:
        """The newest ids behind `after` of all these indices."""
        newest = "+" if after is None else f"({after}"
        oldest = f"[{first_id(since or 0.0)}"
        pages = await self._client.ask(
            *(("ZRANGE", self.key(name), newest, oldest, "BYLEX", "REV", "LIMIT", 0, PAGE) for name in names)
        )
        return sorted((_id(found) for page in pages for found in page), reverse=True)[:PAGE]

    async def overdue(self, limit: int) -> Overdue:
        """See `Ledger.overdue`."""
        [time] = await self._client.ask(("TIME",))
        now = self.now(time)
        ends = {
            shelf.index_of_wake(State.SENDING): now.steady,
            shelf.index_of_wake(State.IN_DOUBT): now.wall,
            shelf.index_of_wake(State.QUEUED): now.wall,
            shelf.UNPUT: now.wall + MAX_DELAY,
            shelf.PUT: now.wall - rows.OVERDUE,
        }
        damage = Damage(self.damage)
        lists = [await self._first(name, end, limit, damage) for name, end in ends.items()]
        self.damage = damage
        return Overdue(*lists)

    def _until(self, name: str, end: float, limit: int, offset: int = 0) -> tuple[Any, ...]:
        return "ZRANGE", self.key(name), "-inf", end, "BYSCORE", "LIMIT", offset, limit

    async def _first(self, name: str, end: float, limit: int, damage: Damage) -> tuple[Row, ...]:
        """The first rows of a list that can be read; the others hide nothing behind them."""
        found: list[Row] = []
        for offset in count(step=limit):
            [page] = await self._client.ask(self._until(name, end, limit, offset))
            found += await self._rows(page, damage)
            if len(page) < limit or len(found) >= limit:
                break
        return tuple(found[:limit])

    async def _rows(self, found: Sequence[bytes], damage: Damage) -> tuple[Row, ...]:
        ids = [_id(id) for id in found]
        if not ids:
            return ()
        read, _ = await self.fetch(ids)
        gone = [id for id, letter in read.items() if letter.row is None]
        if gone:
            _log.error("mails are gone from Redis, though Postman did not delete them", mails=gone)
            await self._forget([(id, read[id], None) for id in gone])  # else they would stand in the way of others
        stored = ((id, letter.row) for id, letter in read.items())
        return tuple(row for id, encoded in stored if encoded is not None and (row := damage.decoded(id, encoded)))

    async def sweep(self, retention: float, key_retention: float, limit: int) -> int:
        """Delete rows that ended, and keys that came, so many seconds ago; at most `limit` in all."""
        [time] = await self._client.ask(("TIME",))
        wall = self.now(time).wall
        [found] = await self._client.ask(self._until(shelf.ENDED, wall - retention, limit))
        read, _ = await self.fetch([_id(id) for id in found])
        forgotten = []
        for id, letter in read.items():
            try:
                row = seal.read(id, letter.row) if letter.row is not None else None
            except NewerRow:
                continue
            except DamagedRow:
                row = None
            if row is None or (row.state.ended and row.since <= wall - retention):  # else it was replayed meanwhile
                forgotten.append((id, letter, row))
        swept = await self._forget(forgotten)
        keys = [self.key("keys"), self.key("keyed")]
        keyed: int = await self._client.commit(scripts.FORGET_KEYS, keys, wall - key_retention, limit - len(read))
        return swept + keyed

    async def _forget(self, letters: Sequence[tuple[Id, Found, Row | None]]) -> int:
        calls = [
            ([self.letter(id)], [self._client.prefix, *shelf.forget_arguments(id, letter, row)])
            for id, letter, row in letters
        ]
        return sum(await self._client.commit_all(scripts.FORGET, calls)) if calls else 0

    async def statistics(self) -> LedgerStatistics:
        """See `Ledger.statistics`. The server knows how large its indices are."""
        *sizes, put, unput, _, _, time = await self._client.ask(
            *(("ZCARD", self.key(name)) for name in shelf.EVERYWHERE),  # the others as well: whether they are ours yet
            *(("ZRANGE", self.key(name), 0, 0, "WITHSCORES") for name in (shelf.PUT, shelf.UNPUT)),
            ("HLEN", self.key("keys")),
            ("ZCARD", self.key("keyed")),
            ("TIME",),
        )
        wall = self.now(time).wall
        dues = [due for _, due in (*put, *unput) if due <= wall]
        counts = dict(zip(shelf.EVERYWHERE, sizes, strict=True))
        states = {state: size for state in State if (size := counts[shelf.index_of_state(state)])}
        return LedgerStatistics(states, min(dues, default=None), counts[shelf.DOUBLED])

    async def enrol(self, instance: Instance) -> Sequence[Instance]:
        """See `Ledger.enrol`."""
        name = self.key("instances")
        [time] = await self._client.ask(("TIME",))
        now = self.now(time).wall
        said = msgspec.msgpack.encode(msgspec.structs.replace(instance, at=now))
        word = ("HDEL", name, instance.id) if instance.left else ("HSET", name, instance.id, said)
        _, found = await self._client.ask(word, ("HVALS", name))
        instances = sorted(filter(None, map(_instance, found)), key=lambda found: found.id)
        gone = [found.id for found in instances if found.at < now - HEARD]
        if gone:
            await self._client.ask(("HDEL", name, *gone))
        return tuple(found for found in instances if found.id not in gone)

    async def pause(self, provider: str, who: str | None) -> None:
        """See `Ledger.pause`."""
        if who is None:
            await self._client.write(("HDEL", self.key("pauses"), provider))
            return
        encoded = msgspec.msgpack.encode(Pause(provider, self.now().wall, who))
        await self._client.write(("HSET", self.key("pauses"), provider, encoded))

    async def pauses(self) -> Sequence[Pause]:
        """See `Ledger.pauses`."""
        [found] = await self._client.ask(("HGETALL", self.key("pauses")))
        return sorted((_pause(*pause) for pause in found.items()), key=lambda pause: pause.since)

    async def keys(self, cursor: str, limit: int) -> tuple[Sequence[UsedKey], str]:
        """See `Movable.keys`."""
        [(after, pairs)] = await self._client.ask(("HSCAN", self.key("keys"), cursor or 0, "COUNT", limit))
        fields = pairs[::2]
        [ages] = await self._client.ask(("ZMSCORE", self.key("keyed"), *fields)) if fields else [[]]
        keys = []
        for field, encoded, at in zip(fields, pairs[1::2], ages, strict=True):
            client, _, key = field.decode().partition("\0")
            used = shelf.used(encoded)
            if used is not None and at is not None:  # else it is damaged, or was forgotten meanwhile
                keys.append(UsedKey(client, key, used.fingerprint, used.ids, at))
        return keys, "" if after == b"0" else after.decode()


def _pause(provider: bytes, said: bytes) -> Pause:
    try:
        return _pauses.decode(said)
    except seal.UNREADABLE:
        return Pause(provider.decode(errors="replace"), 0.0, "somebody")  # who stopped it may still mean it


def _instance(said: bytes) -> Instance | None:
    try:
        return _instances.decode(said)
    except seal.UNREADABLE:
        return None


def _id(found: bytes) -> Id:
    return Id(found.decode(errors="replace"))
