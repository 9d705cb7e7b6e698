"""One connection to PostgreSQL in a thread of its own: what waits while a transaction runs shares the next one.

A commit costs the server one flush of its log, whatever is in it. So all jobs that wait become one transaction, in two
round trips: `Work.begin` reads what they need and does them in memory, `Work.commit` writes what they changed. When a
job cannot be done, the others are done without it. No call waits without a limit: the server cuts statements that last
too long, and we cut a connection that does not answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol

import outcome
import psycopg
import trio
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from postman.errors import IdTaken, PostmanError, StoreError, StoreFull, StoreRefused, StoreUnavailable

BATCH: Final = 500
TRIES: Final = 3
PAUSES: Final = (0.1, 2.0)
"""Seconds between two attempts to connect: from, to; doubling."""


class Connection(psycopg.Connection[TupleRow]):
    """A connection that does not wait for ever; whoever waited too long must close it.

    Attributes:
        patience: seconds to wait for an answer. More than the server gives itself, so that it is asked no second time.
    """

    patience = 10.0

    def wait[T](self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """See psycopg."""
        return super().wait(gen, interval, self.patience if timeout is None else timeout)


class Job[Q]:
    """What is asked of a line, on its way there and back."""

    def __init__(self, request: Q, then: Callable[[outcome.Outcome[Any]], None], deadline: float) -> None:
        self.request = request
        self.deadline = deadline
        self._then = then
        self._outcome: outcome.Outcome[Any] | None = None

    def do(self, operation: Callable[[], Any]) -> None:
        """Run `operation` for its outcome. An error of ours stays with the job: who raises it has changed nothing."""
        try:
            self._outcome = outcome.Value(operation())
        except PostmanError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """It was not done."""
        self._outcome = outcome.Error(error)

    def settle(self) -> None:
        """Tell who asked. In the loop."""
        assert self._outcome is not None, "a line gave a job back that it had not done"  # noqa: S101  # an invariant
        self._then(self._outcome)


class Work[Q](Protocol):
    """How jobs become a transaction. Runs on the line's thread, and may be run again after a roll-back.

    Attributes:
        repeatable: what was perhaps committed may be done again.
    """

    repeatable: bool

    def begin(self, connection: Connection, jobs: Sequence[Job[Q]]) -> None:
        """Do jobs in a new transaction. Commits nothing."""

    def commit(self, connection: Connection, jobs: Sequence[Job[Q]]) -> None:
        """Write what is left to be written, and commit."""


class Statements:
    """The work of a line whose requests are functions of the connection, one after the other in one transaction."""

    repeatable = False

    def begin(self, connection: Connection, jobs: Sequence[Job[Callable[[Connection], Any]]]) -> None:
        """See `Work.begin`."""
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        for job in jobs:
            job.do(lambda request=job.request: request(connection))  # type: ignore[misc]  # mypy infers no default

    def commit(self, connection: Connection, _jobs: Sequence[Job[Callable[[Connection], Any]]]) -> None:
        """See `Work.commit`."""
        connection.execute("COMMIT")


class Line[Q]:
    """A connection, kept up for as long as it is open. Made by `open_line`.

    Args:
        connect: opens a connection, ready for use.
        work: makes transactions of jobs.
        patience: seconds that a job may wait for its turn.

    Attributes:
        commits: how many transactions were committed.
    """

    def __init__(self, connect: Callable[[], Connection], work: Work[Q], patience: float) -> None:
        self.commits = 0
        self._connect = connect
        self._work = work
        self._patience = patience
        self._connection: Connection | None = None
        self._pause = 0.0
        self._not_before = 0.0
        self._jobs: queue.SimpleQueue[Job[Q] | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()

    async def run(self, request: Q) -> Any:  # noqa: ANN401  # what the work makes of the request
        """Have `request` done; on return it is committed.

        Once begun it is not abandoned: a cancelled caller waits for its fate, and is given it.

        Raises:
            StoreUnavailable: not now; `may_have_happened` when a commit was not answered.
            StoreFull: the server's disk is full; nothing was changed.
            StoreRefused: the server must be mended first.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        self.submit(request, lambda result: trio.lowlevel.reschedule(task, result))
        return await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def submit(self, request: Q, then: Callable[[outcome.Outcome[Any]], None]) -> None:
        """As `run`, without waiting: `then` is called in the loop."""
        self._jobs.put(Job(request, then, time.monotonic() + self._patience))

    def close(self) -> None:
        """Ask the thread to end, once it did what it was asked before."""
        self._jobs.put(None)

    def serve(self) -> None:
        """The thread."""
        going = True
        while going:
            jobs, going = self._next_jobs()
            self._transact(jobs)
            with suppress(trio.RunFinishedError):  # then nobody is left to be told
                self._token.run_sync_soon(_settle, jobs)
        self._hang_up()

    def _next_jobs(self) -> tuple[list[Job[Q]], bool]:
        jobs: list[Job[Q]] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == BATCH or self._jobs.empty():
                return jobs, True
            job = self._jobs.get()  # this thread alone takes, so there is one
        return jobs, False

    def _transact(self, jobs: Sequence[Job[Q]]) -> None:
        """Do jobs in one transaction; when that cannot be, each of them in one of its own."""
        now = time.monotonic()
        for job in jobs:
            if job.deadline < now:
                job.fail(StoreUnavailable(f"PostgreSQL did not come to it within {self._patience:g} s"))
        jobs = [job for job in jobs if job.deadline >= now]
        error = self._attempt(jobs) if jobs else None
        if error is None:
            return
        if len(jobs) > 1 and not isinstance(error, StoreUnavailable):
            for job in jobs:
                self._transact([job])
            return
        for job in jobs:
            job.fail(error if isinstance(error, PostmanError) else translated(error))

    def _attempt(self, jobs: Sequence[Job[Q]]) -> Exception | None:
        """Try to do jobs; why it could not be done. `StoreUnavailable` when the server is not to blame for one job."""
        error: Exception | None = None
        for _ in range(TRIES):
            committing = False
            try:
                connection = self._connected()
                self._work.begin(connection, jobs)
                committing = True
                self._work.commit(connection, jobs)
            except StoreUnavailable as unavailable:
                return unavailable
            except Exception as caught:  # noqa: BLE001  # whatever it is, the callers must be told
                error = caught
                if self._is_lost(error):
                    self._hang_up()
                    if isinstance(error, _IMPATIENCE) or (committing and not self._work.repeatable):
                        return StoreUnavailable(_text(error), may_have_happened=committing)
                    continue
                self._roll_back()
                if len(jobs) > 1 or not isinstance(error, _CONFLICTS):
                    return error
            else:
                self.commits += 1
                return None
        return StoreUnavailable(_text(error)) if isinstance(error, psycopg.OperationalError) else error

    def _connected(self) -> Connection:
        if self._connection is None:
            if time.monotonic() < self._not_before:
                raise StoreUnavailable("PostgreSQL could not be reached a moment ago")
            try:
                self._connection = self._connect()
            except psycopg.Error as error:
                self._pause = min(PAUSES[1], max(PAUSES[0], 2 * self._pause))
                self._not_before = time.monotonic() + self._pause
                raise StoreUnavailable(f"PostgreSQL cannot be reached: {_text(error)}") from error
            self._pause = 0.0
        return self._connection

    def _is_lost(self, error: Exception) -> bool:
        return isinstance(error, _ENDS) or self._connection is None or self._connection.broken

    def _roll_back(self) -> None:
        try:
            if self._connection is not None:
                self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


