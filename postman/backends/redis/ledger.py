"""The ledger in Redis or Valkey, shared by all processes that name it, alone or together with its queue."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from postman.backends import rows, seal
from postman.backends.redis import ledger_rows as shelf
from postman.backends.redis import ledger_scripts as scripts
from postman.backends.redis.address import Address, RedisSettings, address_of
from postman.backends.redis.checks import check
from postman.backends.redis.client import Client, open_client
from postman.backends.redis.connection import Ask
from postman.backends.redis.ledger_arrivals import Arrivals
from postman.backends.redis.ledger_changes import Changes
from postman.backends.redis.ledger_lists import RedisLists
from postman.backends.redis.ledger_rows import Snapshot
from postman.backends.redis.queue import RedisQueue, RedisQueueSettings, redis_queue
from postman.backends.redis.witness import Witness
from postman.errors import DamagedRow, IdTaken, KeyReused
from postman.failpoint import failpoint
from postman.hookspecs import hookimpl
from postman.kind import Kind, Surroundings
from postman.ledger import (
    Accepted,
    Call,
    Claim,
    Ended,
    Filter,
    Instance,
    Ledger,
    LedgerStatistics,
    Overdue,
    Pause,
    Unclaimable,
)
from postman.mail import Id, Letter
from postman.movable import Stored, UsedKey
from postman.provider import Receipt
from postman.queue import Queue
from postman.row import End, Now, Policy, Row, Verb


class RedisLedgerSettings(RedisSettings, frozen=True, kw_only=True):
    """See `postman.ledger.LedgerSettings`."""

    policy: Policy = Policy()


class RedisLedger:
    """See `postman.ledger.Ledger`. Opened by `redis_ledger`. What is done to several rows is a transaction for each.

    Args:
        client: connected to the server.
        policy: of postman.toml.
        durable: see `Ledger`.
        clock: the time; None: the server's.
        queue: on the same server, by the same prefix; then `accept` puts the notes in its own transaction.
    """

    shared = True

    def __init__(
        self,
        client: Client,
        policy: Policy,
        *,
        durable: bool,
        clock: Callable[[], Now] | None = None,
        queue: RedisQueue | None = None,
    ) -> None:
        self.durable = durable
        self.policy = policy
        self._client = client
        self._lists = RedisLists(client, clock)
        self._queue = queue
        self._witness = Witness(self._lists.letter)
        self._changes = Changes(client, self._lists, self._witness)
        self._arrivals = Arrivals(client, self._lists, self._witness, queue)
        client.connection.on_connect = self._look_back
        if queue is not None:
            queue.letters, queue.on_letter = self._lists.letter(Id("")), self._changes.bring

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        """See `Ledger.accept`. One round trip."""
        now, policy = self._lists.now(), self.policy
        parcels = rows.parcels(letters, client, policy, now)
        ids = tuple(letter.id for letter in letters)
        field = "" if key is None else shelf.field_of_key(client, key)
        used = msgspec.msgpack.encode(rows.Used(fingerprint, ids))
        notes = [] if self._queue is None else [parcel.row for parcel in parcels if parcel.row.put]
        failpoint("A3")
        answer = await self._arrivals.store(
            parcels, policy, notes=notes, field=field, used=used, now=now.wall, room=policy.max_queued
        )
        return self._accepted(answer, ids, fingerprint)

    def _accepted(self, answer: list[bytes], ids: tuple[Id, ...], fingerprint: bytes) -> Accepted:
        match answer:
            case [b"used", encoded]:
                used = shelf.used(encoded)
                if used is None:
                    raise DamagedRow("what came with this Idempotency-Key before is damaged in the ledger")
                if used.fingerprint != fingerprint:
                    raise KeyReused("this Idempotency-Key came before with another body")
                return Accepted(used.ids, replayed=True, noted=self._queue is not None)
            case [b"full"]:
                raise rows.too_many(self.policy)
            case [b"taken"]:
                raise IdTaken("a letter with one of these ids exists")
            case _:
                return Accepted(ids, noted=self._queue is not None)

    async def claim(
        self, id: Id, calls: Sequence[Call], after: Ended | None = None, *, owner: str = ""
    ) -> Claim | Unclaimable:
        """See `Ledger.claim`. One round trip for what came along with its note, or after another call; else two."""

        def decide(snapshot: Snapshot, now: Now) -> Claim | Unclaimable:
            return rows.claim(snapshot, id, calls, after, owner=owner, policy=self.policy, now=now)

        return await self._changes.make([id], decide, self.policy, with_body=after is None, in_hand=True)

    async def finish(self, claim: Claim, end: End) -> Row:
        """See `Ledger.finish`. One round trip."""

        def decide(present: Snapshot, now: Now) -> Row:
            return rows.finish(present, claim, end, self.policy, now)

        return await self._changes.make([claim.id], decide, self.policy, in_hand=True)

    async def settle(self, id: Id, receipt: Receipt, source: str) -> Row | None:
        """See `Ledger.settle`."""

        def decide(present: Snapshot, now: Now) -> Row | None:
            return rows.settle(present, id, receipt, source, now)

        return await self._changes.make([id], decide, self.policy)

    async def act(self, ids: Sequence[Id], verb: Verb, who: str) -> Mapping[Id, tuple[Row, bool]]:
        """See `Ledger.act`."""
        acted: dict[Id, tuple[Row, bool]] = {}

        def decide(present: Snapshot, now: Now) -> None:
            acted.update(rows.act(present, list(present.known), verb, who, self.policy, now))

        await self._changes.make(list(dict.fromkeys(ids)), decide, self.policy, read=seal.decoded)
        return acted

    async def read(self, id: Id, client: str | None) -> Row | None:
        """See `Ledger.read`. Waits for what may still be under way to the server, though its connection was cut."""
        known, _ = await self._changes.read([id])
        if id not in known and await self._arrivals.has_waited(id):
            known, _ = await self._changes.read([id])
        return rows.shown(known[id].row if id in known else None, client)

    async def find(self, filter: Filter, after: Id | None, limit: int) -> Sequence[Row]:
        """See `Ledger.find`."""
        return await self._lists.find(filter, after, limit)

    async def overdue(self, limit: int) -> Overdue:
        """See `Ledger.overdue`."""
        return await self._lists.overdue(limit)

    async def sweep(self, limit: int) -> int:
        """See `Ledger.sweep`."""
        return await self._lists.sweep(self.policy.retention, self.policy.key_retention, limit)

    async def pause(self, provider: str, who: str | None) -> None:
        """See `Ledger.pause`."""
        await self._lists.pause(provider, who)

    async def pauses(self) -> Sequence[Pause]:
        """See `Ledger.pauses`."""
        return await self._lists.pauses()

    async def enrol(self, instance: Instance) -> Sequence[Instance]:
        """See `Ledger.enrol`."""
        return await self._lists.enrol(instance)

    async def statistics(self) -> LedgerStatistics:
        """See `Ledger.statistics`."""
        await self._look_back(self._client.ask)
        troubles = (*self._witness.troubles, *self._lists.damage.troubles)
        return msgspec.structs.replace(await self._lists.statistics(), troubles=troubles)

    async def _look_back(self, ask: Ask) -> None:
        await self._witness.look(ask, swept=self._lists.now().wall - self.policy.retention)

    async def letters(self, ids: Sequence[Id]) -> Mapping[Id, Letter]:
        """See `Movable.letters`."""
        known, _ = await self._changes.read(ids, with_body=True, read=seal.decoded)
        return rows.letters(Snapshot(known), ids)

    async def keys(self, cursor: str, limit: int) -> tuple[Sequence[UsedKey], str]:
        """See `Movable.keys`."""
        return await self._lists.keys(cursor, limit)

    async def let_go(self, written: Sequence[Row], removal: str) -> frozenset[Id]:
        """See `Movable.let_go`."""
        wanted, gone = {row.id: row for row in written}, set[Id]()

        def decide(present: Snapshot, now: Now) -> None:
            gone.difference_update(present.known)
            gone.update(rows.let_go(present, [wanted[id] for id in present.known], removal, now))

        await self._changes.make(list(wanted), decide, self.policy, read=seal.decoded)
        return frozenset(gone)

    async def take_in(self, letters: Sequence[Stored]) -> frozenset[Id]:
        """See `Movable.take_in`."""
        found, _ = await self._lists.fetch([stored.row.id for stored in letters])
        there = frozenset(id for id, letter in found.items() if letter.row is not None)
        parcels = [parcel for parcel in rows.repacked(letters) if parcel.row.id not in there]
        self._accepted(await self._arrivals.store(parcels, self.policy), (), b"")
        return there

    async def take_keys(self, keys: Sequence[UsedKey]) -> None:
        """See `Movable.take_keys`."""
        arguments = [part for key in keys for part in shelf.key_arguments(key)]
        await self._client.commit(scripts.TAKE_KEYS, [self._lists.key("keys"), self._lists.key("keyed")], *arguments)


@asynccontextmanager
async def redis_ledger(
    address: Address,
    policy: Policy,
    clock: Callable[[], Now] | None = None,
    *,
    queue: RedisQueue | None = None,
    accept_loss: bool = False,
) -> AsyncGenerator[RedisLedger]:
    """The ledger at `address`; `StoreRefused` when it may forget letters there, unless `accept_loss`."""
    async with open_client(address) as client:
        durable = await check(client, what="ledger", must_keep=not accept_loss)
        ledger = RedisLedger(client, policy, durable=durable, clock=clock, queue=queue)
        await ledger.statistics()  # tells the time, and what somebody else wrote to
        yield ledger


@asynccontextmanager
async def open_ledger(settings: RedisLedgerSettings, _surroundings: Surroundings) -> AsyncGenerator[Ledger]:
    """Open `redis://...`, `rediss://...` or `valkey://...`."""
    async with redis_ledger(address_of(settings), settings.policy, accept_loss=settings.accept_loss) as ledger:
        yield ledger


@asynccontextmanager
async def open_both(
    settings: RedisLedgerSettings, of_queue: RedisQueueSettings, _surroundings: Surroundings
) -> AsyncGenerator[tuple[Ledger, Queue]]:
    """Open ledger and queue on one server, each with a connection of its own."""
    address = address_of(settings)
    async with (
        redis_queue(address, of_queue.visibility_timeout) as queue,
        redis_ledger(address, settings.policy, queue=queue, accept_loss=settings.accept_loss) as ledger,
    ):
        yield ledger, queue


@hookimpl
def postman_register() -> Kind[RedisLedgerSettings, Ledger]:
    """The ledger `redis`, under all its names."""
    return Kind(
        name="redis", settings=RedisLedgerSettings, open=open_ledger, open_both=open_both, check=address_of, shared=True
    )
