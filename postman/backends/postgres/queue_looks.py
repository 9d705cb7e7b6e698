"""How notes in PostgreSQL are looked for: whose turn it is, and where a look begins.

Notes that are gone stay in the server's index while anybody leaves a transaction open, and a look at all notes passes
every one of them. Once that takes long, most looks begin where the last one ended. What is put in an older place
meanwhile is found by the next look at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from postman.backends.postgres.connection import Connection
from postman.mail import Id
from postman.queue import LANE_WEIGHTS, LANES, Lease, Note

SLOW: Final = 0.02
"""Seconds; a look at all notes that lasts longer is not done each time."""
SELDOM: Final = 10
"""So many times as long as the last one lasted there is no other: they take no more than a part of the time."""
MARGIN: Final = 0.25
"""Seconds; what was put so long ago, by the server's clock, may become visible only now."""

TAKE: Final = """
WITH candidate AS MATERIALIZED (
    SELECT seq, due, lane.number AS lane,
        lane.served + row_number() OVER (PARTITION BY lane.number ORDER BY due, seq) / lane.weight AS turn
    FROM unnest(%b::smallint[], %b::float8[], %b::float8[], %b::float8[]) AS lane (number, served, weight, since)
    CROSS JOIN LATERAL (
        SELECT seq, due FROM note
        WHERE note.lane = lane.number AND due BETWEEN to_timestamp(lane.since) AND statement_timestamp()
        ORDER BY due, seq LIMIT %b FOR UPDATE SKIP LOCKED
    ) AS shown
), chosen AS MATERIALIZED (SELECT seq, due, turn FROM candidate ORDER BY turn, lane LIMIT %b)
UPDATE note SET due = statement_timestamp() + make_interval(secs => %b), lease = nextval('lease')
FROM chosen WHERE note.seq = chosen.seq
RETURNING turn, lane, note.seq, lease, extract(epoch FROM chosen.due)::float8, id, size, version
"""
"""Locks as many notes as are asked for in each lane, and leases those whose turn is first."""

NEXT_DUE: Final = """
SELECT extract(epoch FROM statement_timestamp())::float8, extract(epoch FROM min(due) - statement_timestamp())::float8
FROM unnest(%b::smallint[]) AS lane (number)
CROSS JOIN LATERAL (
    SELECT due FROM note WHERE note.lane = lane.number AND due > statement_timestamp() ORDER BY due LIMIT 1
) AS later
"""

_NUMBERS: Final = list(range(LANES))
_WEIGHTS: Final = [float(weight) for weight in LANE_WEIGHTS]


class Handle(NamedTuple):
    """A very lease: of which note, its number, and when the note was due (seconds since 1970)."""

    seq: int
    lease: int
    due: float


class Taken(NamedTuple):
    """What a look found.

    Attributes:
        leases: in the order of their turn.
        enough: as many as were asked for, so there may be more.
        next_due: seconds until one more can be taken, as far as it is known.
    """

    leases: list[Lease]
    enough: bool
    next_due: float


class Looks:
    """The looks of one process.

    Args:
        visibility_timeout: seconds that a lease lasts.
        clock: seconds, to tell how long a look lasts.
    """

    def __init__(self, visibility_timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._visibility_timeout = float(visibility_timeout)
        self._clock = clock
        self._full = True
        """This look is one at all notes."""
        self._full_at = -math.inf
        """When there is the next one."""
        self._since = [-math.inf] * LANES
        """What was due last in each lane; nothing earlier is known to be there."""
        self._served = [0.0] * LANES
        """How far each lane came: a note of it counts one part in its weight."""

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around a transaction that looks, whether it succeeds or not."""
        began = self._clock()
        self._full = began >= self._full_at
        try:
            yield
        finally:
            lasted = self._clock() - began
            if self._full and lasted > SLOW:
                self._full_at = began + (1 + SELDOM) * lasted

    def look(self, connection: Connection, wanted: int) -> Callable[[], Taken]:
        """Lease so many notes, within a pipeline; what was found can be asked for behind it."""
        since = [-math.inf if self._full else last - MARGIN for last in self._since]
        values = [_NUMBERS, self._served, _WEIGHTS, since, wanted, wanted, self._visibility_timeout]
        taken = connection.execute(TAKE, values, binary=True)
        later = connection.execute(NEXT_DUE, [_NUMBERS], binary=True) if self._full else None

        def found() -> Taken:
            leases: list[Lease] = []
            last = 0.0
            for turn, lane, seq, lease, due, id, size, version in sorted(taken):
                self._served[lane], self._since[lane] = turn, due
                leases.append(Lease(Note(Id(id), lane, size, version), Handle(seq, lease, due)))
                last = turn
            # A lane that has notes comes next after `last`; one that had none may not save up for more than one note.
            self._served = [
                max(served - last, -1 / weight) for served, weight in zip(self._served, _WEIGHTS, strict=True)
            ]
            enough = len(leases) == wanted
            if later is None:
                return Taken(leases, enough, max(0.0, self._full_at - self._clock()))
            [(now, seconds)] = later.fetchall()
            if not enough:
                self._since = [now] * LANES
            return Taken(leases, enough, math.inf if seconds is None else max(0.0, seconds))

        return found

    def came_back(self, due: float) -> None:
        """A note is in an older place again."""
        self._since = [min(since, due) for since in self._since]
