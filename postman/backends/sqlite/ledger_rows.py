"""The rows of the SQLite ledger: a write-back cache above the tables. Everything here runs on the writer's thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import apsw

from postman import transitions
from postman.backends import rows, seal
from postman.backends.columns import STATES, changing, hash_of, id_of, key_of
from postman.backends.sqlite.database import Database
from postman.mail import Id
from postman.row import BODY_NOT_NEEDED, Now, Policy, Row, State

CACHED: Final = 4_096
"""So many rows that have not ended are kept in memory; half of the place is for those that are about to be claimed."""
READ_AHEAD: Final = 32
CACHED_BODY: Final = 8_192
"""Bytes; bodies up to this are kept with their rows until they are claimed."""


def decoded(key: int, encoded: bytes) -> Row | None:
    """A row of the file, see `seal.decoded`."""
    return seal.decoded(id_of(key), encoded)


def stored(
    connection: apsw.Connection,
    rest: str,
    *values: Any,  # noqa: ANN401  # what SQLite binds
    decode: Callable[[Id, bytes], Row | None] = seal.decoded,
) -> Iterator[Row]:
    """The rows in the file that the rest of a SELECT names, but for those that cannot be read."""
    for key, encoded in connection.execute(f"SELECT key, row FROM letter {rest}", values):  # noqa: S608  # our text
        if row := decode(id_of(key), encoded):
            yield row


class SqliteRows:
    """See `postman.backends.rows.Rows` and `postman.backends.sqlite.database.Participant`.

    Attributes:
        policy: of the ledger; says when the clerk must look at a row.
    """

    def __init__(self, database: Database, policy: Policy) -> None:
        self.policy = policy
        self._database = database
        self._sql = database.connection
        self._cache: dict[Id, tuple[Row, bytes | None]] = {}
        self._added: dict[Id, rows.Parcel] = {}
        self._changed: dict[Id, Row] = {}
        self._bodiless: list[Id] = []
        self._counts: Counter[State] = Counter()
        self._doubled = 0
        self._committed: tuple[Counter[State], int] = Counter(), 0

    def load(self, now: Now) -> None:
        """Count, and put in doubt what a dead process was sending."""
        states = self._sql.execute("SELECT state, count(*) FROM letter GROUP BY state")
        self._counts.update({STATES[number]: count for number, count in states if number in range(len(STATES))})
        self._doubled = self._sql.execute("SELECT number FROM tally WHERE name = 'doubled'").get or 0
        for row in list(stored(self._sql, "WHERE state = 1")):
            self.write(transitions.orphan(row, self.policy, now), row)

    # What one transaction changes

    def flush(self) -> None:
        """See `Participant.flush`."""
        write = self._database.write_rows
        added = [
            (key_of(id), self._changed.pop(id, parcel.row), parcel.body, [hash_of(label) for label in parcel.labels])
            for id, parcel in self._added.items()
        ]
        write(
            "INSERT INTO letter (key, client, labels, state, due, wake, put, row) VALUES ",
            "(?, ?, ?, ?, ?, ?, ?, ?)",
            "",
            [(key, row.client, b"".join(hashes), *changing(row, self.policy)) for key, row, _, hashes in added],
        )
        write("INSERT INTO body (key, letter) VALUES ", "(?, ?)", "", [(key, body) for key, _, body, _ in added])
        write(
            "INSERT INTO label (hash, key) VALUES ",
            "(?, ?)",
            "",
            [(hash, key) for key, _, _, hashes in added for hash in hashes],
        )
        write(
            "UPDATE letter SET state = new.column2, due = new.column3, wake = new.column4, put = new.column5, "
            "row = new.column6 FROM (VALUES ",
            "(?, ?, ?, ?, ?, ?)",
            ") AS new WHERE letter.key = new.column1",
            [(key_of(id), *changing(row, self.policy)) for id, row in self._changed.items()],
        )
        write("DELETE FROM body WHERE key IN (", "?", ")", [(key_of(id),) for id in self._bodiless])
        if self._doubled != self._committed[1]:
            self._sql.execute("INSERT OR REPLACE INTO tally (name, number) VALUES ('doubled', ?)", (self._doubled,))
        for row in [*self._changed.values(), *(row for _, row, _, _ in added)]:
            if row.state.ended or len(self._cache) > CACHED // 2:
                self._cache.pop(row.id, None)
        self._added, self._changed, self._bodiless = {}, {}, []

    def forget(self) -> None:
        """See `Participant.forget`."""
        self._cache, self._added, self._changed, self._bodiless = {}, {}, {}, []
        self._counts, self._doubled = self._committed[0].copy(), self._committed[1]

    def kept(self) -> Sequence[Callable[[], None]]:
        """See `Participant.kept`."""
        self._committed = self._counts.copy(), self._doubled
        return ()

    # Rows

    def count(self, state: State) -> int:
        """See `Rows.count`."""
        return self._counts[state]

    def get(self, id: Id) -> Row | None:
        """See `Rows.get`."""
        if id in self._cache:
            return self._cache[id][0]
        encoded = self._sql.execute("SELECT row FROM letter WHERE key = ?", (key_of(id),)).get
        return None if encoded is None else seal.read(id, encoded)

    def read_ahead(self, id: Id) -> None:
        """Bring a letter that is about to be claimed into memory, with those behind it, which are likely to be next."""
        if id in self._cache or len(self._cache) > CACHED:
            return
        found = self._sql.execute(
            "SELECT key, row, CASE WHEN length(letter) <= ? THEN letter END "
            "FROM letter LEFT JOIN body USING (key) WHERE key >= ? ORDER BY key LIMIT ?",
            (CACHED_BODY, key_of(id), READ_AHEAD),
        )
        for key, encoded, body in found:
            row = decoded(key, encoded)
            if row is not None and not row.state.ended:
                self._cache.setdefault(row.id, (row, body))

    def known(self, id: Id) -> bool:
        """See `Rows.known`. Looks in memory alone; the primary key refuses the others."""
        return id in self._cache

    def body(self, id: Id) -> bytes | None:
        """See `Rows.body`."""
        row, body = self._cache.get(id, (None, None))
        if row is not None and body is not None:
            self._cache[id] = row, None
            return body
        if id in self._added:
            return self._added[id].body
        stored: bytes | None = self._sql.execute("SELECT letter FROM body WHERE key = ?", (key_of(id),)).get
        return stored

    def add(self, parcel: rows.Parcel) -> None:
        """See `Rows.add`."""
        row = parcel.row
        self._added[row.id] = parcel
        self._cache[row.id] = row, parcel.body if row.size <= CACHED_BODY else None
        self._counts[row.state] += 1

    def write(self, row: Row, before: Row) -> None:
        """See `Rows.write`."""
        _, body = self._cache.get(row.id, (None, None))
        self._cache[row.id] = row, body
        self._changed[row.id] = row
        self._counts[before.state] -= 1
        self._counts[row.state] += 1
        self._doubled += (row.receipts > 1) - (before.receipts > 1)
        if row.state in BODY_NOT_NEEDED and before.state not in BODY_NOT_NEEDED:
            self._bodiless.append(row.id)

    def used(self, client: str, key: str) -> rows.Used | None:
        """See `Rows.used`."""
        found = self._sql.execute(
            "SELECT fingerprint, ids FROM idempotency WHERE client = ? AND key = ?", (client, key)
        ).get
        return rows.Used(found[0], tuple(found[1].split())) if found else None

    def remember(self, client: str, key: str, used: rows.Used, now: Now) -> None:
        """See `Rows.remember`."""
        self._sql.execute(
            "INSERT INTO idempotency (client, key, fingerprint, ids, at) VALUES (?, ?, ?, ?, ?)",
            (client, key, used.fingerprint, " ".join(used.ids), now.wall),
        )

    def gone(self, state: State, row: Row | None) -> None:
        """A row that had ended was deleted; None: it could not be read."""
        self._counts[state] -= 1
        self._doubled -= row is not None and row.receipts > 1

    # Counts

    @property
    def counts(self) -> Mapping[State, int]:
        """Of the rows in each state."""
        return +self._counts

    @property
    def doubled(self) -> int:
        """Letters that more than one receipt came for."""
        return self._doubled
