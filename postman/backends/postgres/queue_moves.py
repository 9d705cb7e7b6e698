"""What a queue in PostgreSQL asks of its table. All that waits is done in one transaction and one round trip."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from postman.backends.postgres.connection import Connection
from postman.backends.postgres.line import Job
from postman.errors import LeaseLost
from postman.mail import Id
from postman.queue import LANE_WEIGHTS, LANES, Lease, Note


class Handle(NamedTuple):
    """A very lease: of which note, its number, and when the note was due (seconds since 1970)."""

    seq: int
    lease: int
    due: float


class Put(NamedTuple):
    """Put notes, each with its delay in seconds."""

    notes: tuple[tuple[Note, float], ...]


class Ack(NamedTuple):
    """Remove a note."""

    handle: Handle


class Release(NamedTuple):
    """Show a note again, in its old place or after a delay."""

    handle: Handle
    delay: float


class Bury(NamedTuple):
    """Put a note aside."""

    handle: Handle
    reason: str
    bytes: bytes


class Take(NamedTuple):
    """Lease so many notes, if there are as many."""

    wanted: int


class Announce(NamedTuple):
    """Wake other processes."""


type Move = Put | Ack | Release | Bury | Take | Announce


class Taken(NamedTuple):
    """The answer to a `Take`.

    Attributes:
        leases: in the order of their turn.
        enough: as many as were asked for, so there may be more.
        next_due: seconds until one more can be taken, as far as it is known.
    """

    leases: list[Lease]
    enough: bool
    next_due: float


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


class Moves:
    """See `line.Work`. All of it may be done twice: a doubled note is harmless, a lost lease ends.

    Notes that are gone stay in the server's index while anybody keeps an old transaction open, and a look at all notes
    passes every one of them. Once that takes long, most looks begin where the last one ended. What is put in an older
    place meanwhile is found by the next look at all.

    Args:
        visibility_timeout: seconds that a lease lasts.
        channel: on which notes are announced.
        instance: who announces.
        clock: seconds, to tell how long a look lasts.
    """

    repeatable = True

    def __init__(
        self, visibility_timeout: float, channel: str, instance: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._full_at = -math.inf
        """When to look at all notes again."""
        self._since = [-math.inf] * LANES
        """The time that was due last in each lane; nothing earlier is known to be there."""
        self._visibility_timeout = visibility_timeout
        self._channel = channel
        self._instance = instance
        self._served = [0.0] * LANES
        """How far each lane came: a note of it counts one part in its weight."""

    def begin(self, _connection: Connection, _jobs: Sequence[Job[Move]]) -> None:
        """See `Work.begin`."""

    def commit(self, connection: Connection, jobs: Sequence[Job[Move]]) -> None:
        """See `Work.commit`."""
        began = self._clock()
        full = began >= self._full_at and any(isinstance(job.request, Take) for job in jobs)
        try:
            self._commit(connection, jobs, full=full)
        finally:
            lasted = self._clock() - began
            if full and lasted > SLOW:
                self._full_at = began + (1 + SELDOM) * lasted

    def _commit(self, connection: Connection, jobs: Sequence[Job[Move]], *, full: bool) -> None:
        answers: list[Callable[[], None]] = []
        with connection.pipeline():
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            for kind, do in ((Ack, _ack), (Release, _release), (Bury, _bury)):
                of_kind = [job for job in jobs if isinstance(job.request, kind)]
                if of_kind:
                    answers.append(do(connection, of_kind))
            puts = [job.request for job in jobs if isinstance(job.request, Put)]
            if puts:
                connection.execute("SET LOCAL synchronous_commit = local")
                insert_notes(connection, [note for put in puts for note in put.notes])
            if any(isinstance(job.request, Put | Release | Announce) for job in jobs):
                connection.execute("SELECT pg_notify(%s, %s)", [self._channel, self._instance])
            answers += [
                self._take(connection, job, job.request, full=full) for job in jobs if isinstance(job.request, Take)
            ]
            connection.execute("COMMIT")
        for job in jobs:
            job.do(lambda: None)
            if isinstance(job.request, Release) and job.request.delay == 0:
                self._since = [min(since, job.request.handle.due) for since in self._since]
        for answer in answers:
            answer()

    def _take(self, connection: Connection, job: Job[Move], take: Take, *, full: bool) -> Callable[[], None]:
        lanes = list(range(LANES))
        weights = [float(weight) for weight in LANE_WEIGHTS]
        since = [-math.inf if full else last - MARGIN for last in self._since]
        values = [lanes, self._served, weights, since, take.wanted, take.wanted, float(self._visibility_timeout)]
        taken = connection.execute(TAKE, values, binary=True)
        later = connection.execute(NEXT_DUE, [lanes], binary=True) if full else None

        def answer() -> None:
            leases: list[Lease] = []
            last = 0.0
            for turn, lane, seq, lease, due, id, size, version in sorted(taken):
                self._served[lane], self._since[lane] = turn, due
                leases.append(Lease(Note(Id(id), lane, size, version), Handle(seq, lease, due)))
                last = turn
            # A lane that has notes comes next after `last`; one that had none may not save up for more than one note.
            self._served = [
                max(served - last, -1 / weight) for served, weight in zip(self._served, weights, strict=True)
            ]
            enough = len(leases) == take.wanted
            next_due = self._full_at - self._clock()
            if later is not None:
                [(now, seconds)] = later.fetchall()
                next_due = math.inf if seconds is None else seconds
                if not enough:
                    self._since = [now] * LANES
            job.do(lambda: Taken(leases, enough, max(0.0, next_due)))

        return answer


def insert_notes(connection: Connection, notes: Sequence[tuple[Note, float]]) -> None:
    """Put notes, each with its delay in seconds, within a transaction."""
    connection.write(
        "INSERT INTO note (lane, due, id, size, version) "
        "SELECT lane, statement_timestamp() + make_interval(secs => delay), id, size, version FROM unnest"
        "(%b::smallint[], %b::float8[], %b::text[], %b::bigint[], %b::integer[]) WITH ORDINALITY "
        "AS new (lane, delay, id, size, version, number) ORDER BY number",
        [(note.lane, delay, note.id, note.size, note.version) for note, delay in notes],
    )


def _ack(connection: Connection, jobs: Sequence[Job[Any]]) -> Callable[[], None]:
    done = connection.execute(
        "DELETE FROM note USING unnest(%b::bigint[], %b::bigint[]) AS gone (seq, lease) "
        "WHERE note.seq = gone.seq AND note.lease = gone.lease RETURNING note.lease",
        _handles(jobs),
    )
    return lambda: _answer(jobs, done.fetchall())


def _release(connection: Connection, jobs: Sequence[Job[Any]]) -> Callable[[], None]:
    done = connection.execute(
        "UPDATE note SET lease = NULL, due = CASE WHEN delay = 0 THEN to_timestamp(back.due) "
        "ELSE statement_timestamp() + make_interval(secs => delay) END "
        "FROM unnest(%b::bigint[], %b::bigint[], %b::float8[], %b::float8[]) AS back (seq, lease, due, delay) "
        "WHERE note.seq = back.seq AND note.lease = back.lease RETURNING back.lease",
        [
            *_handles(jobs),
            [job.request.handle.due for job in jobs],
            [job.request.delay for job in jobs],
        ],
    )
    return lambda: _answer(jobs, done.fetchall())


def _bury(connection: Connection, jobs: Sequence[Job[Any]]) -> Callable[[], None]:
    done = connection.execute(
        "WITH gone AS (DELETE FROM note USING "
        "unnest(%b::bigint[], %b::bigint[], %b::text[], %b::bytea[]) AS bad (seq, lease, reason, bytes) "
        "WHERE note.seq = bad.seq AND note.lease = bad.lease RETURNING bad.lease, bad.reason, bad.bytes), "
        "grave AS (INSERT INTO buried (at, reason, bytes) SELECT now(), reason, bytes FROM gone) "
        "SELECT lease FROM gone",
        [*_handles(jobs), [job.request.reason for job in jobs], [job.request.bytes for job in jobs]],
    )
    return lambda: _answer(jobs, done.fetchall())


def _handles(jobs: Sequence[Job[Any]]) -> list[list[int]]:
    return [[job.request.handle.seq for job in jobs], [job.request.handle.lease for job in jobs]]


def _answer(jobs: Sequence[Job[Any]], done: Sequence[tuple[Any, ...]]) -> None:
    """Tell each job whether its lease was among those that were good."""
    good = {lease for (lease,) in done}
    for job in jobs:
        if job.request.handle.lease not in good:
            job.fail(LeaseLost("the lease of this note was over, and another has it"))
