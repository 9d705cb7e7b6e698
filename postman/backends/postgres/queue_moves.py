"""What a queue in PostgreSQL asks of its table. All that waits is done in one transaction and one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, NamedTuple

from postman.backends.postgres.connection import Connection
from postman.backends.postgres.line import Job
from postman.backends.postgres.queue_looks import Handle, Looks
from postman.errors import LeaseLost
from postman.queue import Note


class Put(NamedTuple):
    """Put notes, each with its delay in seconds."""

    notes: tuple[tuple[Note, float], ...]


class Ack(NamedTuple):
    """Remove a note."""

    handle: Handle

    @property
    def row(self) -> tuple[Any, ...]:
        """For `ACK`."""
        return self.handle.seq, self.handle.lease


class Release(NamedTuple):
    """Show a note again, in its old place or after a delay."""

    handle: Handle
    delay: float

    @property
    def row(self) -> tuple[Any, ...]:
        """For `RELEASE`."""
        return *self.handle, self.delay


class Bury(NamedTuple):
    """Put a note aside."""

    handle: Handle
    reason: str
    bytes: bytes

    @property
    def row(self) -> tuple[Any, ...]:
        """For `BURY`."""
        return self.handle.seq, self.handle.lease, self.reason, self.bytes


class Take(NamedTuple):
    """Lease so many notes, if there are as many; answered with `Taken`."""

    wanted: int


class Announce(NamedTuple):
    """Wake other processes."""


type Move = Put | Ack | Release | Bury | Take | Announce

ACK: Final = """
DELETE FROM note USING unnest(%b::bigint[], %b::bigint[]) AS gone (seq, lease)
WHERE note.seq = gone.seq AND note.lease = gone.lease RETURNING note.lease
"""
RELEASE: Final = """
UPDATE note SET lease = NULL, due = CASE
    WHEN delay = 0 THEN to_timestamp(back.due) ELSE statement_timestamp() + make_interval(secs => delay)
END
FROM unnest(%b::bigint[], %b::bigint[], %b::float8[], %b::float8[]) AS back (seq, lease, due, delay)
WHERE note.seq = back.seq AND note.lease = back.lease RETURNING back.lease
"""
BURY: Final = """
WITH gone AS (
    DELETE FROM note
    USING unnest(%b::bigint[], %b::bigint[], %b::text[], %b::bytea[]) AS bad (seq, lease, reason, bytes)
    WHERE note.seq = bad.seq AND note.lease = bad.lease RETURNING bad.lease, bad.reason, bad.bytes
), grave AS (INSERT INTO buried (at, reason, bytes) SELECT now(), reason, bytes FROM gone)
SELECT lease FROM gone
"""


class Moves:
    """See `line.Work`. All of it may be done twice: a doubled note is harmless, a lost lease ends.

    Args:
        looks: of this process.
        channel: on which notes are announced.
        instance: who announces.
    """

    repeatable = True

    def __init__(self, looks: Looks, channel: str, instance: str) -> None:
        self._looks = looks
        self._channel = channel
        self._instance = instance

    def begin(self, _connection: Connection, _jobs: Sequence[Job[Move]]) -> None:
        """See `Work.begin`."""

    def commit(self, connection: Connection, jobs: Sequence[Job[Move]]) -> None:
        """See `Work.commit`."""
        looks = any(isinstance(job.request, Take) for job in jobs)
        with self._looks.measured() if looks else nullcontext(), connection.pipeline():
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            answers = [*_end_leases(connection, jobs), *self._put_and_take(connection, jobs)]
            connection.execute("COMMIT")
        for job in jobs:
            job.do(lambda: None)
        for answer in answers:
            answer()

    def _put_and_take(self, connection: Connection, jobs: Sequence[Job[Any]]) -> Iterable[Callable[[], None]]:
        puts = [job.request for job in jobs if isinstance(job.request, Put)]
        if puts:
            connection.execute("SET LOCAL synchronous_commit = local")
            insert_notes(connection, [note for put in puts for note in put.notes])
        if any(isinstance(job.request, Put | Release | Announce) for job in jobs):
            connection.execute("SELECT pg_notify(%s, %s)", [self._channel, self._instance])
        for job in jobs:
            if isinstance(job.request, Release) and job.request.delay == 0:
                self._looks.came_back(job.request.handle.due)
        for job in jobs:
            if isinstance(job.request, Take):
                yield partial(job.do, self._looks.look(connection, job.request.wanted))


def insert_notes(connection: Connection, notes: Sequence[tuple[Note, float]]) -> None:
    """Put notes, each with its delay in seconds, within a transaction."""
    connection.write(
        "INSERT INTO note (lane, due, id, size, version) "
        "SELECT lane, statement_timestamp() + make_interval(secs => delay), id, size, version FROM unnest"
        "(%b::smallint[], %b::float8[], %b::text[], %b::bigint[], %b::integer[]) WITH ORDINALITY "
        "AS new (lane, delay, id, size, version, number) ORDER BY number",
        [(note.lane, delay, note.id, note.size, note.version) for note, delay in notes],
    )


def _end_leases(connection: Connection, jobs: Sequence[Job[Any]]) -> Iterable[Callable[[], None]]:
    for kind, statement in ((Ack, ACK), (Release, RELEASE), (Bury, BURY)):
        ended = [job for job in jobs if isinstance(job.request, kind)]
        if ended:
            yield partial(_answer, ended, connection.write(statement, [job.request.row for job in ended]))


def _answer(jobs: Sequence[Job[Any]], good: Iterable[tuple[Any, ...]]) -> None:
    """Tell each job whether its lease was among those that were good."""
    leases = {lease for (lease,) in good}
    for job in jobs:
        if job.request.handle.lease not in leases:
            job.fail(LeaseLost("the lease of this note was over, and another has it"))
