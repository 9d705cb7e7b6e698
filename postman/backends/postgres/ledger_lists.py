"""What people and the clerk ask of the PostgreSQL ledger: lists, counts, sweeping.

All of it is done beside the writer, on a line of its own, so that no letter waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Final

import msgspec

from postman.backends import rows, seal
from postman.backends.columns import NUMBERS, STATES, first_id, hash_of, hashes_of, id_of, key_of
from postman.backends.damage import Damage
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


# Ways to find letters, newest first. Each is in the order of one index alone: else the server might think that it soon
# meets a rare state or client among the newest letters, and look through all of them. To that end BETWEEN hides that a
# column has one value.
_NEWEST: Final = "SELECT key, row FROM letter WHERE true{} ORDER BY key DESC LIMIT %(limit)s"
_OF_LABEL: Final = """
SELECT key, row FROM label JOIN letter USING (key) WHERE hash BETWEEN %(hash)s AND %(hash)s{}
ORDER BY hash DESC, key DESC LIMIT %(limit)s
"""
_OF_STATE: Final = """
SELECT key, row FROM letter WHERE state BETWEEN %(state)s AND %(state)s{} ORDER BY state DESC, key DESC LIMIT %(limit)s
"""
_OF_CLIENT: Final = """
SELECT key, row FROM unnest(%(states)s::smallint[]) AS asked (state) CROSS JOIN LATERAL (
    SELECT key, row FROM letter
    WHERE client BETWEEN %(client)s AND %(client)s AND letter.state BETWEEN asked.state AND asked.state{}
    ORDER BY client DESC, letter.state DESC, key DESC LIMIT %(limit)s
) AS newest ORDER BY key DESC LIMIT %(limit)s
"""
"""No index has a client's letters of all states in order, so those are merged."""


class PostgresLists:
    """The lists of a ledger.

    Args:
        clock: the time; None: the server's.
    """

    def __init__(self, clock: Callable[[], Now] | None) -> None:
        self._clock = clock
        self._damage = Damage()

    def now(self, connection: Connection) -> Now:
        """The time by the ledger's clock."""
        if self._clock is not None:
            return self._clock()
        [(wall,)] = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchall()
        return Now(wall, wall)

    def get(self, id: Id, connection: Connection) -> Row | None:
        """The row as it is."""
        found = connection.execute("SELECT row FROM letter WHERE key = %s", [key_of(id)], binary=True).fetchone()
        return None if found is None else seal.read(id, found[0])

    def find(self, filter: Filter, after: Id | None, limit: int, connection: Connection) -> Sequence[Row]:
        """See `Ledger.find`. Who cannot be read makes no page shorter: that would be taken for the last one."""
        found: list[Row] = []
        while len(found) < limit:
            page = self._page(filter, after, limit, connection)
            found += _decoded(page)
            if len(page) < limit:
                break
            after = id_of(page[-1][0])
        return tuple(found[:limit])

    def _page(
        self, filter: Filter, after: Id | None, limit: int, connection: Connection
    ) -> Sequence[tuple[int, bytes]]:
        hashes = [number_of(hash_of(label)) for label in rows.labels_of(filter)]
        state = None if filter.state is None else NUMBERS[filter.state]
        asked: dict[str, object] = {"client": filter.client, "state": state, "since": filter.since, "limit": limit}
        asked["states"] = list(NUMBERS.values()) if state is None else [state]
        narrow = ""
        if after is not None:
            asked["after"], narrow = key_of(after), " AND key < %(after)s"
        if filter.since is not None:
            asked["first"] = key_of(first_id(filter.since))
            narrow += " AND key >= %(first)s AND accepted >= %(since)s"
        if hashes:
            asked["hash"], asked["other"] = hashes[0], hashes[-1]
            narrow += " AND key IN (SELECT key FROM label WHERE hash = %(other)s)" if len(hashes) > 1 else ""
            narrow += "" if filter.client is None else " AND client = %(client)s"
            narrow += "" if state is None else " AND state = %(state)s"
            way = _OF_LABEL
        elif filter.client is not None:
            way = _OF_CLIENT
        else:
            way = _NEWEST if state is None else _OF_STATE
        return connection.execute(way.format(narrow).encode(), asked, binary=True).fetchall()

    def overdue(self, limit: int, connection: Connection) -> Overdue:
        """See `Ledger.overdue`. What cannot be read hides nothing behind it."""
        now, damage = self.now(connection), Damage(self._damage)

        def first(where: str, column: str, value: float) -> tuple[Row, ...]:
            statement = (
                f"SELECT key, row FROM letter WHERE {where} AND {column} <= %s ORDER BY {column} LIMIT %s OFFSET %s"  # noqa: S608  # our own text
            )
            found: list[Row] = []
            for offset in count(step=limit):
                page = connection.execute(statement.encode(), [value, limit, offset], binary=True).fetchall()
                found += filter(None, (damage.decoded(id_of(key), encoded) for key, encoded in page))
                if len(page) < limit or len(found) >= limit:
                    break
            return tuple(found[:limit])

        overdue = Overdue(
            lapsed=first("state = 1", "wake", now.steady),
            doubtful=first("state = 2", "wake", now.wall),
            aged=first("state = 0", "wake", now.wall),
            unput=first("state = 0 AND NOT put", "due", now.wall + MAX_DELAY),
            waiting=first("state = 0 AND put", "due", now.wall - rows.OVERDUE),
        )
        self._damage = damage
        return overdue

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
        return LedgerStatistics(known, oldest, doubled, (*troubles(connection), *self._damage.troubles))

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
        connection.execute("DELETE FROM instance WHERE at < %s OR id = %s", [now - HEARD, instance.id])
        if not instance.left:
            said = msgspec.msgpack.encode(msgspec.structs.replace(instance, at=now))
            connection.execute("INSERT INTO instance (id, at, said) VALUES (%s, %s, %s)", [instance.id, now, said])
        found = connection.execute("SELECT said FROM instance ORDER BY id", binary=True)
        return tuple(there for (said,) in found if (there := _instance(said)))

    # Removals

    def letters(self, ids: Sequence[Id], connection: Connection) -> Mapping[Id, Letter]:
        """See `Movable.letters`."""
        statement = "SELECT key, letter FROM body WHERE key = ANY(%s::bigint[])"
        keys = {key_of(id): id for id in ids}
        bodies = connection.execute(statement, [list(keys)], binary=True)
        return seal.readable((keys[key], body) for key, body in bodies)

    def keys(self, cursor: str, limit: int, connection: Connection) -> tuple[Sequence[UsedKey], str]:
        """See `Movable.keys`."""
        found = connection.execute(
            "SELECT client, key, fingerprint, ids, at FROM idempotency WHERE (client, key) > (%s, %s) "
            "ORDER BY client, key LIMIT %s",
            [*rows.key_at(cursor), limit],
            binary=True,
        ).fetchall()
        return rows.page_of_keys(found, limit)


def _instance(said: bytes) -> Instance | None:
    try:
        return _instances.decode(said)
    except seal.UNREADABLE:
        return None  # of a newer Postman, or damaged


def _decoded(found: Iterable[tuple[int, bytes]]) -> tuple[Row, ...]:
    """Rows that can be read."""
    return tuple(row for key, encoded in found if (row := seal.decoded(id_of(key), encoded)))
