"""One SQLite file, one writer: what waits while a commit runs shares the next one.

A thread of its own holds the only connection that writes. Operations come to it as functions; all that wait become one
transaction, and one wake-up of the loop tells all their callers. The file is in WAL mode with synchronous=FULL, so what
was committed survives a power cut; WAL with NORMAL does not, nor does a rollback journal with FULL.

Every statement lets go of the interpreter's lock and must win it back from a busy loop, which costs more than the
statement. So operations change what `Participant`s keep in memory, and each batch is written by a few long statements.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import apsw
import outcome
import trio

from postman.backends.sqlite.file import Identity, connect, identity, locked, translated
from postman.backends.sqlite.log import Log
from postman.errors import PostmanError, StoreBroken, StoreRefused, StoreUnavailable

BATCH: Final = 1_000
GATHER: Final = 0.002
"""Seconds in which a busy writer lets operations gather: a commit of three takes nearly as much CPU as one of fifty."""
BUSY: Final = 4
"""It is busy when so many operations were in the last commit; so a client that is alone does not wait for others."""
ROWS_PER_STATEMENT: Final = (64, 32, 16, 8, 4, 2, 1)
"""Powers of two: few statements for any number of rows, and few texts, so that SQLite keeps them all prepared."""

_MOVED: Final = "or the -wal beside it was moved or deleted while it is in use"
_UNWRITABLE: Final = (apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError)


class Participant(Protocol):
    """Who keeps a part of the file in memory. All its methods run on the writer's thread."""

    def flush(self) -> None:
        """Write what the operations of this transaction changed; it is about to be committed, or to be queried."""

    def forget(self) -> None:
        """The transaction was rolled back: forget what its operations changed."""

    def kept(self) -> Sequence[Callable[[], None]]:
        """The transaction was committed. What is returned is called in the loop, before any caller goes on."""


class _Job:
    """An operation on its way to the writer and back."""

    def __init__(self, operation: Callable[[], Any], then: Callable[[outcome.Outcome[Any]], None]) -> None:
        self.operation = operation
        self.then = then
        self.outcome: outcome.Outcome[Any] | None = None

    def run(self) -> None:
        """Run the operation. An error of ours stays with it: whoever raises it has changed nothing."""
        try:
            self.outcome = outcome.Value(self.operation())
        except PostmanError as error:
            self.outcome = outcome.Error(error)

    def fail(self, error: Exception) -> None:
        self.outcome = outcome.Error(error)

    def settle(self) -> None:
        assert self.outcome is not None, "the writer gave a job back that it had not done"  # noqa: S101  # an invariant
        self.then(self.outcome)


