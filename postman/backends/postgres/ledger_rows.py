"""The rows of the PostgreSQL ledger, within the transactions of its writer. Everything here runs on that line's thread.

Other processes write the same rows. So a transaction locks, in the order of their keys, all rows that its operations
are about; these change them in memory; and what they changed is written by a few long statements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import psycopg

from postman.backends import rows, seal
from postman.backends.columns import changing, hashes_of, id_of, joined, key_of
from postman.backends.postgres.connection import Connection
from postman.backends.postgres.line import Job
from postman.backends.postgres.queue_moves import insert_notes
from postman.backends.postgres.tally import SUM, Tally
from postman.errors import StoreUnavailable
from postman.mail import Id
from postman.queue import Note
from postman.row import BODY_NOT_NEEDED, Now, Policy, Row, State


def number_of(hash: bytes) -> int:
    """What the tables have of a label's hash."""
    return int.from_bytes(hash, signed=True)


class Operation(msgspec.Struct, frozen=True):
    """What is to be done to rows, and what must be read for it.

    Attributes:
        run: does it, at a time; whoever raises an error of ours has changed nothing.
        ids: of the rows.
        bodies: those bodies are needed too.
        keys: idempotency keys, each with its client.
        counts: `Rows.count` is needed too.
    """

    run: Callable[[PostgresRows, Now], Any]
    ids: tuple[Id, ...] = ()
    bodies: bool = False
    keys: tuple[tuple[str, str], ...] = ()
    counts: bool = False


