"""The rows of the PostgreSQL ledger, within the transactions of its writer. Everything here runs on that line's thread.

Other processes write the same rows. So a transaction locks, in the order of their keys, all rows that its operations
are about; these change them in memory; and what they changed is written by a few long statements.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import psycopg

from postman.backends import rows
from postman.backends.columns import NUMBERS, changing, hashes_of, id_of, joined, key_of
from postman.backends.postgres.connection import Connection
from postman.backends.postgres.line import Job
from postman.backends.postgres.queue_moves import insert_notes
from postman.errors import StoreUnavailable
from postman.mail import Id
from postman.queue import Note
from postman.row import BODY_NOT_NEEDED, Now, Policy, Row, State

DOUBLED: Final = -1
"""Stands among the states in the tally."""
SLOTS: Final = 2**15
"""Each process counts in rows of its own, as far as chance allows, so that none waits for another's commit."""
SWEPT: Final = 64
"""The slot of what is swept."""
STAY: Final = 500
"""So many commits a process counts in one slot. While anybody keeps an old transaction open, a row that is written
again and again is found behind all that it ever was."""
RECOUNT: Final = 1.0
"""Seconds for which the sum of all slots is believed; and ten times as long as it took."""


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
        self._slot = secrets.randbelow(SLOTS)
        self._stay = STAY
        self._counts: Counter[int] = Counter()
        self._recount_at = 0.0
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
        self._tally: Counter[int] = Counter()

    # Transactions

    def begin(self, connection: Connection, jobs: Sequence[Job[Operation]]) -> None:
        """See `Work.begin`. The time is read once the rows are locked, so no lease is judged by an older one."""
        self._forget()
        requests = [job.request for job in jobs]
        ids = {key_of(id) for request in requests for id in request.ids}
        bodies = {key_of(id) for request in requests if request.bodies for id in request.ids}
        keys = [key for request in requests for key in request.keys]
        began = time.monotonic()
        recount = began >= self._recount_at and any(request.counts for request in requests)
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
            counts = recount and ask("SELECT name, sum(number)::bigint FROM tally GROUP BY name")
            clock = ask("SELECT extract(epoch FROM clock_timestamp())::float8")
        self._stored = {id_of(key): encoded for key, encoded in found}
        self._bodies = {id_of(key): body for key, body in letters or ()}
        self._used = {(client, key): rows.Used(print, tuple(ids.split())) for client, key, print, ids in used or ()}
        if counts:
            self._counts = Counter(dict(counts))
            self._recount_at = time.monotonic() + RECOUNT + 10 * (time.monotonic() - began)
        [(wall,)] = clock.fetchall()
        now = self._clock() if self._clock else Now(wall, wall)
        for job in jobs:
            job.do(partial(job.request.run, self, now))

    def commit(self, connection: Connection, _jobs: Sequence[Job[Operation]]) -> None:
        """See `Work.commit`. A standby that has what was written last has all that was written before."""
        try:
            self._write_all(connection)
            connection.confirm()
        except (psycopg.Error, StoreUnavailable):
            self.doubtful = True
            raise
        self._counts.update(self._tally)
        if self._added or self._changed:
            self.doubtful = False

    def _write_all(self, connection: Connection) -> None:
        """Write and commit. All processes write in one order, so that none waits for one that waits for it."""
        write = partial(_write, connection)
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
            self._insert(write, added)
            write(
                "UPDATE letter SET state = new.state, due = new.due, wake = new.wake, put = new.put, row = new.row "
                "FROM unnest(%b::bigint[], %b::smallint[], %b::float8[], %b::float8[], %b::bool[], %b::bytea[]) "
                "AS new (key, state, due, wake, put, row) WHERE letter.key = new.key",
                [(key_of(id), *changing(row, self.policy)) for id, row in self._changed.items()],
            )
            write("DELETE FROM body WHERE key = ANY(%b::bigint[])", [(key_of(id),) for id in self._bodiless])
            insert_notes(connection, self.notes)
            self._move_on(connection)
            count(connection, self._slot, self._tally)
            connection.execute("COMMIT")

    def _move_on(self, connection: Connection) -> None:
        self._stay -= 1
        if not self._stay:
            left, self._slot, self._stay = self._slot, secrets.randbelow(SLOTS), STAY
            connection.execute("UPDATE tally SET slot = %s WHERE slot = %s", [self._slot, left])

    def _insert(self, write: Callable[[str, Sequence[Sequence[Any]]], None], added: Sequence[tuple[Any, ...]]) -> None:
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
        """See `Rows.count`. What other processes are just adding is not in it."""
        return self._counts[NUMBERS[state]] + self._tally[NUMBERS[state]]

    def get(self, id: Id) -> Row | None:
        """See `Rows.get`."""
        if id not in self._rows and id in self._stored:
            self._rows[id] = rows.read(id, self._stored[id])
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
        self._tally[NUMBERS[parcel.row.state]] += 1

    def write(self, row: Row, before: Row) -> None:
        """See `Rows.write`."""
        self._rows[row.id] = self._changed[row.id] = row
        self._tally[NUMBERS[before.state]] -= 1
        self._tally[NUMBERS[row.state]] += 1
        self._tally[DOUBLED] += (row.receipts > 1) - (before.receipts > 1)
        if row.state in BODY_NOT_NEEDED and before.state not in BODY_NOT_NEEDED:
            self._bodiless.append(row.id)

    def used(self, client: str, key: str) -> rows.Used | None:
        """See `Rows.used`."""
        return self._used.get((client, key))

    def remember(self, client: str, key: str, used: rows.Used, now: Now) -> None:
        """See `Rows.remember`."""
        self._used[client, key] = used
        self._remembered[client, key] = now.wall


def count(connection: Connection, slot: int, tally: Counter[int]) -> None:
    """Add to the running counts. Last in its transaction: who shares the slot waits for its end."""
    _write(
        connection,
        "INSERT INTO tally (slot, name, number) SELECT * FROM unnest(%b::smallint[], %b::smallint[], %b::bigint[]) "
        "ON CONFLICT (slot, name) DO UPDATE SET number = tally.number + excluded.number",
        [(slot, name, number) for name, number in sorted(tally.items()) if number],
    )


def _write(connection: Connection, statement: str, values: Sequence[Sequence[Any]]) -> None:
    """Run a statement with an array for each column."""
    if values:
        connection.execute(statement, [list(column) for column in zip(*values, strict=True)])
