"""How many letters are in each state: counted as they change, so that nobody counts the table.

Each process counts in rows of its own, its slot, as far as chance allows, so that none waits for another's commit; the
sum of all slots is what counts. While somebody leaves a transaction open, PostgreSQL finds a row behind all that it
ever was. So a process moves on to other rows now and then, and does not ask for the sum each time.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

from postman.backends.columns import NUMBERS
from postman.backends.postgres.connection import Connection
from postman.row import Row, State

DOUBLED: Final = -1
"""Stands among the numbers of states."""
SLOTS: Final = 2**15
STAY = 500
"""So many commits a process stays in one slot."""
FRESH: Final = 1.0
"""Seconds for which a sum is believed; and ten times as long as it took."""

SUM: Final = "SELECT name, sum(number)::bigint FROM tally GROUP BY name"


class Tally:
    """The counts as one process knows them: a sum, and what it changed itself since."""

    def __init__(self) -> None:
        self._slot = secrets.randbelow(SLOTS)
        self._stays = STAY
        self._known: Counter[int] = Counter()
        self._stale_at = 0.0
        self._changes: Counter[int] = Counter()

    def count(self, state: State) -> int:
        """How many letters are in a state. What others are adding, or added a second ago, is not in it."""
        return self._known[NUMBERS[state]] + self._changes[NUMBERS[state]]

    @property
    def is_stale(self) -> bool:
        """Whether to ask for the sum again."""
        return time.monotonic() >= self._stale_at

    def learn(self, sums: Iterable[tuple[int, int]], seconds: float) -> None:
        """The answer to `SUM`, which took so long."""
        self._known = Counter(dict(sums))
        self._stale_at = time.monotonic() + max(FRESH, 10 * seconds)

    def change(self, before: Row | None, after: Row) -> None:
        """A letter is new, or changes, in the transaction."""
        for row, number in ((before, -1), (after, 1)):
            if row is not None:
                self._changes[NUMBERS[row.state]] += number
                self._changes[DOUBLED] += number * (row.receipts > 1)

    def forget(self) -> None:
        """The transaction was not committed."""
        self._changes.clear()

    def write(self, connection: Connection) -> None:
        """Write what changed, last in the transaction."""
        self._stays -= 1
        if not self._stays:
            left, self._slot, self._stays = self._slot, secrets.randbelow(SLOTS), STAY
            connection.execute("UPDATE tally SET slot = %s WHERE slot = %s", [self._slot, left])
        add(connection, self._changes, self._slot)

    def kept(self) -> None:
        """The transaction was committed."""
        self._known.update(self._changes)
        self._changes.clear()


def add(connection: Connection, changes: Counter[int], slot: int = 0) -> None:
    """Add to the counts. Who shares the slot waits for the end of this transaction."""
    connection.write(
        "INSERT INTO tally (slot, name, number) SELECT * FROM unnest(%b::smallint[], %b::smallint[], %b::bigint[]) "
        "ON CONFLICT (slot, name) DO UPDATE SET number = tally.number + excluded.number",
        [(slot, name, number) for name, number in sorted(changes.items()) if number],
    )
