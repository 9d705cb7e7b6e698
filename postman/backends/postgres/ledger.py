"""The ledger in PostgreSQL, alone or together with its queue. Any number of processes may use it at once.

What returned was flushed to the server's disk; what a replica does not have yet is lost when it takes the place of the
server, unless the server is set to wait for it (synchronous_standby_names).

A row that is `sending` may be in the hands of any process, so at open nothing is judged: the lease decides, by the
server's clock.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec

from postman.backends import rows
from postman.backends.postgres.connection import Connection
from postman.backends.postgres.ledger_lists import PostgresLists
from postman.backends.postgres.ledger_rows import Operation, PostgresRows
from postman.backends.postgres.line import Line, Side, open_line
from postman.backends.postgres.queue import PostgresQueue, PostgresQueueSettings, queue_on
from postman.backends.postgres.server import PostgresSettings, Server, check, open_side, prepare, server_of
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
from postman.queue import Note, Queue
from postman.row import End, Now, Policy, Row, Verb


class PostgresLedger:
    """See `postman.ledger.Ledger`. Opened by `ledger_on`.

    Args:
        line: for what letters wait for.
        written: the work of that line.
        side: for what people and the clerk ask.
        lists: what they ask.
        queue: on the same server; then `accept` puts the notes in its own transaction.
    """

    durable = True
    shared = True

    def __init__(
        self,
        line: Line[Operation],
        written: PostgresRows,
        side: Side,
        lists: PostgresLists,
        queue: PostgresQueue | None = None,
    ) -> None:
        self._line = line
        self._rows = written
        self._side = side
        self._lists = lists
        self._queue = queue

    @property
    def policy(self) -> Policy:
        """See `Ledger.policy`."""
        return self._rows.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._rows.policy = policy

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        """See `Ledger.accept`."""
        policy, noted = self.policy, self._queue is not None

        def accept(table: PostgresRows, now: Now) -> Accepted:
            parcels = rows.parcels(letters, client, policy, now)
            accepted = rows.accept(table, parcels, client, key, fingerprint, policy=policy, now=now)
            if noted and not accepted.replayed:
                table.notes += [
                    (Note(row.id, row.lane, row.size), row.due - now.wall) for row, _, _ in parcels if row.put
                ]
            return msgspec.structs.replace(accepted, noted=noted)

        size = sum(len(file.content) for letter in letters for file in letter.mail.attachments)
        keys = () if key is None else ((client, key),)
        operation = Operation(accept, tuple(letter.id for letter in letters), keys=keys, counts=True)
        accepted: Accepted = await self._line.run(operation, size)
        if self._queue is not None and not accepted.replayed:
            self._queue.announce()
        return accepted

    async def claim(
        self, id: Id, calls: Sequence[Call], after: Ended | None = None, *, owner: str = ""
    ) -> Claim | Unclaimable:
        """See `Ledger.claim`."""

        def claim(table: PostgresRows, now: Now) -> Claim | Unclaimable:
            return rows.claim(table, id, calls, after, owner=owner, policy=self.policy, now=now)

        answer: Claim | Unclaimable = await self._line.run(Operation(claim, (id,), bodies=after is None))
        return answer

    async def finish(self, claim: Claim, end: End) -> Row:
        """See `Ledger.finish`."""
        return await self._write(lambda table, now: rows.finish(table, claim, end, self.policy, now), claim.id)

    async def settle(self, id: Id, receipt: Receipt, source: str) -> Row | None:
        """See `Ledger.settle`."""
        return await self._write(lambda table, now: rows.settle(table, id, receipt, source, now), id)

    async def act(self, ids: Sequence[Id], verb: Verb, who: str) -> Mapping[Id, tuple[Row, bool]]:
        """See `Ledger.act`."""
        return await self._write(lambda table, now: rows.act(table, ids, verb, who, self.policy, now), *ids)

    async def letters(self, ids: Sequence[Id]) -> Mapping[Id, Letter]:
        """See `Movable.letters`."""
        return await self._ask(partial(self._lists.letters, ids))

    async def keys(self, cursor: str, limit: int) -> tuple[Sequence[UsedKey], str]:
        """See `Movable.keys`."""
        return await self._ask(partial(self._lists.keys, cursor, limit))

    async def let_go(self, written: Sequence[Row], removal: str) -> frozenset[Id]:
        """See `Movable.let_go`."""
        ids = [row.id for row in written]
        return await self._write(lambda table, now: rows.let_go(table, written, removal, now), *ids)

    async def take_in(self, letters: Sequence[Stored]) -> frozenset[Id]:
        """See `Movable.take_in`."""
        parcels = rows.repacked(letters)
        return await self._write(lambda table, _: rows.take_in(table, parcels), *(parcel.row.id for parcel in parcels))

    async def take_keys(self, keys: Sequence[UsedKey]) -> None:
        """See `Movable.take_keys`."""
        asked = tuple((key.client, key.key) for key in keys)
        await self._line.run(Operation(lambda table, _: rows.take_keys(table, keys), keys=asked))

    async def _write[T](self, run: Callable[[PostgresRows, Now], T], *ids: Id) -> T:
        answer: T = await self._line.run(Operation(run, ids))
        return answer

    async def read(self, id: Id, client: str | None) -> Row | None:
        """See `Ledger.read`."""
        if self._rows.doubtful:  # then what is there may not be on a standby; what locks a row waits for that
            row = await self._write(lambda table, _: table.get(id), id)
        else:
            row = await self._ask(partial(self._lists.get, id))
        return rows.shown(row, client)

    async def find(self, filter: Filter, after: Id | None, limit: int) -> Sequence[Row]:
        """See `Ledger.find`."""
        return await self._ask(partial(self._lists.find, filter, after, limit))

    async def overdue(self, limit: int) -> Overdue:
        """See `Ledger.overdue`."""
        return await self._ask(partial(self._lists.overdue, limit))

    async def sweep(self, limit: int) -> int:
        """See `Ledger.sweep`."""
        return await self._ask(partial(self._lists.sweep, self.policy.retention, self.policy.key_retention, limit))

    async def pause(self, provider: str, who: str | None) -> None:
        """See `Ledger.pause`."""
        await self._ask(partial(self._lists.pause, provider, who))

    async def pauses(self) -> Sequence[Pause]:
        """See `Ledger.pauses`."""
        return await self._ask(self._lists.pauses)

    async def enrol(self, instance: Instance) -> Sequence[Instance]:
        """See `Ledger.enrol`."""
        return await self._ask(partial(self._lists.enrol, instance))

    async def statistics(self) -> LedgerStatistics:
        """See `Ledger.statistics`."""
        return await self._ask(self._lists.statistics)

    async def _ask[T](self, question: Callable[[Connection], T]) -> T:
        answer: T = await self._side.run(question)
        return answer


class PostgresLedgerSettings(PostgresSettings, frozen=True, kw_only=True):
    """See `postman.ledger.LedgerSettings`."""

    policy: Policy = Policy()


@asynccontextmanager
async def ledger_on(
    server: Server,
    side: Side,
    policy: Policy,
    clock: Callable[[], Now] | None = None,
    queue: PostgresQueue | None = None,
) -> AsyncGenerator[PostgresLedger]:
    """The ledger in the tables of `server`, which are there; `clock` takes the place of the server's."""
    work = PostgresRows(policy, clock)
    async with open_line(server.connect_durable, work, server.patience, "letters") as line:
        yield PostgresLedger(line, work, side, PostgresLists(clock), queue)


@asynccontextmanager
async def open_ledger(settings: PostgresLedgerSettings, _surroundings: Surroundings) -> AsyncGenerator[Ledger]:
    """Open `postgresql://...`; `StoreRefused` when that cannot be."""
    server = server_of(settings)
    await prepare(server, durable=True)
    async with open_side(server) as side, ledger_on(server, side, settings.policy) as ledger:
        yield ledger


@asynccontextmanager
async def open_both(
    settings: PostgresLedgerSettings, of_queue: PostgresQueueSettings, _surroundings: Surroundings
) -> AsyncGenerator[tuple[Ledger, Queue]]:
    """Open ledger and queue in one schema."""
    server = server_of(settings)
    await prepare(server, durable=True)
    async with (
        open_side(server) as side,
        queue_on(server, side, of_queue.visibility_timeout) as queue,
        ledger_on(server, side, settings.policy, queue=queue) as ledger,
    ):
        yield ledger, queue


@hookimpl
def postman_register() -> Kind[PostgresLedgerSettings, Ledger]:
    """The ledger `postgresql`."""
    return Kind(
        name="postgresql",
        settings=PostgresLedgerSettings,
        open=open_ledger,
        open_both=open_both,
        check=check,
        shared=True,
    )
