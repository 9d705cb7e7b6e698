"""One connection to PostgreSQL in a thread of its own: what waits while a transaction runs shares the next one.

A commit costs the server one flush of its log, whatever is in it. So all jobs that wait become one transaction, in two
round trips: `Work.begin` reads what they need and does them in memory, `Work.commit` writes what they changed. When a
job cannot be done, the others are done without it. No call waits without a limit: the server cuts statements that last
too long, and we cut a connection that does not answer.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol

import outcome
import psycopg
import structlog
import trio

from postman.backends.postgres.connection import CONFLICTS, IMPATIENCE, Connection, is_over, text_of, translated
from postman.errors import PostmanError, StoreUnavailable

_log = structlog.get_logger()

BATCH: Final = 500
BATCH_SIZE: Final = 16_777_216
"""Bytes; what comes together may be larger by one request."""
TRIES: Final = 3
PAUSES: Final = (0.1, 2.0)
"""Seconds between two attempts to connect: from, to; doubling."""


class Job[Q]:
    """What is asked of a line, on its way there and back."""

    def __init__(self, request: Q, then: Callable[[outcome.Outcome[Any]], None], deadline: float, size: int) -> None:
        self.request = request
        self.deadline = deadline
        self.size = size
        self._then = then
        self._outcome: outcome.Outcome[Any] | None = None

    def do(self, operation: Callable[[], Any]) -> None:
        """Run `operation` for its outcome. An error of ours stays with the job: who raises it has changed nothing."""
        try:
            self._outcome = outcome.Value(operation())
        except PostmanError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """It was not done. Each job raises an error of its own, since raising writes into it."""
        self._outcome = outcome.Error(copy.copy(error))

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
        connection.confirm()


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
        self._lost = ""
        self._pause = 0.0
        self._not_before = 0.0
        self._jobs: queue.SimpleQueue[Job[Q] | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()

    async def run(self, request: Q, size: int = 0) -> Any:  # noqa: ANN401  # what the work makes of the request
        """Have `request` done, which carries about `size` bytes; on return it is committed.

        Once begun it is not abandoned: a cancelled caller waits for its fate, and is given it.

        Raises:
            StoreUnavailable: not now; `may_have_happened` when a commit was not answered. What became of it can be read
                at once, as long as the server can be reached.
            StoreFull: the server's disk is full; nothing was changed.
            StoreRefused: the server must be mended first.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        self.submit(request, lambda result: trio.lowlevel.reschedule(task, result), size)
        return await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def submit(self, request: Q, then: Callable[[outcome.Outcome[Any]], None], size: int = 0) -> None:
        """As `run`, without waiting: `then` is called in the loop."""
        self._jobs.put(Job(request, then, time.monotonic() + self._patience, size))

    def close(self) -> None:
        """Ask the thread to end, once it did what it was asked before."""
        self._jobs.put(None)

    def serve(self) -> None:
        """The thread."""
        going = True
        while going:
            jobs, going = self._next_jobs()
            try:
                self._transact(jobs)
            except Exception as error:  # noqa: BLE001  # whatever it is, callers that nobody answers would wait for ever
                self._lose()
                told = f"PostgreSQL: a bug of ours, {type(error).__name__}; see the log"
                _log.exception("a bug of ours; the connection is opened anew")
                for job in jobs:
                    job.fail(StoreUnavailable(told, may_have_happened=True))
            with suppress(trio.RunFinishedError):  # then nobody is left to be told
                self._token.run_sync_soon(_settle, jobs)
        self._hang_up()

    def _next_jobs(self) -> tuple[list[Job[Q]], bool]:
        jobs: list[Job[Q]] = []
        size = 0
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            size += job.size
            if len(jobs) == BATCH or size >= BATCH_SIZE or self._jobs.empty():
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
                    self._lose()
                    if committing and not self._work.repeatable:
                        with suppress(StoreUnavailable):
                            self._connected()  # so that who reads it again reads its end
                        return StoreUnavailable(text_of(error), may_have_happened=True)
                    if isinstance(error, IMPATIENCE):
                        return StoreUnavailable(text_of(error))
                    continue
                self._roll_back()
                if len(jobs) > 1 or not isinstance(error, CONFLICTS):
                    return error
            else:
                self.commits += 1
                return None
        return StoreUnavailable(text_of(error)) if isinstance(error, psycopg.OperationalError) else error

    def _connected(self) -> Connection:
        if self._connection is None:
            if time.monotonic() < self._not_before:
                raise StoreUnavailable("PostgreSQL could not be reached a moment ago")
            try:
                connection = self._connect()
                self._connection = self._alone(connection)
            except psycopg.Error as error:
                self._pause = min(PAUSES[1], max(PAUSES[0], 2 * self._pause))
                self._not_before = time.monotonic() + self._pause
                raise StoreUnavailable(f"PostgreSQL cannot be reached: {text_of(error)}") from error
            self._pause = 0.0
        return self._connection

    def _alone(self, connection: Connection) -> Connection:
        """A new connection, once the one that was lost before has surely ended; otherwise that is tried again."""
        ended = True
        try:
            if self._lost:
                ended = (False,) not in connection.execute(_END_BACKEND, [self._lost]).fetchall()
        except BaseException:
            connection.close()
            raise
        if not ended:
            connection.close()
            raise StoreUnavailable("PostgreSQL has not ended the session that was lost")
        self._lost = ""
        return connection

    def _is_lost(self, error: Exception) -> bool:
        return is_over(error) or self._connection is None or self._connection.broken

    def _roll_back(self) -> None:
        """Free what was locked. After a pipeline that failed psycopg mistakes what is prepared, so begin anew."""
        try:
            if self._connection is not None:
                self._connection.execute("ROLLBACK")
            self._hang_up()
        except psycopg.Error:
            self._lose()

    def _lose(self) -> None:
        """Close a connection whose other end may still be at work."""
        if self._connection is not None:
            self._lost = self._connection.name
        self._hang_up()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # whatever it is: this thread must live, for those who wait for it
                connection.close()


type Side = Line[Callable[[Connection], Any]]
"""A line for what may take longer than a letter shall wait: each request is a function of the connection."""

_END_BACKEND: Final = "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE application_name = %s"
"""The other end of a lost connection may be committing, or holding locks. Once it is gone, all of that has an end."""


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
