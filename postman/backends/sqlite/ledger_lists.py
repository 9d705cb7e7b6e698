"""What people and the clerk ask of the SQLite ledger: lists, counts, sweeping. It runs on the writer's thread."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from postman.backends import rows
from postman.backends.columns import NUMBERS, STATES, first_id, hash_of, hashes_of, key_of
from postman.backends.damage import Damage
from postman.backends.sqlite.database import Database
from postman.backends.sqlite.ledger_rows import SqliteRows, decoded, stored
from postman.ledger import Filter, LedgerStatistics, Overdue, Pause
from postman.mail import Id
from postman.movable import UsedKey
from postman.queue import MAX_DELAY
from postman.row import Now, Row


class SqliteLists:
    """The lists of a ledger.

    Args:
        database: where they are.
        letters: the same ledger's rows.
    """

    def __init__(self, database: Database, letters: SqliteRows) -> None:
        self._database = database
        self._sql = database.connection
        self._letters = letters
        self._damage = Damage()

    def find(self, filter: Filter, after: Id | None, limit: int) -> list[Row]:
        """See `Ledger.find`. No index has a client's letters of all states in order, so those are merged."""
        conditions: list[tuple[str, Any]] = []
        if after is not None:
            conditions.append(("key < ?", key_of(after)))
        if filter.since is not None:
            conditions.append(("key >= ?", key_of(first_id(filter.since))))
        if filter.client is not None:
            conditions.append(("client = ?", filter.client))
        conditions += [
            ("key IN (SELECT key FROM label WHERE hash = ?)", hash_of(label)) for label in rows.labels_of(filter)
        ]
        if filter.state is None and filter.client is None:
            found = self._newest(conditions)
        else:
            states = STATES if filter.state is None else (filter.state,)
            found = heapq.merge(
                *(self._newest([*conditions, ("state = ?", NUMBERS[state])]) for state in states),
                key=lambda row: row.id,
                reverse=True,
            )
        return list(islice((row for row in found if rows.matches(row, filter)), limit))

    def _newest(self, conditions: Sequence[tuple[str, Any]]) -> Iterator[Row]:
        where = "WHERE " + " AND ".join(condition for condition, _ in conditions) if conditions else ""
        return stored(self._sql, f"{where} ORDER BY key DESC", *(value for _, value in conditions))

    def overdue(self, limit: int, now: Now) -> Overdue:
        """See `Ledger.overdue`. What cannot be read hides nothing behind it."""
        damage = Damage(self._damage)

        def first(where: str, value: float) -> tuple[Row, ...]:
            return tuple(islice(stored(self._sql, where, value, decode=damage.decoded), limit))

        overdue = Overdue(
            lapsed=first("WHERE state = 1 AND wake <= ? ORDER BY wake", now.steady),
            doubtful=first("WHERE state = 2 AND wake <= ? ORDER BY wake", now.wall),
            aged=first("INDEXED BY letter_wake WHERE state = 0 AND wake <= ? ORDER BY wake", now.wall),
            unput=first("WHERE state = 0 AND put = 0 AND due <= ? ORDER BY due", now.wall + MAX_DELAY),
            waiting=first("WHERE state = 0 AND put = 1 AND due <= ? ORDER BY due", now.wall - rows.OVERDUE),
        )
        self._damage = damage
        return overdue

    def sweep(self, ended_before: float, keyed_before: float, limit: int) -> int:
        """Delete rows that ended, and keys that came, at or before these times; at most `limit` in all."""
        self._database.flush()  # a letter that is replayed in this very transaction must stay
        swept: list[tuple[Any, ...]] = self._sql.execute(
            "SELECT key, labels, state, row FROM letter"
            " WHERE state >= 4 AND +state <= ? AND wake <= ? ORDER BY wake LIMIT ?",
            (len(STATES) - 1, ended_before, limit),
        ).fetchall()
        for key, labels, state, encoded in swept:
            self._letters.gone(STATES[state], decoded(key, encoded))
            for hash in hashes_of(labels):
                self._sql.execute("DELETE FROM label WHERE hash = ? AND key = ?", (hash, key))
        keys = [(key,) for key, *_ in swept]
        self._database.write_rows("DELETE FROM body WHERE key IN (", "?", ")", keys)
        self._database.write_rows("DELETE FROM letter WHERE key IN (", "?", ")", keys)
        self._sql.execute(
            "DELETE FROM idempotency WHERE (client, key) IN "
            "(SELECT client, key FROM idempotency WHERE at <= ? ORDER BY at LIMIT ?)",
            (keyed_before, limit - len(swept)),
        )
        return len(swept) + self._sql.changes()

    def statistics(self, wall: float) -> LedgerStatistics:
        """See `Ledger.statistics`."""
        self._database.prove()
        dues = [
            due
            for put in (0, 1)
            for (due,) in self._sql.execute(
                "SELECT due FROM letter WHERE state = 0 AND put = ? AND due <= ? ORDER BY due LIMIT 1", (put, wall)
            )
        ]
        return LedgerStatistics(
            self._letters.counts,
            min(dues, default=None),
            self._letters.doubled,
            (*self._database.troubles, *self._damage.troubles),
        )

    def pause(self, provider: str, who: str | None, wall: float) -> None:
        """See `Ledger.pause`."""
        self._sql.execute("DELETE FROM pause WHERE provider = ?", (provider,))
        if who is not None:
            self._sql.execute("INSERT INTO pause (provider, since, who) VALUES (?, ?, ?)", (provider, wall, who))

    def pauses(self) -> Sequence[Pause]:
        """See `Ledger.pauses`."""
        return [Pause(*values) for values in self._sql.execute("SELECT provider, since, who FROM pause ORDER BY since")]

    # Removals

    def keys(self, cursor: str, limit: int) -> tuple[Sequence[UsedKey], str]:
        """See `Movable.keys`."""
        found = self._sql.execute(
            "SELECT client, key, fingerprint, ids, at FROM idempotency WHERE (client, key) > (?, ?) "
            "ORDER BY client, key LIMIT ?",
            (*rows.key_at(cursor), limit),
        ).fetchall()
        return rows.page_of_keys(found, limit)
