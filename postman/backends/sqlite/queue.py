"""The queue in a SQLite file, alone or together with the ledger.

One process has the file to itself, so leases are in memory alone: taking writes nothing, and at open every note that
was in somebody's hands is visible again. An ack is a delete that joins the next commit; when the process dies before,
the note is shown again, which is harmless.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import apsw
import msgspec
import outcome
import trio

from postman.backends.lanes import WINDOW, Entry, Lanes, Place
from postman.backends.sqlite.database import Database, open_database
from postman.backends.sqlite.file import check_place, translated
from postman.errors import ConfigError, StoreError, StoreRefused
from postman.hookspecs import hookimpl
from postman.kind import Kind, Surroundings
from postman.ledger import LedgerSettings
from postman.mail import Id
from postman.queue import LANES, Lease, Note, Queue, QueueSettings, QueueStatistics, bounded

_NONSENSE = (
    "lane NOT IN (0, 1, 2) OR typeof(due) != 'real' OR due NOT BETWEEN 0 AND 1e11 OR typeof(seq) != 'integer'"
    " OR seq NOT BETWEEN 0 AND 1e17"
    " OR typeof(size) != 'integer' OR size NOT BETWEEN 0 AND 1e12 OR typeof(version) != 'integer'"
    " OR typeof(id) != 'text' OR id NOT GLOB '0x" + "[0-9a-f]" * 16 + "'"
)
_BURY_NONSENSE = f"""
    INSERT INTO buried SELECT unixepoch('subsec'), 'this is no note that can be read', CAST(id AS BLOB)
        FROM note WHERE {_NONSENSE};
    DELETE FROM note WHERE {_NONSENSE}
"""  # noqa: S608  # our own text

_NUMBERS = 1_000_000
"""Places a second: a note's number tells when it was put, by the queue's time."""

UNWRITTEN_ACKS = 1_000
"""So many acks do not wait for somebody else's commit."""


class SqliteQueue:
    """See `postman.queue.Queue`. Opened by `queue_on`.

    Attributes:
        table: the notes in the file; for operations on the writer's thread.
    """

    durable = True
    shared = False

    def __init__(self, database: Database, table: NoteTable, lanes: Lanes) -> None:
        self.table = table
        self._database = database
        self._lanes = lanes

    def entry(self, note: Note, delay: float = 0) -> Entry:
        """A note with a place in its lane, for `NoteTable.add`."""
        now = self._lanes.time()
        self.table.last_number = max(self.table.last_number + 1, math.ceil(now * _NUMBERS))
        return Entry(now + bounded(delay), self.table.last_number, note)

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """See `Queue.put`. All or none."""
        entries = [self.entry(note, delay) for note in notes]
        await self._database.run(partial(self.table.add, entries))

    async def take(self) -> Lease:
        """See `Queue.take`. Writes nothing."""
        return await self._lanes.take()

    async def ack(self, lease: Lease) -> None:
        """See `Queue.ack`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.table.gone.append(self._lanes.end(lease))
        if len(self.table.gone) >= UNWRITTEN_ACKS:
            self._database.nudge()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """See `Queue.release`. Without a delay nothing is written."""
        await trio.lowlevel.checkpoint_if_cancelled()
        old = self._lanes.end(lease)
        if delay <= 0:
            self._lanes.show([old])
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        await self._instead(old, partial(self.table.add, [self.entry(old.note, delay)]))

    async def bury(self, lease: Lease, reason: str) -> None:
        """See `Queue.bury`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        old = self._lanes.end(lease)
        await self._instead(old, partial(self.table.bury, old, reason))

    async def statistics(self) -> QueueStatistics:
        """See `Queue.statistics`. The counts are in memory; but whoever asks shall learn whether notes can be put."""
        await self._database.run(self._database.prove, abandonable=True)
        counts = self._lanes.statistics(self.table.buried)
        return msgspec.structs.replace(counts, troubles=self._database.troubles)

    async def _instead(self, old: Entry, operation: Callable[[], None]) -> None:
        """Do `operation` and delete `old` in one transaction; if that cannot be, show it again."""

        def replace() -> None:
            operation()
            self.table.remove(old)

        try:
            await self._database.run(replace)
        except BaseException:
            self._lanes.show([old])
            raise


