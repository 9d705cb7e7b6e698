from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Buffer, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import apsw
import pytest
import trio

from postman.backends.sqlite.database import Database, open_database
from postman.backends.sqlite.file import APPLICATION, MIGRATIONS
from postman.errors import IdTaken, StoreBroken, StoreError, StoreFull, StoreRefused, StoreUnavailable
from postman.testing.waiting import PATIENCE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "postman.db"


def bury(database: Database, reason: str = "", size: int = 10) -> None:
    """Any write."""
    database.connection.execute("INSERT INTO buried (at, reason, bytes) VALUES (0, ?, zeroblob(?))", (reason, size))


async def reasons(database: Database) -> list[str]:
    """What was written."""
    sql = "SELECT reason FROM buried ORDER BY rowid"
    return await database.run(lambda: [reason for (reason,) in database.connection.execute(sql)])


async def test_a_commit_survives_a_power_cut(path: Path) -> None:
    async with open_database(path) as database:
        pragmas = "journal_mode", "synchronous", "wal_autocheckpoint", "application_id", "user_version"
        values = await database.run(lambda: [database.connection.pragma(name) for name in pragmas])
        assert values == ["wal", 2, 0, APPLICATION, len(MIGRATIONS)]


async def test_files_are_readable_by_their_owner_alone(path: Path) -> None:
    kept = os.umask(0)
    try:
        async with open_database(path) as database:
            await database.run(partial(bury, database))
            files = list(path.parent.iterdir())
            assert {file.name for file in files} == {f"postman.db{end}" for end in ("", "-wal", "-shm", ".lock")}
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    finally:
        os.umask(kept)


async def test_what_waits_shares_one_commit(path: Path) -> None:
    async with open_database(path) as database:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(database.run, partial(bury, database, str(number)))
        assert len(await reasons(database)) == 200
        assert database.commits < 50


async def test_an_operation_that_fails_does_not_fail_its_neighbours(path: Path) -> None:
    def bad() -> None:
        bury(database, "bad")
        raise ZeroDivisionError

    def wrong() -> None:
        bury(database, "wrong")
        database.connection.execute("INSERT INTO body (key, letter) VALUES (1, x''), (1, x'')")

    errors: list[Exception] = []

    async def failing(operation: partial[None]) -> None:
        try:
            await database.run(operation)
        except (ZeroDivisionError, StoreError) as error:
            errors.append(error)

    async with open_database(path) as database:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(database.run, partial(bury, database, str(number)))
                nursery.start_soon(failing, partial(bad if number % 2 else wrong))
        assert sorted(await reasons(database), key=int) == [str(number) for number in range(20)]
    assert [sum(isinstance(error, kind) for error in errors) for kind in (ZeroDivisionError, IdTaken)] == [10, 10]


async def test_an_error_of_ours_leaves_its_neighbours_in_their_transaction(path: Path) -> None:
    def refuse() -> None:
        raise StoreFull("no")

    async def refused() -> None:
        with pytest.raises(StoreFull):
            await database.run(refuse)

    async with open_database(path) as database:
        before = database.commits
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(database.run, partial(bury, database, "in"))
                nursery.start_soon(refused)
        assert len(await reasons(database)) == 50
        assert database.commits - before < 30


async def test_a_cancelled_caller_learns_the_fate_of_what_was_begun(path: Path) -> None:
    told: list[str] = []

    async def write(reason: str) -> None:
        await database.run(partial(bury, database, reason))
        told.append(reason)

    async with open_database(path) as database:
        for number in range(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, str(number))
                if number % 5:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert await reasons(database) == told
        assert 0 < len(told) < 50


async def test_leaving_the_block_commits_what_was_asked_for(path: Path) -> None:
    async with open_database(path) as database:
        for number in range(10):
            database.submit(partial(bury, database, str(number)), lambda _: None)
    async with open_database(path) as database:
        assert len(await reasons(database)) == 10


