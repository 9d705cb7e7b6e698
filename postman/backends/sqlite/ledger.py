"""The ledger in a SQLite file, alone or together with its queue. One process has the file to itself.

Rows `sending` at open belong to a process that is dead: nobody will write the end of their calls, so they are in doubt.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio

from postman.backends import rows
from postman.backends.sqlite.database import Database, open_database
from postman.backends.sqlite.ledger_lists import SqliteLists
from postman.backends.sqlite.ledger_rows import SqliteRows
from postman.backends.sqlite.queue import SqliteQueue, check, path_of, queue_on
from postman.errors import StoreFull
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
    LedgerSettings,
    LedgerStatistics,
    Overdue,
    Pause,
    Unclaimable,
)
from postman.mail import Id, Letter
from postman.movable import Stored, UsedKey
from postman.provider import Receipt
from postman.queue import Note, Queue, QueueSettings
from postman.row import End, Now, Policy, Row, Verb, present

RESERVE = 67_108_864


class SqliteLedger:
    """See `postman.ledger.Ledger`. What returned has survived a power cut.

    Args:
        database: open; no other ledger is on it.
        policy: of postman.toml.
        clock: the time.
        queue: on the same database; then `accept` puts the notes in its own transaction.

    Attributes:
        reserve: bytes of the disk that letters may not use, so that what was accepted can be sent when it is full.
    """

    durable = True
    shared = False

    def __init__(
        self, database: Database, policy: Policy, clock: Callable[[], Now] = present, queue: SqliteQueue | None = None
    ) -> None:
        self.reserve = RESERVE
        self._clock = clock
        self._database = database
        self._queue = queue
        self._rows = SqliteRows(database, policy)
        self._lists = SqliteLists(database, self._rows)
        database.participants.append(self._rows)

    @property
    def policy(self) -> Policy:
        """See `Ledger.policy`."""
        return self._rows.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._rows.policy = policy

    async def load(self) -> None:
        """Count the rows, and put in doubt what a dead process was sending. Once, before anything else."""
        await self._database.run(partial(self._rows.load, self._clock()))

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        """See `Ledger.accept`."""
        self._check_room()
        now, policy, queue = self._clock(), self.policy, self._queue
        parcels = rows.parcels(letters, client, policy, now)
        if queue is None:
            return await self._database.run(
                partial(rows.accept, self._rows, parcels, client, key, fingerprint, policy=policy, now=now)
            )
        entries = [
            queue.entry(Note(row.id, row.lane, row.size), row.due - now.wall) for row, _, _ in parcels if row.put
        ]

        def accept_and_put() -> Accepted:
            accepted = rows.accept(self._rows, parcels, client, key, fingerprint, policy=policy, now=now)
            if not accepted.replayed:
                queue.table.add(entries)
            return msgspec.structs.replace(accepted, noted=True)

        return await self._database.run(accept_and_put)

    def _check_room(self) -> None:
        try:
            disk = os.statvfs(self._database.path.parent)
        except OSError:
            return  # the writer will see what is wrong, and say it
        if disk.f_bavail * disk.f_frsize < self.reserve:
            raise StoreFull(
                f"less than {self.reserve >> 20} MiB are free on the disk of {self._database.path}; make room there"
            )

    async def claim(
        self, id: Id, calls: Sequence[Call], after: Ended | None = None, *, owner: str = ""
    ) -> Claim | Unclaimable:
        """See `Ledger.claim`."""
        policy, now = self.policy, self._clock()

        def claim() -> Claim | Unclaimable:
            self._rows.read_ahead(id)
            return rows.claim(self._rows, id, calls, after, owner=owner, policy=policy, now=now)

        return await self._database.run(claim)

    async def finish(self, claim: Claim, end: End) -> Row:
        """See `Ledger.finish`."""
        return await self._database.run(partial(rows.finish, self._rows, claim, end, self.policy, self._clock()))

    async def settle(self, id: Id, receipt: Receipt, source: str) -> Row | None:
        """See `Ledger.settle`."""
        return await self._database.run(partial(rows.settle, self._rows, id, receipt, source, self._clock()))

    async def act(self, ids: Sequence[Id], verb: Verb, who: str) -> Mapping[Id, tuple[Row, bool]]:
        """See `Ledger.act`."""
        return await self._database.run(partial(rows.act, self._rows, ids, verb, who, self.policy, self._clock()))

    async def read(self, id: Id, client: str | None) -> Row | None:
        """See `Ledger.read`."""
        return rows.shown(await self._database.run(partial(self._rows.get, id), abandonable=True), client)

    async def find(self, filter: Filter, after: Id | None, limit: int) -> Sequence[Row]:
        """See `Ledger.find`."""
        return await self._database.run(partial(self._lists.find, filter, after, limit))

    async def overdue(self, limit: int) -> Overdue:
        """See `Ledger.overdue`."""
        return await self._database.run(partial(self._lists.overdue, limit, self._clock()))

    async def sweep(self, limit: int) -> int:
        """See `Ledger.sweep`."""
        wall, policy = self._clock().wall, self.policy
        return await self._database.run(
            partial(self._lists.sweep, wall - policy.retention, wall - policy.key_retention, limit)
        )

    async def pause(self, provider: str, who: str | None) -> None:
        """See `Ledger.pause`."""
        await self._database.run(partial(self._lists.pause, provider, who, self._clock().wall))

    async def pauses(self) -> Sequence[Pause]:
        """See `Ledger.pauses`."""
        return await self._database.run(self._lists.pauses, abandonable=True)

    async def enrol(self, instance: Instance) -> Sequence[Instance]:
        """See `Ledger.enrol`."""
        await trio.lowlevel.checkpoint()
        return (msgspec.structs.replace(instance, at=self._clock().wall),)

    async def statistics(self) -> LedgerStatistics:
        """See `Ledger.statistics`."""
        return await self._database.run(partial(self._lists.statistics, self._clock().wall), abandonable=True)

    async def letters(self, ids: Sequence[Id]) -> Mapping[Id, Letter]:
        """See `Movable.letters`."""
        return await self._database.run(partial(rows.letters, self._rows, ids))

    async def keys(self, cursor: str, limit: int) -> tuple[Sequence[UsedKey], str]:
        """See `Movable.keys`."""
        return await self._database.run(partial(self._lists.keys, cursor, limit))

    async def let_go(self, written: Sequence[Row], removal: str) -> frozenset[Id]:
        """See `Movable.let_go`."""
        return await self._database.run(partial(rows.let_go, self._rows, written, removal, self._clock()))

    async def take_in(self, letters: Sequence[Stored]) -> frozenset[Id]:
        """See `Movable.take_in`."""
        self._check_room()
        return await self._database.run(partial(rows.take_in, self._rows, rows.repacked(letters)))

    async def take_keys(self, keys: Sequence[UsedKey]) -> None:
        """See `Movable.take_keys`."""
        await self._database.run(partial(rows.take_keys, self._rows, keys))


@asynccontextmanager
async def ledger_on(
    database: Database, policy: Policy, clock: Callable[[], Now] = present, queue: SqliteQueue | None = None
) -> AsyncGenerator[SqliteLedger]:
    """The ledger in `database`, loaded."""
    ledger = SqliteLedger(database, policy, clock, queue)
    await ledger.load()
    yield ledger


@asynccontextmanager
async def open_ledger(settings: LedgerSettings, _surroundings: Surroundings) -> AsyncGenerator[Ledger]:
    """Open `sqlite:PATH`; `StoreRefused` when that cannot be."""
    async with (
        open_database(path_of(settings.url)) as database,
        ledger_on(database, settings.policy) as ledger,
    ):
        yield ledger


@asynccontextmanager
async def open_both(
    settings: LedgerSettings, of_queue: QueueSettings, _surroundings: Surroundings
) -> AsyncGenerator[tuple[Ledger, Queue]]:
    """Open ledger and queue in one file."""
    async with (
        open_database(path_of(settings.url)) as database,
        queue_on(database, of_queue.visibility_timeout) as queue,
        ledger_on(database, settings.policy, queue=queue) as ledger,
    ):
        yield ledger, queue


@hookimpl
def postman_register() -> Kind[LedgerSettings, Ledger]:
    """The ledger `sqlite`."""
    return Kind(name="sqlite", settings=LedgerSettings, open=open_ledger, open_both=open_both, check=check)