class Database:
    """An open file. Made by `open_database`.

    Attributes:
        path: of the file.
        participants: who is told of flushes, commits and roll-backs; add to it before the first operation.
        commits: how many transactions were committed.
        broken: why nothing is written any more; None: all is well.
        harm: what had happened to the file when it was closed; "": nothing.
    """

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self.path = path
        self.connection = connection
        """For operations and participants only, on the writer's thread."""
        self.participants: list[Participant] = []
        self.commits = 0
        self.broken: str | None = None
        self.harm = ""
        self._unwritable = False
        self._identity = identity(path)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._log = Log(path, connection)
        self._token = trio.lowlevel.current_trio_token()
        self._told: list[Callable[[], None]] = []

    @property
    def troubles(self) -> tuple[str, ...]:
        """What somebody should see to, in sentences."""
        return self._log.troubles

    async def run[T](self, operation: Callable[[], T], *, abandonable: bool = False) -> T:
        """Run `operation` on the writer's thread; on return it is durable.

        Once begun it is not abandoned: a cancelled caller waits for its fate, and is given it. An operation may be run
        a second time, after a roll-back; one that raises an error of ours must have changed nothing.

        Args:
            operation: what to do.
            abandonable: it changes nothing, so a cancelled caller need not wait: the disk may hang.

        Raises:
            StoreUnavailable: not now; `may_have_happened` after a commit of unknown fate.
            StoreBroken: never again, see `broken`.
            StoreFull: the disk is full; nothing was changed.
            StoreRefused: the file is damaged or cannot be written.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        abandoned = False

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal abandoned
            abandoned = abandonable
            return trio.lowlevel.Abort.SUCCEEDED if abandonable else trio.lowlevel.Abort.FAILED

        def tell(result: outcome.Outcome[T]) -> None:
            if not abandoned:
                trio.lowlevel.reschedule(task, result)

        self.submit(operation, tell)
        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def submit[T](self, operation: Callable[[], T], then: Callable[[outcome.Outcome[T]], None]) -> None:
        """As `run`, without waiting: `then` is called in the loop, in the order in which operations were done."""
        self._jobs.put(_Job(operation, then))

    def nudge(self) -> None:
        """Commit what participants have to flush, though nobody waits for it."""
        self.submit(lambda: None, lambda _: None)

    def write_rows(self, head: str, row: str, tail: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement made of `head`, many times `row`, and `tail`, over `rows`."""
        start = 0
        for size in ROWS_PER_STATEMENT:
            sql = head + ",".join([row] * size) + tail
            while len(rows) - start >= size:
                self.connection.execute(sql, [value for values in rows[start : start + size] for value in values])
                start += size

    def flush(self) -> None:
        """Write what this transaction changed so far, so that a query sees it. For operations."""
        for participant in self.participants:
            participant.flush()

    def prove(self) -> None:
        """If the last write failed, write: whoever asks how we are shall learn whether that is over. For operations."""
        if self._unwritable:
            self.connection.execute("INSERT OR REPLACE INTO tally (name, number) VALUES ('proof', 1)")

    def close(self) -> None:
        """Ask the writer to end, once it did what it was asked before."""
        self._jobs.put(None)

    def serve(self) -> None:
        """The writer's thread."""
        batch: list[_Job] = []
        going = True
        while going:
            batch, going = self._next_batch(busy=len(batch) >= BUSY)
            try:
                self._transact(batch)
            except Exception as error:  # noqa: BLE001  # a bug of ours; callers that nobody answers would wait for ever
                self.broken = f"{self.path}: a bug of ours, {type(error).__name__}; restart"
                for job in batch:
                    if job.outcome is None:
                        job.fail(StoreBroken(self.broken, may_have_happened=True))
            told, self._told = self._told, []
            with suppress(trio.RunFinishedError):  # then nobody is left to be told
                self._token.run_sync_soon(_settle, told, batch)
            if self.broken is None:
                self._log.shorten()
        self.harm = _harm(self._identity, identity(self.path))
        self._log.close()
        with suppress(apsw.Error):  # a broken file cannot be closed well, and need not be
            self.connection.close()

    def _next_batch(self, *, busy: bool) -> tuple[list[_Job], bool]:
        batch: list[_Job] = []
        job = self._jobs.get()
        if busy:
            time.sleep(GATHER)
        while job is not None:
            batch.append(job)
            if len(batch) == BATCH:
                return batch, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _transact(self, batch: list[_Job]) -> None:
        """Do a batch in one transaction; when one of its jobs may be why that fails, each in one of its own."""
        began = committing = False
        before = self.connection.total_changes()
        try:
            self._check()
            self.connection.execute("BEGIN IMMEDIATE")
            began = True
            for job in batch:
                job.run()
            self.flush()
            committing = True
            self.connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # whatever it is, the callers must be told
            self._roll_back()
            self._unwritable |= isinstance(error, _UNWRITABLE)
            if committing and (doubt := _doubt(error)):
                self.broken = f"{self.path}: {doubt}"
                error = StoreBroken(self.broken, may_have_happened=True)
            if self.broken is None and began and len(batch) > 1:
                for job in batch:
                    job.outcome = None  # what it was is undone
                for job in batch:
                    self._transact([job])
                return
            for job in batch:
                job.fail(translated(error, self.path) if isinstance(error, apsw.Error | UnicodeDecodeError) else error)
        else:
            self.commits += 1
            self._unwritable &= self.connection.total_changes() == before
            for participant in self.participants:
                self._told += participant.kept()

    def _check(self) -> None:
        if self.broken is not None:
            raise StoreBroken(self.broken)
        now = identity(self.path)
        harm = _harm(self._identity, now)
        if harm == _MOVED:
            raise StoreUnavailable(
                f"{self.path} {harm}; put it back before the service ends, else what is in it is lost"
            )
        if harm:
            raise StoreRefused(f"{self.path} {harm}; end the service and restore a copy")
        self._identity = now

    def _roll_back(self) -> None:
        if not self.connection.get_autocommit():  # SQLite rolls back by itself when the disk is full
            with suppress(apsw.Error):
                self.connection.execute("ROLLBACK")
        for participant in self.participants:
            participant.forget()


@asynccontextmanager
async def open_database(path: str | Path, vfs: str = "") -> AsyncGenerator[Database]:
    """Open, or make, the file at `path`; readable by its owner alone.

    Leaving the block commits what was asked for and closes. `vfs` names another SQLite VFS (tests inject faults by it).

    Raises:
        StoreBroken: at the end, the file was moved, deleted or cut short: what was accepted is at risk.
        StoreRefused: another process has it, it is no file of ours, damaged, of a newer version, or cannot be written.
    """
    path = Path(path)
    with locked(path):
        connection = await _in_thread(lambda: connect(path, vfs))
        database = Database(path, connection)
        ended = trio.Event()
        _start(database.serve, lambda _: ended.set(), name=f"writer of {path.name}")
        try:
            yield database
        finally:
            database.close()
            with trio.CancelScope(shield=True):  # what was asked for is committed; a commit is short
                await ended.wait()
        if database.harm:
            raise StoreBroken(
                f"{path} {database.harm}: put it, or a copy of it, back before the next start, else what is in it is"
                " lost"
            )


def _harm(before: Identity, now: Identity) -> str:
    """What somebody did to the file meanwhile, as the end of a sentence; "": nothing."""
    if now.files != before.files:
        return _MOVED
    return "was cut short while it is in use" if now.size < before.size else ""


def _doubt(error: Exception) -> str:
    """Why nobody knows whether a COMMIT that ended so has happened, so that a second try could lie or do it twice."""
    if isinstance(error, apsw.IOError):  # the kernel may have marked clean what it could not sync
        return f"the disk failed while it was written ({error}); restart on a sound disk"
    if not isinstance(error, apsw.Error):
        return f"{type(error).__name__} while it was written; restart"
    return ""


def _settle(told: Sequence[Callable[[], None]], batch: Sequence[_Job]) -> None:
    for call in told:
        call()
    for job in batch:
        job.settle()


async def _in_thread[T](work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own: trio's default limiter is for others. Its end is waited for."""
    task = trio.lowlevel.current_task()
    _start(work, lambda result: trio.lowlevel.reschedule(task, result), name="opening")
    result: T = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
    return result


def _start[T](work: Callable[[], T], then: Callable[[outcome.Outcome[T]], None], name: str) -> None:
    token = trio.lowlevel.current_trio_token()

    def body() -> None:
        result = outcome.capture(work)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(then, result)

    threading.Thread(target=body, name=name, daemon=True).start()
