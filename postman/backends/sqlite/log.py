"""The write-ahead log of a SQLite file: kept short by copying it into the file, beside the writer if possible."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw

CHECKPOINT_PAGES: Final = 1_000
"""So long a write-ahead log is copied into the file, by another thread."""
CHECKPOINT_PAGES_AT_MOST: Final = 4_000
"""Under load that other thread never reaches the end of the log; from here on the writer itself makes the last step."""
TOO_LONG: Final = 67_108_864
"""So many bytes a log only has when another program reads the file and does not end."""


class Log:
    """The log of a file, and the thread that keeps it short.

    Args:
        path: of the file.
        connection: of the writer.
    """

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self._path = path
        self._writer = connection
        self._pages = 0
        self._page_size: int = connection.pragma("page_size")
        self._wanted = threading.Event()
        self._closing = False
        connection.set_wal_hook(self._grown)
        self._thread = threading.Thread(target=self._serve, name=f"checkpoints of {path.name}", daemon=True)
        self._thread.start()

    @property
    def troubles(self) -> tuple[str, ...]:
        """What somebody should see to, in sentences."""
        size = self._pages * self._page_size
        sentence = (
            f"{self._path}-wal has grown to {size // 2**20} MiB and goes on, because another program reads {self._path}"
            " in a transaction that it does not end; end that program."
        )
        return (sentence,) if size > TOO_LONG else ()

    def shorten(self) -> None:
        """Called by the writer between two transactions."""
        if self._pages >= CHECKPOINT_PAGES:
            self._wanted.set()
        if self._pages >= CHECKPOINT_PAGES_AT_MOST:
            with suppress(apsw.Error):  # the other thread is at it; or the disk is full, and whoever writes is told
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def close(self) -> None:
        """Wait for the thread's end. On the writer's thread."""
        self._closing = True
        self._wanted.set()
        self._thread.join()

    def _grown(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _serve(self) -> None:
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=self._writer.open_vfs)
        connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # before it has read, it knows no log to copy
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closing:
                connection.close()
                return
            with suppress(apsw.Error):  # the writer meets the same fault, and tells
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
