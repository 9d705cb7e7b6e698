"""A disk whose power can be cut: an ext4 file system in a file, which writes by itself as late as it can.

    with mortal_disk() as disk:
        ...                     # programs work with files in disk.path
        await disk.cut()        # they are dead, and what they had not synced is gone

Whoever has files there stands still while the file is copied, so the copy is of one moment. Needs Linux and root.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

SIZE = 512 * 1_048_576
"""Bytes; a file with holes."""

_LATE = "loop,commit=300"
_PATIENCE = 20.0
_LOOK = 0.005


class NoDisk(Exception):
    """This machine, or this user, cannot have such a disk; the text says why."""


class MortalDisk:
    """See the module's docstring. Made by `mortal_disk`.

    Attributes:
        path: where it is mounted, before a cut and after it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "disk"
        self._image = directory / "image.0"
        self._cuts = 0
        with self._image.open("wb") as image:
            image.truncate(SIZE)
        self.path.mkdir()
        _run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", str(self._image))
        self._mount()
        for place in (directory, self.path):
            place.chmod(0o711)  # a server that refuses to be root works here too

    def sync(self) -> None:
        """Make durable what is there, as if it had been there for long."""
        _run("sync", "-f", str(self.path))

    async def cut(self) -> None:
        """Cut the power. On return the disk is back, with what was synced, and who used it is dead."""
        await trio.to_thread.run_sync(self._cut, limiter=trio.CapacityLimiter(1))

    def close(self) -> None:
        """Take it away."""
        self._kill(_users(self.path))
        self._unmount()

    def _cut(self) -> None:
        users = self._stop()
        self._cuts += 1
        copy = self._image.with_name(f"image.{self._cuts}")
        _run("cp", "--sparse=always", str(self._image), str(copy))
        self._kill(users)
        self._unmount()
        self._image.unlink()
        self._image = copy
        self._mount()

    def _stop(self) -> set[int]:
        """Stop who has files here; on return no thread of theirs is in the kernel any more."""
        stopped: set[int] = set()
        while running := _users(self.path) - stopped:  # meanwhile they may have begotten others
            for pid in running:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            _wait(partial(_stand_still, running))
            stopped |= running
        return stopped

    def _kill(self, pids: set[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _wait(lambda: not _users(self.path))  # of the files, though not yet of the disk

    def _mount(self) -> None:
        _run("mount", "-o", _LATE, str(self._image), str(self.path))

    def _unmount(self) -> None:
        """The kernel needs a moment after the last user's end."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                _run("umount", str(self.path))
            except NoDisk:
                if time.monotonic() > until:
                    raise
                time.sleep(_LOOK)
            else:
                return


@contextmanager
def mortal_disk() -> Iterator[MortalDisk]:
    """A new, empty disk.

    Raises:
        NoDisk: it cannot be had here.
    """
    with tempfile.TemporaryDirectory(prefix="postman-disk-") as directory:
        disk = MortalDisk(Path(directory))
        try:
            yield disk
        finally:
            disk.close()


def _users(place: Path) -> set[int]:
    """Who has a file open there, or stands in it."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        links = [process / "cwd"]
        try:
            links += (process / "fd").iterdir()
        except OSError:
            continue  # it ended, or is a zombie
        for link in links:
            try:
                target = os.readlink(link)  # noqa: PTH115  # a Path would be made for each file of each process
            except OSError:
                continue
            if target == str(place) or target.startswith(f"{place}/"):
                found.add(int(process.name))
                break
    return found - {os.getpid()}


def _stand_still(pids: set[int]) -> bool:
    states = set[str]()
    for pid in pids:
        with suppress(OSError):  # it ended
            threads = [(path / "stat").read_text() for path in Path(f"/proc/{pid}/task").iterdir()]
            states.update(thread.rpartition(")")[2].split()[0] for thread in threads)
    return states <= {"T", "Z", "X"}


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(_LOOK)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # our own words
    except FileNotFoundError as error:
        raise NoDisk(f"there is no {command[0]}") from error
    if done.returncode:
        raise NoDisk(f"{command[0]}: {done.stderr.strip()}")
