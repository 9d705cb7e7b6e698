"""A service as a process of its own, to be killed, stopped and started again.

    async with open_program(directory, toml) as program:
        await program.start("W5=kill")
        ...
        assert await program.wait_ended() == -signal.SIGKILL
        await program.start()

Processes are forked from a server that has everything imported, so that a start costs a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import apsw
import msgspec
import trio

from postman import failpoint
from postman.backends.sqlite.ledger_rows import NUMBERS
from postman.cli import main
from postman.row import Row, State

PATIENCE = 30.0
"""Seconds after which a test that waits for a process has failed."""

_LOOK = 0.01
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "__main__",
        "postman.backroom",
        "postman.backends.sqlite.ledger",
        "postman.backends.sqlite.queue",
        "postman.testing.program",
        "postman.testing.sick_disk",
    ]
)
_decoder = msgspec.msgpack.Decoder(Row)


class Program:
    """See the module's docstring. Made by `open_program`.

    Attributes:
        directory: holds postman.toml, the log and the database.
        url: where it listens; of the last start that became ready.
        starts: so many processes were started.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self.starts = 0
        self._process: ForkServerProcess | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has logged, in all its lives."""
        path = self.directory / "log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    async def start(
        self, failpoints: str = "", *, ready: bool = True, before: Callable[[], object] | None = None
    ) -> None:
        """Start, and wait until it is ready, or has ended.

        Args:
            failpoints: see `postman.failpoint`.
            ready: False: wait only until signals do to it what they do to a program that was just started.
            before: called in the new process first; a function of a module that can be imported.
        """
        if self._process is not None:
            self._process.close()
        seen = len(self.log)
        self.starts += 1
        self._process = _context.Process(target=_serve, args=(self.directory, failpoints, before))
        self._process.start()
        awaited = b'"ready"' if ready else b'"begun"'
        with trio.fail_after(PATIENCE):
            while self._process.is_alive():
                for line in self.log[seen:].encode().splitlines(keepends=True):
                    if awaited in line and line.endswith(b"\n"):
                        self.url = msgspec.json.decode(line).get("url", self.url)
                        return
                await trio.sleep(_LOOK)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self._process is not None and self._process.is_alive():
            os.kill(self.pid, number)

    async def wait_ended(self, within: float = PATIENCE) -> int:
        """Wait for its end; the exit code, or minus the signal that ended it."""
        assert self._process is not None
        with trio.fail_after(within):
            while self._process.exitcode is None:
                await trio.lowlevel.wait_readable(self._process.sentinel)
        return self._process.exitcode

    async def wait_stopped(self) -> None:
        """Wait until it stands still by SIGSTOP."""
        await wait_until(self._stands_still)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        await self.wait_ended()

    async def stop(self, within: float = PATIENCE) -> int:
        """SIGTERM, and wait for its end."""
        self.signal(signal.SIGTERM)
        return await self.wait_ended(within)

    def _stands_still(self) -> bool:
        status = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        return status.rpartition(")")[2].split()[0] == "T"

    def rows(self, *states: State) -> list[Row]:
        """The ledger's rows, in all states or in these; for when no process has the file."""
        assert self._process is not None
        assert not self._process.is_alive(), "one process has the file to itself"
        wanted = [number for state, number in NUMBERS.items() if not states or state in states]
        sql = f"SELECT row FROM letter WHERE state IN ({','.join(map(str, wanted))}) ORDER BY key"  # noqa: S608  # numbers
        # Read only: what a dead process left behind is for the next one to put in order.
        connection = apsw.Connection(str(self.directory / "postman.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return [_decoder.decode(row) for (row,) in connection.execute(sql)]
        finally:
            connection.close()


@asynccontextmanager
async def open_program(directory: Path, toml: str) -> AsyncIterator[Program]:
    """A service that is not started yet; leaving the block kills it.

    Args:
        directory: of its own.
        toml: postman.toml; its ledger should be `sqlite:postman.db`.
    """
    path = directory / "postman.toml"
    path.write_text(toml, encoding="utf-8")
    path.chmod(0o600)
    program = Program(directory)
    try:
        yield program
    finally:
        program.signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            if program.starts:
                await program.wait_ended()


async def wait_until(condition: Callable[[], bool], within: float = PATIENCE) -> None:
    """Wait for what happens in other processes, which wake nobody here."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110  # see above
            await trio.sleep(_LOOK)


def _serve(directory: Path, failpoints: str, before: Callable[[], object] | None) -> None:
    """The new process."""
    log = os.open(directory / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, sys.stderr.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
    os.write(log, b'{"event": "begun"}\n')
    failpoint.arm(failpoints)
    if before is not None:
        before()
    sys.exit(main(["serve", "--config", str(directory / "postman.toml")]))
