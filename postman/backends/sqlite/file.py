"""A SQLite file of ours: whose it is, what is in it, and what its errors mean."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from postman.errors import ConfigError, IdTaken, StoreError, StoreFull, StoreRefused, StoreUnavailable

APPLICATION: Final = 0x504F5354
"""`application_id` of our files."""

MIGRATIONS: Final = (
    """
    CREATE TABLE letter (
        key INTEGER PRIMARY KEY, state INTEGER NOT NULL, due REAL NOT NULL, wake REAL NOT NULL, put INTEGER NOT NULL,
        client TEXT NOT NULL, labels BLOB NOT NULL, row BLOB NOT NULL
    );
    CREATE INDEX letter_state ON letter (state);
    CREATE INDEX letter_client ON letter (client, state);
    CREATE INDEX letter_due ON letter (put, due) WHERE state = 0;
    CREATE INDEX letter_wake ON letter (wake) WHERE state = 0;
    CREATE INDEX letter_ended ON letter (wake) WHERE state >= 4;
    CREATE TABLE body (key INTEGER PRIMARY KEY, letter BLOB NOT NULL);
    CREATE TABLE label (hash BLOB NOT NULL, key INTEGER NOT NULL, PRIMARY KEY (hash, key)) WITHOUT ROWID;
    CREATE TABLE idempotency (
        client TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, ids TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (client, key)
    ) WITHOUT ROWID;
    CREATE INDEX idempotency_at ON idempotency (at);
    CREATE TABLE pause (provider TEXT PRIMARY KEY, since REAL NOT NULL, who TEXT NOT NULL);
    CREATE TABLE tally (name TEXT PRIMARY KEY, number INTEGER NOT NULL);
    CREATE TABLE note (
        lane INTEGER NOT NULL, due REAL NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, size INTEGER NOT NULL,
        version INTEGER NOT NULL, PRIMARY KEY (lane, due, seq)
    ) WITHOUT ROWID;
    CREATE TABLE buried (at REAL NOT NULL, reason TEXT NOT NULL, bytes BLOB NOT NULL);
    """,
)
"""How to come from version n to n + 1. They only add, so that an older file is never rewritten or lost."""

LOG_AT_MOST: Final = 16_777_216
"""Bytes that the write-ahead log keeps when it is begun anew."""
CACHE: Final = 16_384
"""KiB of pages in memory. Labels are hashes and go all over their table, more of it than the usual 2 MiB can hold."""


def check_place(path: Path) -> None:
    """See that the file can be opened, or made; nothing is.

    Raises:
        ConfigError: it cannot, and the cure.
    """
    directory = path.absolute().parent
    if not directory.is_dir():
        raise ConfigError(f"there is no directory {directory}; make it, or name another")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = 0
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be opened: {getattr(error, 'strerror', error)}; name another file") from error
    if mode and not stat.S_ISREG(mode):
        raise ConfigError(f"{path} is not a file; name one")
    for place in (directory, path) if mode else (directory,):  # SQLite puts its log beside the file
        if not os.access(place, os.R_OK | os.W_OK, effective_ids=True):
            raise ConfigError(f"{place} may not be read and written by this user; change that, or name another file")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `PATH.lock`, with our pid in it, and the file itself: a lock can be deleted, and a file have two names.

    The kernel frees both when the process dies, however it dies.
    """
    path = path.resolve()
    with _opened(Path(f"{path}.lock")) as lock, _opened(path) as file:
        for descriptor in (lock, file):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(lock, 20).decode("ascii", "replace").strip() if descriptor == lock else ""
                raise StoreRefused(
                    f"{path} is in use by process {owner or 'unknown'}; stop it, or give this one another file"
                ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open or make a file of ours. SQLite would obey the umask; the files that it puts beside it inherit the mode.

    A database must not be closed while SQLite has it: the kernel would drop SQLite's own locks of this process.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreRefused(f"{path} cannot be opened: {error.strerror}; does the directory exist?") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def connect(path: Path, vfs: str) -> apsw.Connection:
    """Open the file, or make it, with what it must be: durable, and of the schema that this version knows."""
    _refuse_orphan(path)
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs or None)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except apsw.Error as error:
        raise translated(error, path, StoreRefused) from error
    return connection


def _refuse_orphan(path: Path) -> None:
    """An empty file beside a log is not new: its database was moved, and SQLite would throw away the log, and mails."""
    log = Path(f"{path}-wal")
    if path.stat().st_size == 0 and log.exists() and log.stat().st_size > 0:
        raise StoreRefused(
            f"{log} holds mails, but the database it belongs to is gone; put {path} back,"
            " or move the log away if it is not needed"
        )


class Identity(NamedTuple):
    """Which files bear the names of the database and of its log; a commit to others would be lost with us.

    Attributes:
        files: their numbers; of those that are there.
        size: of the database, in bytes. It never shrinks by itself.
    """

    files: tuple[int, ...]
    size: int


def identity(path: Path) -> Identity:
    """Of now."""
    found = []
    for name in (path, f"{path}-wal"):
        with suppress(OSError):
            found.append(os.stat(name))  # noqa: PTH116  # before every commit, and twice as fast
    return Identity(tuple(file.st_ino for file in found), found[0].st_size if found else 0)


def _prepare(connection: apsw.Connection, path: Path) -> None:
    connection.set_busy_timeout(1_000)
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    fresh = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    if not fresh and application != APPLICATION:
        raise StoreRefused(f"{path} is a database of another program; it was not touched. Name another file")
    if version > len(MIGRATIONS):
        raise StoreRefused(
            f"{path} was written by a newer Postman (its schema is {version}, this one knows {len(MIGRATIONS)}); "
            "it was not touched. Run the newer one"
        )
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "FULL")
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("journal_size_limit", LOG_AT_MOST)
    connection.pragma("cache_size", -CACHE)
    if (connection.pragma("journal_mode"), connection.pragma("synchronous")) != ("wal", 2):
        raise StoreRefused(
            f"{path} cannot be made durable here (no WAL with synchronous=FULL); use a local file system"
        )
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        with connection:
            connection.execute(statements)
            connection.pragma("application_id", APPLICATION)
            connection.pragma("user_version", number)


_TRANSLATION: tuple[tuple[type[Exception], type[StoreError] | None, str], ...] = (
    (apsw.ConstraintError, IdTaken, "a letter with this id exists"),
    (apsw.FullError, StoreFull, "the disk is full; nothing was changed"),
    (UnicodeDecodeError, StoreRefused, "the file is damaged and was kept as it is; restore it from a copy"),
    (apsw.CorruptError, StoreRefused, "the file is damaged and was kept as it is; restore it from a copy"),
    (apsw.NotADBError, StoreRefused, "this is no SQLite file, and was kept as it is; name another one"),
    (apsw.ReadOnlyError, StoreRefused, "the file cannot be written; mend its permissions or the file system"),
    (apsw.CantOpenError, StoreRefused, "the file cannot be opened; mend its permissions or the file system"),
    (apsw.BusyError, None, "another program writes to it, or reads it with a lock; end that program"),
    (apsw.IOError, None, "the disk fails; look into the kernel's log, and give the file a sound one"),
)


def translated(error: Exception, path: Path, otherwise: type[StoreError] = StoreUnavailable) -> StoreError:
    """The error of ours that an error of SQLite is; those not in the table (memory) are `otherwise`."""
    for theirs, ours, cure in _TRANSLATION:
        if isinstance(error, theirs):
            return (ours or otherwise)(f"{path}: {cure} ({error})")
    return otherwise(f"{path}: {error}")
