"""What people and the clerk ask of the PostgreSQL ledger: lists, counts, sweeping.

All of it is done beside the writer, on a line of its own, so that no letter waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from postman.backends import rows
from postman.backends.columns import NUMBERS, STATES, first_id, hash_of, hashes_of, id_of, key_of
from postman.backends.postgres.checks import troubles
from postman.backends.postgres.connection import Connection
from postman.backends.postgres.ledger_rows import number_of
from postman.backends.postgres.tally import DOUBLED, SUM, add
from postman.ledger import HEARD, Filter, Instance, LedgerStatistics, Overdue, Pause
from postman.mail import Id, Letter
from postman.movable import UsedKey
from postman.queue import MAX_DELAY
from postman.row import Now, Row

_instances = msgspec.msgpack.Decoder(Instance)


class PostgresLists:
    """The lists of a ledger.

    Args:
        clock: the time; None: the server's.
    """

    def __init__(self, clock: Callable[[], Now] | None) -> None:
        self._clock = clock

    def now(self, connection: Connection) -> Now:
        """The time by the ledger's clock."""
        if self._clock is not None:
            return self._clock()
        [(wall,)] = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchall()
        return Now(wall, wall)

    def get(self, id: Id, connection: Connection) -> Row | None:
        """The row as it is."""
        found = connection.execute("SELECT row FROM letter WHERE key = %s", [key_of(id)], binary=True).fetchone()
        return None if found is None else rows.read(id, found[0])

    def find(self, filter: Filter, after: Id | None, limit: int, connection: Connection) -> Sequence[Row]:
        """See `Ledger.find`. No index has a client's letters of all states in order, so those are merged."""
        conditions: list[tuple[str, Any]] = []
        if after is not None:
            conditions.append(("key < %s", key_of(after)))
        if filter.since is not None:
            conditions.append(("key >= %s", key_of(first_id(filter.since))))
            conditions.append(("accepted >= %s", filter.since))
        if filter.client is not None:
            conditions.append(("client = %s", filter.client))
        conditions += [
            ("key IN (SELECT key FROM label WHERE hash = %s)", number_of(hash_of(label)))
            for label in rows.labels_of(filter)
        ]
        values = [value for _, value in conditions]
        if filter.state is None and filter.client is None:
            return _rows(connection, f"SELECT key, row FROM letter {_newest(conditions)}", *values, limit)  # noqa: S608  # our own text
        conditions.append(("state = asked.number", None))
        statement = (
            "SELECT key, row FROM unnest(%s::smallint[]) AS asked (number) CROSS JOIN LATERAL "  # noqa: S608  # our own text
            f"(SELECT key, row FROM letter {_newest(conditions)}) AS newest ORDER BY key DESC LIMIT %s"
        )
        states = STATES if filter.state is None else (filter.state,)
        return _rows(connection, statement, [NUMBERS[state] for state in states], *values, limit, limit)

    def overdue(self, limit: int, connection: Connection) -> Overdue:
        """See `Ledger.overdue`."""
        now = self.now(connection)

        def first(where: str, column: str, value: float) -> tuple[Row, ...]:
            statement = f"SELECT key, row FROM letter WHERE {where} AND {column} <= %s ORDER BY {column} LIMIT %s"  # noqa: S608  # our own text
            return _rows(connection, statement, value, limit)

        return Overdue(
            lapsed=first("state = 1", "wake", now.steady),
            doubtful=first("state = 2", "wake", now.wall),
            aged=first("state = 0", "wake", now.wall),
            unput=first("state = 0 AND NOT put", "due", now.wall + MAX_DELAY),
            waiting=first("state = 0 AND put", "due", now.wall - rows.OVERDUE),
        )

    def sweep(self, retention: float, key_retention: float, limit: int, connection: Connection) -> int:
        """Delete rows that ended, and keys that came, so many seconds ago; at most `limit` in all."""
        wall = self.now(connection).wall
        swept = connection.execute(
            "DELETE FROM letter WHERE key IN (SELECT key FROM letter WHERE state >= 4 AND state <= %s AND wake <= %s "
            "ORDER BY wake LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING key, labels, state, row",
            [len(STATES) - 1, wall - retention, limit],
            binary=True,
        ).fetchall()
        labels = [(number_of(hash), key) for key, joined, *_ in swept for hash in hashes_of(joined)]
        connection.execute("DELETE FROM body WHERE key = ANY(%s::bigint[])", [[key for key, *_ in swept]])
        connection.execute(
            "DELETE FROM label USING unnest(%s::bigint[], %s::bigint[]) AS gone (hash, key) "
            "WHERE label.hash = gone.hash AND label.key = gone.key",
            [[hash for hash, _ in labels], [key for _, key in labels]],
        )
        keys = connection.execute(
            "DELETE FROM idempotency WHERE (client, key) IN (SELECT client, key FROM idempotency WHERE at <= %s "
            "ORDER BY at LIMIT %s FOR UPDATE SKIP LOCKED)",
            [wall - key_retention, limit - len(swept)],
        )
        gone = Counter({state: -number for state, number in Counter(state for _, _, state, _ in swept).items()})
        gone[DOUBLED] = -sum(row.receipts > 1 for row in _decoded((key, encoded) for key, _, _, encoded in swept))
        add(connection, gone)
        return len(swept) + keys.rowcount

    def statistics(self, connection: Connection) -> LedgerStatistics:
        """See `Ledger.statistics`. The counts are sums of a few rows."""
        counts: dict[int, int] = dict(connection.execute(SUM).fetchall())
        doubled = counts.pop(DOUBLED, 0)
        [(oldest,)] = connection.execute(
            "SELECT min(due) FROM unnest('{false,true}'::bool[]) AS asked (put) CROSS JOIN LATERAL (SELECT due "
            "FROM letter WHERE state = 0 AND letter.put = asked.put AND due <= %s ORDER BY due LIMIT 1) AS oldest",
            [self.now(connection).wall],
        ).fetchall()
        known = {state: counts[number] for state, number in NUMBERS.items() if counts.get(number)}
        return LedgerStatistics(known, oldest, doubled, troubles(connection))

    def pause(self, provider: str, who: str | None, connection: Connection) -> None:
        """See `Ledger.pause`."""
        if who is None:
            connection.execute("DELETE FROM pause WHERE provider = %s", [provider])
        else:
            connection.execute(
                "INSERT INTO pause (provider, since, who) VALUES (%s, %s, %s) "
                "ON CONFLICT (provider) DO UPDATE SET since = excluded.since, who = excluded.who",
                [provider, self.now(connection).wall, who],
            )

    def pauses(self, connection: Connection) -> Sequence[Pause]:
        """See `Ledger.pauses`."""
        found = connection.execute("SELECT provider, since, who FROM pause ORDER BY since").fetchall()
        return [Pause(*values) for values in found]

    def enrol(self, instance: Instance, connection: Connection) -> Sequence[Instance]:
        """See `Ledger.enrol`."""
        now = self.now(connection).wall
        connection.execute(
            "INSERT INTO instance (id, at, said) VALUES (%s, %s, %s) "
            "ON CONFLICT (id) DO UPDATE SET at = excluded.at, said = excluded.said",
            [instance.id, now, msgspec.msgpack.encode(msgspec.structs.replace(instance, at=now))],
        )
        connection.execute("DELETE FROM instance WHERE at < %s", [now - HEARD])
        found = connection.execute("SELECT said FROM instance ORDER BY id", binary=True)
        return tuple(_instances.decode(said) for (said,) in found)

    # Removals

    def letters(self, ids: Sequence[Id], connection: Connection) -> Mapping[Id, Letter]:
        """See `Movable.letters`."""
        statement = "SELECT key, letter FROM body WHERE key = ANY(%s::bigint[])"
        keys = {key_of(id): id for id in ids}
        bodies = connection.execute(statement, [list(keys)], binary=True)
        return rows.readable((keys[key], body) for key, body in bodies)

    def keys(self, cursor: str, limit: int, connection: Connection) -> tuple[Sequence[UsedKey], str]:
        """See `Movable.keys`."""
        found = connection.execute(
            "SELECT client, key, fingerprint, ids, at FROM idempotency WHERE (client, key) > (%s, %s) "
            "ORDER BY client, key LIMIT %s",
            [*rows.key_at(cursor), limit],
            binary=True,
        ).fetchall()
        return rows.page_of_keys(found, limit)


def _newest(conditions: Sequence[tuple[str, Any]]) -> str:
    where = "WHERE " + " AND ".join(condition for condition, _ in conditions) if conditions else ""
    return f"{where} ORDER BY key DESC LIMIT %s"


def _rows(connection: Connection, statement: str, *values: Any) -> tuple[Row, ...]:  # noqa: ANN401  # what is bound
    return _decoded(connection.execute(statement.encode(), values, binary=True))


def _decoded(found: Iterable[tuple[int, bytes]]) -> tuple[Row, ...]:
    """Rows that can be read."""
    return tuple(row for key, encoded in found if (row := rows.decoded(id_of(key), encoded)))