class NoteTable:
    """The notes in the file; see `database.Participant`. For the writer's thread, but for the attributes.

    Attributes:
        gone: acked notes, to be deleted with the next commit.
        wanted: lanes of which more notes are wanted, and behind which place.
        last_number: of a note's place; they rise, with the queue's time.
        buried: how many are buried.
        lanes: who is told of what was committed.
    """

    lanes: Lanes

    def __init__(self, database: Database) -> None:
        self.gone: deque[Entry] = deque()
        self.wanted: deque[tuple[int, Place]] = deque()
        self.last_number = 0
        self.buried = 0
        self._database = database
        self._added: list[Entry] = []
        self._removed: list[Entry] = []
        self._acked: list[Entry] = []
        self._graves: list[tuple[float, str, bytes]] = []
        self._dug = 0
        self._fresh: list[Entry] = []

    def load(self) -> list[int]:
        """How many notes each lane has. What is no note is buried first."""
        self._database.connection.execute(_BURY_NONSENSE)
        stored = [0] * LANES
        counts = "SELECT lane, count(*), max(seq) FROM note GROUP BY lane"
        try:
            for lane, count, number in self._database.connection.execute(counts):
                stored[lane] = count
                self.last_number = max(self.last_number, number)
        except (TypeError, ValueError, IndexError) as error:
            raise StoreRefused(f"{self._database.path}: its notes are damaged; restore it from a copy") from error
        self.buried = self._database.connection.execute("SELECT count(*) FROM buried").get
        return stored

    def add(self, entries: Sequence[Entry]) -> None:
        """Put notes."""
        self._added += entries

    def remove(self, entry: Entry) -> None:
        """Delete a note."""
        self._removed.append(entry)

    def bury(self, entry: Entry, reason: str) -> None:
        """Keep a copy of a note, with the reason."""
        self._graves.append((time.time(), reason, msgspec.json.encode(entry.note)))

    def flush(self) -> None:
        """See `Participant.flush`."""
        while self.gone:
            self._acked.append(self.gone.popleft())
            self._removed.append(self._acked[-1])
        write = self._database.write_rows
        write(
            "INSERT INTO note (lane, due, seq, id, size, version) VALUES ",
            "(?, ?, ?, ?, ?, ?)",
            "",
            [(note.lane, due, number, note.id, note.size, note.version) for due, number, note in self._added],
        )
        write(
            "DELETE FROM note WHERE (lane, due, seq) IN (VALUES ",
            "(?, ?, ?)",
            ")",
            [(note.lane, due, number) for due, number, note in self._removed],
        )
        write("INSERT INTO buried (at, reason, bytes) VALUES ", "(?, ?, ?)", "", self._graves)
        self._dug += len(self._graves)
        self._fresh += self._added
        self._added, self._removed, self._graves = [], [], []

    def forget(self) -> None:
        """See `Participant.forget`. Acks are tried again with the next commit."""
        self.gone.extend(self._acked)
        self._added, self._removed, self._graves, self._acked, self._fresh = [], [], [], [], []
        self._dug = 0

    def kept(self) -> Sequence[Callable[[], None]]:
        """See `Participant.kept`. New notes go to the lanes before those that are read now."""
        self.buried += self._dug
        fresh, self._fresh, self._acked, self._dug = self._fresh, [], [], 0
        tell: list[Callable[[], None]] = [partial(self.lanes.show, fresh)] if fresh else []
        while self.wanted:
            lane, after = self.wanted.popleft()
            try:
                entries = self._behind(lane, after)
            except (apsw.Error, TypeError, ValueError) as error:  # the last two: a damaged note
                tell.append(partial(self.lanes.fail, lane, translated(error, self._database.path)))
            else:
                tell.append(partial(self.lanes.fill, lane, after, entries, more=len(entries) == WINDOW))
        return tell

    def _behind(self, lane: int, after: Place) -> list[Entry]:
        rows = self._database.connection.execute(
            "SELECT due, seq, id, size, version FROM note WHERE lane = ? AND (due, seq) > (?, ?) "
            "ORDER BY due, seq LIMIT ?",
            (lane, *after, WINDOW),
        )
        return [Entry(due, number, Note(Id(id), lane, size, version)) for due, number, id, size, version in rows]


@asynccontextmanager
async def queue_on(
    database: Database, visibility_timeout: float, wall: Callable[[], float] = time.time
) -> AsyncGenerator[SqliteQueue]:
    """The queue in `database`. The wall clock is read once, now."""
    table = NoteTable(database)
    database.participants.append(table)
    stored = await database.run(table.load)
    # After a wall clock that ran ahead the queue's time goes on: no note waits for longer than it was to.
    offset = max(wall(), table.last_number / _NUMBERS) - trio.current_time()

    def refill(lane: int, after: Place) -> None:
        def told(result: outcome.Outcome[None]) -> None:
            if isinstance(result, outcome.Error) and isinstance(result.error, StoreError):
                table.lanes.fail(lane, result.error)

        table.wanted.append((lane, after))
        database.submit(lambda: None, told)

    async with trio.open_nursery() as nursery:
        table.lanes = Lanes(visibility_timeout, offset=offset, refill=refill, stored=stored)
        table.lanes.prefetch()
        await database.run(lambda: None)  # behind the first refills, so that what is there can be taken now
        nursery.start_soon(table.lanes.run)
        yield SqliteQueue(database, table, table.lanes)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_queue(settings: QueueSettings, _surroundings: Surroundings) -> AsyncGenerator[Queue]:
    """Open `sqlite:PATH`; `StoreRefused` when that cannot be."""
    async with (
        open_database(path_of(settings.url)) as database,
        queue_on(database, settings.visibility_timeout) as queue,
    ):
        yield queue


def path_of(url: str) -> str:
    """The path in `sqlite:PATH?...`."""
    path = url.removeprefix("sqlite:").partition("?")[0]
    if not path or path.startswith("//"):
        raise ConfigError(
            f"{url!r} names no file; write sqlite:PATH, as in sqlite:postman.db or sqlite:/var/lib/mail.db"
        )
    return path


def check(settings: LedgerSettings | QueueSettings) -> None:
    """Raises ConfigError when the file could neither be opened nor made."""
    check_place(Path(path_of(settings.url)))


@hookimpl
def postman_register() -> Kind[QueueSettings, Queue]:
    """The queue `sqlite`."""
    return Kind(name="sqlite", settings=QueueSettings, open=open_queue, check=check)
