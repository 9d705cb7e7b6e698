"""The queue in PostgreSQL, alone or together with the ledger. Leases are in the table, so any number may take.

A note is due at a time; a lease moves that time on by the visibility timeout and gives the note a number that is never
used again. Takes, acks and releases need not survive a power cut of the server, so their commits do not wait for its
disk; puts do.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import msgspec
import outcome
import psycopg
import trio
from psycopg import sql

from postman.backends.postgres.checks import troubles
from postman.backends.postgres.connection import Connection
from postman.backends.postgres.line import Line, Side, open_line
from postman.backends.postgres.queue_looks import Looks, Taken
from postman.backends.postgres.queue_moves import Ack, Announce, Bury, Move, Moves, Put, Release, Take
from postman.backends.postgres.server import PostgresSettings, Server, check, open_side, prepare, server_of
from postman.hookspecs import hookimpl
from postman.kind import Kind, Surroundings
from postman.queue import Lease, Note, Queue, QueueStatistics, bounded
from postman.takers import Takers

POLL: Final = 5.0
"""Seconds between two looks of those who wait, should a wake-up be lost."""


class PostgresQueue:
    """See `postman.queue.Queue`. Opened by `queue_on`.

    A lease that is over and that nobody else took still is good: its ack spares the note another showing.
    """

    durable = True
    shared = True

    def __init__(self, line: Line[Move], side: Side) -> None:
        self._line = line
        self._side = side
        self._takers = Takers()
        self._fetching = False
        self._woken = False
        self._announcing = False
        self._changed = trio.Event()
        self._pause = POLL

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """See `Queue.put`. All or none."""
        await self._line.run(Put(tuple((note, bounded(delay)) for note in notes)))
        self.wake()

    async def take(self) -> Lease:
        """See `Queue.take`. What was leased for one that left meanwhile goes to another, or back at once."""
        return await self._takers.wait(self.wake)

    async def ack(self, lease: Lease) -> None:
        """See `Queue.ack`."""
        await self._line.run(Ack(lease.handle))

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """See `Queue.release`. Without a delay the note is in its old place again."""
        await self._line.run(Release(lease.handle, bounded(delay)))
        self.wake()

    async def bury(self, lease: Lease, reason: str) -> None:
        """See `Queue.bury`. The copy is kept and the note removed in one transaction."""
        await self._line.run(Bury(lease.handle, reason, msgspec.json.encode(lease.note)))

    async def statistics(self) -> QueueStatistics:
        """See `Queue.statistics`. Counts all notes, beside those who take."""
        counts: QueueStatistics = await self._side.run(_statistics)
        return counts

    def wake(self) -> None:
        """There may be something to take, for those here who wait."""
        if self._fetching:
            self._woken = True
        elif self._takers:
            self._fetching = True
            self._woken = False
            self._line.submit(Take(len(self._takers)), self._told)

    def announce(self) -> None:
        """Somebody else put notes into the table, from this process: wake those who wait, here and elsewhere."""
        self.wake()
        if not self._announcing:
            self._announcing = True
            self._line.submit(Announce(), self._announced)

    def _announced(self, _: outcome.Outcome[None]) -> None:
        self._announcing = False

    def _told(self, result: outcome.Outcome[Taken]) -> None:
        """The answer to a `Take`."""
        self._fetching = False
        if isinstance(result, outcome.Error):
            self._takers.fail(result.error)
            return
        taken = result.unwrap()
        for lease in taken.leases:
            if not self._takers.give(lease):
                self._line.submit(Release(lease.handle, 0.0), lambda _: None)
        if taken.enough or self._woken:
            self.wake()
        self._pause = min(POLL, taken.next_due)
        self._changed.set()

    async def run(self) -> None:
        """Look when a delay or a lease is over. Runs as long as the queue is open."""
        while True:
            with trio.move_on_after(self._pause):
                await self._changed.wait()
                self._changed = trio.Event()
                continue
            self._pause = POLL
            self.wake()

    async def listen(self, server: Server, channel: str, instance: str) -> None:
        """Hear of notes that other processes put. Runs as long as the queue is open."""
        limiter = trio.CapacityLimiter(1)
        while True:
            with suppress(psycopg.Error):
                connection = await trio.to_thread.run_sync(_listening, server, channel, limiter=limiter)
                with connection:
                    self.wake()
                    await self._hear(connection, instance)
            await trio.sleep(POLL / 2)  # until then those who wait look by themselves

    async def _hear(self, connection: Connection, instance: str) -> None:
        while True:
            await trio.lowlevel.wait_readable(connection.fileno())
            connection.pgconn.consume_input()
            while heard := connection.pgconn.notifies():
                if heard.extra.decode() != instance:
                    self.wake()


def _listening(server: Server, channel: str) -> Connection:
    connection = server.connect()
    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    return connection


def _statistics(connection: Connection) -> QueueStatistics:
    found = connection.execute(
        "SELECT count(*) FILTER (WHERE due <= now() AND lane = 0), count(*) FILTER (WHERE due <= now() AND lane = 1), "
        "count(*) FILTER (WHERE due <= now() AND lane = 2), count(*) FILTER (WHERE due > now() AND lease IS NULL), "
        "count(*) FILTER (WHERE due > now() AND lease IS NOT NULL), (SELECT count(*) FROM buried) FROM note"
    ).fetchall()
    [(high, normal, bulk, delayed, leased, buried)] = found
    return QueueStatistics((high, normal, bulk), delayed, leased, buried, troubles(connection))


@asynccontextmanager
async def queue_on(server: Server, side: Side, visibility_timeout: float) -> AsyncGenerator[PostgresQueue]:
    """The queue in the tables of `server`, which are there; `side` is a line for what may take longer."""
    instance, channel = secrets.token_hex(8), server.schema
    moves = Moves(Looks(visibility_timeout), channel, instance)
    connect = partial(server.connect, synchronous_commit="off")
    async with open_line(connect, moves, server.patience, "notes") as line, trio.open_nursery() as nursery:
        queue = PostgresQueue(line, side)
        nursery.start_soon(queue.run)
        nursery.start_soon(queue.listen, server, channel, instance)
        yield queue
        nursery.cancel_scope.cancel()


class PostgresQueueSettings(PostgresSettings, frozen=True, kw_only=True):
    """See `postman.queue.QueueSettings`."""

    visibility_timeout: float = 60.0


@asynccontextmanager
async def open_queue(settings: PostgresQueueSettings, _surroundings: Surroundings) -> AsyncGenerator[Queue]:
    """Open `postgresql://...`; `StoreRefused` when that cannot be."""
    server = server_of(settings)
    await prepare(server, durable=False)
    async with (
        open_side(server) as side,
        queue_on(server, side, settings.visibility_timeout) as queue,
    ):
        yield queue


@hookimpl
def postman_register() -> Kind[PostgresQueueSettings, Queue]:
    """The queue `postgresql`."""
    return Kind(name="postgresql", settings=PostgresQueueSettings, open=open_queue, check=check, shared=True)