async def test_a_second_process_is_refused_with_the_pid_of_the_first_and_kill_frees_the_file(path: Path) -> None:
    program = """
import sys, trio
from postman.backends.sqlite.database import open_database
async def main():
    async with open_database(sys.argv[1]):
        print("open", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert await trio.to_thread.run_sync(process.stdout.readline) == "open\n"
        with pytest.raises(StoreRefused, match=f"in use by process {process.pid}"):
            async with open_database(path):
                pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    async with open_database(path) as database:
        with pytest.raises(StoreRefused, match=f"in use by process {os.getpid()}"):
            async with open_database(path):
                pass
        await database.run(partial(bury, database))


async def test_a_newer_schema_is_refused(path: Path) -> None:
    async with open_database(path):
        pass
    with apsw.Connection(str(path)) as connection:
        connection.pragma("user_version", len(MIGRATIONS) + 1)
    connection.close()
    with pytest.raises(StoreRefused, match="newer Postman"):
        async with open_database(path):
            pass


async def test_a_file_of_another_program_is_refused_and_kept(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match="another program"):
        async with open_database(path):
            pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", [0, 100])
async def test_garbage_is_refused_and_kept(path: Path, where: int) -> None:
    async with open_database(path):
        pass
    content = bytearray(path.read_bytes())
    content[where : where + 4_000] = bytes(range(256)) * 16
    path.write_bytes(content)
    with pytest.raises(StoreRefused, match="kept"):
        async with open_database(path):
            pass
    assert path.read_bytes() == content


async def test_a_directory_in_its_place_or_none_around_it_is_refused(path: Path) -> None:
    path.mkdir()
    for wrong in (path, path / "no" / "postman.db"):
        with pytest.raises(StoreRefused, match=r"cannot be opened|does the directory exist"):
            async with open_database(wrong):
                pass


async def test_a_full_disk_refuses_what_does_not_fit_and_takes_again_when_there_is_room(path: Path) -> None:
    async with open_database(path) as database:
        limit = partial(database.connection.pragma, "max_page_count")
        await database.run(lambda: limit(60))
        with pytest.raises(StoreFull):
            await database.run(partial(bury, database, "large", 1_000_000))
        await database.run(partial(bury, database, "small"))
        await database.run(lambda: limit(10_000))
        await database.run(partial(bury, database, "large again", 1_000_000))
        assert await reasons(database) == ["small", "large again"]


async def test_a_lock_of_another_program_is_waited_for_once_and_not_by_each_operation(path: Path) -> None:
    async with open_database(path) as database:
        await database.run(lambda: database.connection.set_busy_timeout(200))
        with closing(apsw.Connection(str(path))) as other:
            other.execute("BEGIN IMMEDIATE")
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(refused, database)
            assert trio.current_time() - began < 2, "the first alone, and the others together"
        await database.run(partial(bury, database, "now"))


async def refused(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="another program writes to it") as raised:
        await database.run(partial(bury, database))
    assert not raised.value.may_have_happened


class FaultyFiles(apsw.VFS):
    """The file system, with a fault in its log, or no room in its file, on demand."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.full = False
        self.read_only = False
        super().__init__("faulty", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: Sequence[int]) -> apsw.VFSFile:  # noqa: N802  # apsw's
        if self.read_only and name is not None:
            raise apsw.CantOpenError("read-only")
        return FaultyFile(self, name, list(flags))


class FaultyFile(apsw.VFSFile):
    def __init__(self, files: FaultyFiles, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self.files = files
        self.is_log = str(name.filename() if isinstance(name, apsw.URIFilename) else name).endswith("-wal")
        super().__init__("", name, flags)

    def xWrite(self, data: Buffer, offset: int) -> None:  # noqa: N802  # apsw's
        if not self.is_log and self.files.full:
            raise apsw.FullError("database or disk is full")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802  # apsw's
        if self.is_log and self.files.fault is not None:
            raise self.files.fault
        super().xSync(flags)


@pytest.fixture
def files() -> Iterator[FaultyFiles]:
    files = FaultyFiles()
    yield files
    files.unregister()


async def test_after_a_failed_sync_nothing_is_accepted_any_more(path: Path, files: FaultyFiles) -> None:
    async with open_database(path, vfs="faulty") as database:
        await database.run(partial(bury, database, "before"))
        files.fault = apsw.IOError("input/output error")
        fates: list[bool] = []

        async def write() -> None:
            with pytest.raises(StoreUnavailable) as error:
                await database.run(partial(bury, database, "lost"))
            fates.append(error.value.may_have_happened)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(write)
        assert database.broken is not None
        assert "restart" in database.broken
        files.fault = None
        await write()
        assert True in fates
        assert fates[-1] is False
    async with open_database(path) as database:
        assert (await reasons(database))[0] == "before"


async def test_a_commit_of_which_python_did_not_hear_is_not_done_a_second_time(path: Path) -> None:
    def run_out(*_: object) -> int:
        raise MemoryError

    async with open_database(path) as database:
        await database.run(lambda: database.connection.set_wal_hook(run_out))  # called once a commit is in the log
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(StoreBroken) as error:
                    await database.run(partial(bury, database, "perhaps"))
                assert error.value.may_have_happened

            nursery.start_soon(write)
            nursery.start_soon(write)
    async with open_database(path) as database:
        assert len(await reasons(database)) <= 2


async def test_a_log_that_is_long_and_cannot_be_copied_into_a_full_file_does_not_end_the_writer(
    path: Path, files: FaultyFiles
) -> None:
    async with open_database(path, vfs="faulty") as database:
        files.full = True
        with trio.fail_after(PATIENCE):
            for number in range(20):
                await database.run(partial(bury, database, str(number), 1_000_000), abandonable=True)
        files.full = False
        await database.run(partial(bury, database, "there is room"))
        assert len(await reasons(database)) == 21


async def test_a_file_system_that_cannot_be_written_is_refused(path: Path, files: FaultyFiles) -> None:
    files.read_only = True
    with pytest.raises(StoreRefused, match="mend its permissions"):
        async with open_database(path, vfs="faulty"):
            pass


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (apsw.BusyError, StoreUnavailable),
        (apsw.LockedError, StoreUnavailable),
        (apsw.IOError, StoreUnavailable),
        (apsw.FullError, StoreFull),
        (apsw.CorruptError, StoreRefused),
        (apsw.NotADBError, StoreRefused),
        (apsw.ReadOnlyError, StoreRefused),
    ],
)
async def test_errors_of_sqlite_are_translated(path: Path, theirs: type[apsw.Error], ours: type[StoreError]) -> None:
    def fail() -> None:
        raise theirs("it says so")

    async with open_database(path) as database:
        with pytest.raises(StoreError, match="it says so") as error:
            await database.run(fail)
        assert type(error.value) is ours
        assert database.broken is None
        await database.run(partial(bury, database))


async def test_the_log_is_copied_into_the_file_long_before_it_is_at_its_longest(path: Path) -> None:
    async with open_database(path) as database:
        for number in range(200):
            await database.run(partial(bury, database, str(number), 200_000))
        assert path.stat().st_size > 20_000_000
        assert Path(f"{path}-wal").stat().st_size < 24_000_000
