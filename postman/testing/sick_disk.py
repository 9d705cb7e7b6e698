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

Fault = Literal["full", "read-only", "sync-error", "sync-hangs", "sync-lies"]

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
    _met(database).unlink(missing_ok=True)


def was_met(database: Path) -> bool:
    """Whether anything came to harm since `break_`."""
    return _met(database).exists()


def _sign(database: Path) -> Path:
    return Path(f"{database}.fault")


def _met(database: Path) -> Path:
    return Path(f"{database}.fault.met")


class _Disk(apsw.VFS):
    def __init__(self) -> None:
        self._sound = apsw.vfs_names()[0]
        super().__init__("sick", self._sound, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: Sequence[int]) -> apsw.VFSFile:  # noqa: N802  # apsw's
        return _File(self._sound, name, list(flags))


class _File(apsw.VFSFile):
    def __init__(self, sound: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = str(name.filename() if isinstance(name, apsw.URIFilename) else name)
        self._database = Path(path.removesuffix("-wal"))
        super().__init__(sound, name, flags)

    def xWrite(self, data: Buffer, offset: int) -> None:  # noqa: N802  # apsw's
        if self._has("full"):
            raise _FULL
        if self._has("read-only"):
            raise _READ_ONLY
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802  # apsw's
        if self._has("sync-error"):
            raise _SYNC
        while self._has("sync-hangs"):
            time.sleep(_LOOK)
        if not self._has("sync-lies"):
            super().xSync(flags)

    def _has(self, fault: Fault) -> bool:
        try:
            has = _sign(self._database).read_text(encoding="ascii") == fault
        except FileNotFoundError:
            return False
        if has:
            _met(self._database).touch()
        return has