type Side = Line[Callable[[Connection], Any]]
"""A line for what may take longer than a letter shall wait: each request is a function of the connection."""

_IMPATIENCE = (errors._WaitTimeout,)  # noqa: SLF001  # what our own limit raises; it has no public name
_ENDS = (
    *_IMPATIENCE,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
    errors.ReadOnlySqlTransaction,  # what was the primary is a replica now
)
_CONFLICTS = (errors.UniqueViolation, errors.SerializationFailure, errors.DeadlockDetected)
"""Another process was faster: who tries again sees what it did."""

_TRANSLATION: tuple[tuple[type[psycopg.Error], type[StoreError], str], ...] = (
    (errors.UniqueViolation, IdTaken, "a letter with this id exists"),
    (errors.DiskFull, StoreFull, "the server's disk is full; nothing was changed"),
    (errors.InsufficientPrivilege, StoreRefused, "grant our role what it needs"),
    (errors.UndefinedTable, StoreRefused, "our tables were dropped; restore them from a copy"),
    (errors.DataCorrupted, StoreRefused, "the server's files are damaged; restore them from a copy"),
    (errors.IndexCorrupted, StoreRefused, "an index is damaged; run REINDEX"),
)


def translated(error: Exception) -> Exception:
    """The error of ours that an error of PostgreSQL is; those not in the table (locks, time, memory) pass."""
    for theirs, ours, cure in _TRANSLATION:
        if isinstance(error, theirs):
            return ours(f"PostgreSQL: {cure} ({_text(error)})")
    return StoreUnavailable(f"PostgreSQL: {_text(error)}") if isinstance(error, psycopg.Error) else error


def _text(error: Exception | None) -> str:
    """What the server says, without the values of our rows."""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return said or str(error).strip().partition("\n")[0] or "no answer"


@asynccontextmanager
async def open_line[Q](
    connect: Callable[[], Connection], work: Work[Q], patience: float, name: str
) -> AsyncGenerator[Line[Q]]:
    """A line for as long as the block lasts; leaving it does what was asked for."""
    line = Line(connect, work, patience)
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def serve() -> None:
        line.serve()
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(ended.set)

    threading.Thread(target=serve, name=f"PostgreSQL: {name}", daemon=True).start()
    try:
        yield line
    finally:
        line.close()
        with trio.CancelScope(shield=True):  # what was asked for is committed; no call waits without a limit
            await ended.wait()


def _settle(jobs: Sequence[Job[Any]]) -> None:
    for job in jobs:
        job.settle()
