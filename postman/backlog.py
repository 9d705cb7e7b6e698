"""A backlog in a file: letters on their way from one ledger to another, with the keys and pauses that go with them.

    3f2c9a01 {"type":"backlog","removal":"9e1c...","at":"2026-11-24T10:30:00Z","version":1}
    77b01c55 {"type":"mail","row":[...],"letter":{...}}                one for each letter
    0a4cd1e2 {"type":"key","client":"shop","key":"order-4711", ...}    one for each idempotency key
    51d8e76b {"type":"written","pauses":[]}                            nothing is let go before this is on the disk
    c0ffee42 {"type":"closed","left":[]}                               the letters that could not be let go

Each line begins with the CRC-32 of all JSON so far, so damage is known by its line. A file has its name from `written`
on; until then it is beside it, as FILE.part.
"""

from __future__ import annotations

import fcntl
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from postman.errors import PostmanError
from postman.failpoint import failpoint
from postman.ledger import Pause
from postman.mail import Id
from postman.movable import Stored, UsedKey

VERSION = 1


class BacklogError(PostmanError):
    """A file cannot be written or read, is damaged, or not ready for what is asked; the text says what to do."""


class Head(msgspec.Struct, frozen=True, tag="backlog"):
    """The first line.

    Attributes:
        removal: the name of this export; no other has it.
        at: when it was begun.
    """

    removal: str
    at: datetime
    version: int = VERSION


class Written(msgspec.Struct, frozen=True, tag="written"):
    """All letters and keys are written down, and these pauses."""

    pauses: tuple[Pause, ...]


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """All letters were let go but `left`, which had been changed meanwhile."""

    left: tuple[Id, ...]


class Contents(msgspec.Struct, frozen=True):
    """What is in a file.

    Attributes:
        removal: see `Head`.
        letters: how many.
        keys: how many.
        pauses: see `Written`.
        left: see `Closed`; None: it is not closed yet.
    """

    removal: str
    letters: int
    keys: int
    pauses: tuple[Pause, ...]
    left: frozenset[Id] | None

    @property
    def moved(self) -> int:
        """Letters that are nowhere else."""
        return self.letters - len(self.left or ())


type Line = Head | Stored | UsedKey | Written | Closed

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Head | Stored | UsedKey | Written | Closed)
_SUM = 9
"""Bytes before the JSON of a line."""


class Backlog:
    """An open file. Made by `drafted` and `opened`.

    Args:
        path: for messages.
        file: open.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._crc = 0
        self._end = 0

    def write(self, line: Line) -> None:
        """Add a line."""
        encoded = _encoder.encode(line)
        self._crc = zlib.crc32(encoded, self._crc)
        self._file.write(b"%08x %s\n" % (self._crc, encoded))

    def sync(self) -> None:
        """Bring what was written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, left: tuple[Id, ...]) -> None:
        """Add the last line, behind what was read, and bring it to the disk."""
        self._file.seek(self._end)
        self._file.truncate()
        self.write(Closed(left))
        failpoint("X4")
        self.sync()

    def read(self) -> Iterator[Line]:
        """All lines. A last one that a crash cut short is passed over.

        Raises:
            BacklogError: the file is damaged, with the place, or none of ours.
        """
        self._file.seek(0)
        self._crc = self._end = 0
        written = False
        for number, raw in enumerate(self._file, 1):
            crc = zlib.crc32(raw[_SUM:-1], self._crc)
            if raw[:_SUM] != b"%08x " % crc or not raw.endswith(b"\n"):
                if written and not raw.endswith(b"\n"):
                    return
                raise self._damaged(number)
            line = self._decoded(raw[_SUM:-1])
            if isinstance(line, Head) != (number == 1):
                raise self._damaged(number)
            self._crc, self._end = crc, self._end + len(raw)
            written |= isinstance(line, Written)
            yield line
        if not written:
            raise BacklogError(f"{self._path} is cut short; take a whole copy. Nothing was changed")

    def contents(self) -> Contents:
        """Read all of it, and see that it is whole.

        Raises:
            BacklogError: see `read`.
        """
        numbers: Counter[type[Line]] = Counter()
        removal, pauses, left = "", tuple[Pause, ...](), None
        for line in self.read():
            numbers[type(line)] += 1
            match line:
                case Head():
                    removal = line.removal
                case Written():
                    pauses = line.pauses
                case Closed():
                    left = frozenset(line.left)
        return Contents(removal, numbers[Stored], numbers[UsedKey], pauses, left)

    def letters(self) -> Iterator[Stored]:
        """Those in the file."""
        return (line for line in self.read() if isinstance(line, Stored))

    def keys(self) -> Iterator[UsedKey]:
        """Those in the file."""
        return (line for line in self.read() if isinstance(line, UsedKey))

    def _decoded(self, encoded: bytes) -> Line:
        try:
            line: Line = _decoder.decode(encoded)
        except msgspec.DecodeError as error:
            raise BacklogError(f"{self._path} was written by a newer Postman; run that one ({error})") from None
        return line

    def _damaged(self, number: int) -> BacklogError:
        if number == 1:
            return BacklogError(f"{self._path} was not written by `postman export`, or is damaged at its first line")
        return BacklogError(f"{self._path} is damaged at line {number}; take a whole copy. Nothing was changed")


def is_written(path: Path) -> bool:
    """Whether a file has come to its name."""
    return path.exists()


@contextmanager
def drafted(path: Path) -> Iterator[Backlog]:
    """A new file to be written; it comes to its name, durably, when the block ends well, else it is gone.

    Raises:
        BacklogError: it cannot be written, or another export is about it.
    """
    draft = path.with_name(f"{path.name}.part")
    with _locked(draft, os.O_RDWR | os.O_CREAT) as file:
        try:
            if path.exists():
                raise BacklogError(f"{path} was written by another export just now")
            file.truncate()
            backlog = Backlog(path, file)
            yield backlog
            failpoint("X1")
            backlog.sync()
            draft.rename(path)
            _sync_directory(path.parent)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def opened(path: Path, *, to_close: bool = False) -> Iterator[Backlog]:
    """A file that is there.

    Args:
        path: of the file.
        to_close: it shall be closed; else it is read only.

    Raises:
        BacklogError: it cannot be opened, others may read it, or it is in use.
    """
    with _locked(path, os.O_RDWR if to_close else os.O_RDONLY) as file:
        yield Backlog(path, file)


@contextmanager
def _locked(path: Path, flags: int) -> Iterator[BinaryIO]:
    """Open a file for its owner alone, and for one process alone. What the system says of it is told as ours."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb") as file:
            found = os.fstat(descriptor)
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise BacklogError(
                    f"{path} may be read by others; a backlog is for its owner alone: run: chmod 600 {path}"
                )
            if not _lock(descriptor) or path.stat().st_ino != found.st_ino:  # its name may have gone meanwhile
                raise BacklogError(f"{path} is in use by another export or import")
            yield file
    except OSError as error:
        raise BacklogError(f"{path}: {error.strerror}") from error


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