class PostgresRows:
    """See `postman.backends.rows.Rows` and `postman.backends.postgres.line.Work`.

    Args:
        policy: of the ledger; says when the clerk must look at a row.
        clock: the time; None: the server's.

    Attributes:
        notes: to be put in this transaction, each with its delay in seconds.
        doubtful: of what was written last nobody knows whether it is there, or on the standbys.
    """

    repeatable = False

    def __init__(self, policy: Policy, clock: Callable[[], Now] | None) -> None:
        self.policy = policy
        self._clock = clock
        self._tally = Tally()
        self.doubtful = False
        self._forget()

    def _forget(self) -> None:
        self.notes: list[tuple[Note, float]] = []
        self._stored: dict[Id, bytes] = {}
        self._rows: dict[Id, Row] = {}
        self._bodies: dict[Id, bytes] = {}
        self._used: dict[tuple[str, str], rows.Used] = {}
        self._added: dict[Id, rows.Parcel] = {}
        self._changed: dict[Id, Row] = {}
        self._bodiless: list[Id] = []
        self._remembered: dict[tuple[str, str], float] = {}
        self._tally.forget()

    # Transactions

    def begin(self, connection: Connection, jobs: Sequence[Job[Operation]]) -> None:
        """See `Work.begin`."""
        self._forget()
        wall = self._read(connection, [job.request for job in jobs])
        now = self._clock() if self._clock else Now(wall, wall)
        for job in jobs:
            job.do(partial(job.request.run, self, now))

    def _read(self, connection: Connection, requests: Sequence[Operation]) -> float:
        """Lock and read what operations need; the time behind the locks: no lease is judged by an older one."""
        ids = {key_of(id) for request in requests for id in request.ids}
        bodies = {key_of(id) for request in requests if request.bodies for id in request.ids}
        keys = [key for request in requests for key in request.keys]
        began = time.monotonic()
        count = self._tally.is_stale and any(request.counts for request in requests)
        with connection.pipeline():
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            ask = partial(connection.execute, binary=True)
            found = ask(
                "SELECT key, row FROM letter WHERE key = ANY(%b::bigint[]) ORDER BY key FOR UPDATE", [list(ids)]
            )
            letters = bodies and ask("SELECT key, letter FROM body WHERE key = ANY(%b::bigint[])", [list(bodies)])
            used = keys and ask(
                "SELECT client, key, fingerprint, ids FROM idempotency "
                "JOIN unnest(%b::text[], %b::text[]) AS asked (client, key) USING (client, key) "
                "FOR KEY SHARE OF idempotency",  # so that a replay waits for the standbys as the first request did
                [[client for client, _ in keys], [key for _, key in keys]],
            )
            sums = count and ask(SUM)
            clock = ask("SELECT extract(epoch FROM clock_timestamp())::float8")
        self._stored = {id_of(key): encoded for key, encoded in found}
        self._bodies = {id_of(key): body for key, body in letters or ()}
        self._used = {(client, key): rows.Used(print, tuple(ids.split())) for client, key, print, ids in used or ()}
        if sums:
            self._tally.learn(sums, time.monotonic() - began)
        wall: float
        [(wall,)] = clock.fetchall()
        return wall

    def commit(self, connection: Connection, _jobs: Sequence[Job[Operation]]) -> None:
        """See `Work.commit`. A standby that has what was written last has all that was written before."""
        try:
            self._write_all(connection)
            connection.confirm()
        except (psycopg.Error, StoreUnavailable):
            self.doubtful = True
            raise
        self._tally.kept()
        if self._added or self._changed:
            self.doubtful = False

    def _write_all(self, connection: Connection) -> None:
        """Write and commit. All processes write in one order, so that none waits for one that waits for it."""
        write = connection.write
        added = sorted(
            (key_of(id), parcel.row.client, self._changed.pop(id, parcel.row), parcel.body, parcel.labels)
            for id, parcel in self._added.items()
        )
        with connection.pipeline():
            write(
                "INSERT INTO idempotency (client, key, at, fingerprint, ids) SELECT * FROM unnest"
                "(%b::text[], %b::text[], %b::float8[], %b::bytea[], %b::text[])",
                [
                    (*name, at, self._used[name].fingerprint, " ".join(self._used[name].ids))
                    for name, at in sorted(self._remembered.items())
                ],
            )
            self._insert(connection, added)
            write(
                "UPDATE letter SET state = new.state, due = new.due, wake = new.wake, put = new.put, row = new.row "
                "FROM unnest(%b::bigint[], %b::smallint[], %b::float8[], %b::float8[], %b::bool[], %b::bytea[]) "
                "AS new (key, state, due, wake, put, row) WHERE letter.key = new.key",
                [(key_of(id), *changing(row, self.policy)) for id, row in self._changed.items()],
            )
            write("DELETE FROM body WHERE key = ANY(%b::bigint[])", [(key_of(id),) for id in self._bodiless])
            insert_notes(connection, self.notes)
            self._tally.write(connection)
            connection.execute("COMMIT")

    def _insert(self, connection: Connection, added: Sequence[tuple[Any, ...]]) -> None:
        write = connection.write
        hashes = {key: joined(labels) for key, _, _, _, labels in added}
        write(
            "INSERT INTO letter (key, client, accepted, labels, state, due, wake, put, row) SELECT * FROM unnest"
            "(%b::bigint[], %b::text[], %b::float8[], %b::bytea[], %b::smallint[], %b::float8[], %b::float8[], "
            "%b::bool[], %b::bytea[])",
            [(key, client, row.accepted, hashes[key], *changing(row, self.policy)) for key, client, row, _, _ in added],
        )
        write(
            "INSERT INTO body (key, letter) SELECT * FROM unnest(%b::bigint[], %b::bytea[])",
            [(key, body) for key, _, row, body, _ in added if row.state not in BODY_NOT_NEEDED],
        )
        write(
            "INSERT INTO label (hash, key) SELECT * FROM unnest(%b::bigint[], %b::bigint[])",
            [(number_of(hash), key) for key in hashes for hash in hashes_of(hashes[key])],
        )

    # Rows

    def count(self, state: State) -> int:
        """See `Rows.count`."""
        return self._tally.count(state)

    def get(self, id: Id) -> Row | None:
        """See `Rows.get`."""
        if id not in self._rows and id in self._stored:
            self._rows[id] = seal.read(id, self._stored[id])
        return self._rows.get(id)

    def known(self, id: Id) -> bool:
        """See `Rows.known`."""
        return id in self._rows or id in self._stored

    def body(self, id: Id) -> bytes | None:
        """See `Rows.body`."""
        return self._added[id].body if id in self._added else self._bodies.get(id)

    def add(self, parcel: rows.Parcel) -> None:
        """See `Rows.add`."""
        self._added[parcel.row.id] = parcel
        self._rows[parcel.row.id] = parcel.row
        self._tally.change(None, parcel.row)

    def write(self, row: Row, before: Row) -> None:
        """See `Rows.write`."""
        self._rows[row.id] = self._changed[row.id] = row
        self._tally.change(before, row)
        if row.state in BODY_NOT_NEEDED and before.state not in BODY_NOT_NEEDED:
            self._bodiless.append(row.id)

    def used(self, client: str, key: str) -> rows.Used | None:
        """See `Rows.used`."""
        return self._used.get((client, key))

    def remember(self, client: str, key: str, used: rows.Used, now: Now) -> None:
        """See `Rows.remember`."""
        self._used[client, key] = used
        self._remembered[client, key] = now.wall
