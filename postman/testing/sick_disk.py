"""A disk that fails on demand: an SQLite VFS whose faults are named by a file beside the database.

sick_disk.install()                        # in the process, before the database is opened
sick_disk.break_(path, "full")             # from any process
sick_disk.heal(path)
"""

from __future__ import annotations

import time
from collections.abc import Buffer, Sequence
from pathlib import Path
from typing import Literal

import apsw

Fault = Literal["full", "read-only", "sync-error", "sync-hangs"]

_FULL = apsw.FullError("database or disk is full")
_READ_ONLY = apsw.ReadOnlyError("attempt to write a readonly database")
_SYNC = apsw.IOError("disk I/O error")
_LOOK = 0.02

_installed: list[apsw.VFS] = []


def install() -> None:
    """Put all databases that this process opens from now on upon such disks."""
    if not _installed:
        _installed.append(_Disk())


def break_(database: Path, fault: Fault) -> None:
    """Let the disk of `database` fail."""
    _sign(database).write_text(fault, encoding="ascii")


def heal(database: Path) -> None:
    """Let it work again."""
    _sign(database).unlink()


def _sign(database: Path) -> Path:
    return Path(f"{database}.fault")


class _Disk(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("sick", "", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: Sequence[int]) -> apsw.VFSFile:  # noqa: N802  # apsw's
        return _File(name, list(flags))


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = str(name.filename() if isinstance(name, apsw.URIFilename) else name)
        self._sign = _sign(Path(path.removesuffix("-wal")))
        super().__init__("", name, flags)

    def xWrite(self, data: Buffer, offset: int) -> None:  # noqa: N802  # apsw's
        match self._fault():
            case "full":
                raise _FULL
            case "read-only":
                raise _READ_ONLY
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802  # apsw's
        if self._fault() == "sync-error":
            raise _SYNC
        while self._fault() == "sync-hangs":
            time.sleep(_LOOK)
        super().xSync(flags)

    def _fault(self) -> str:
        try:
            return self._sign.read_text(encoding="ascii")
        except FileNotFoundError:
            return ""
