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
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import msgspec
import trio

from postman import failpoint
from postman.cli import main
from postman.config import load
from postman.ledger import Filter
from postman.registry import set_up
from postman.row import Row, State
from postman.stores import open_ledger
from postman.testing.ports import own_address
from postman.testing.waiting import PATIENCE, wait_until
from postman.wire import ClientFactory

_LOOK = 0.01
_PAGE = 500
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "__main__",
        "postman.commands.run",
        "postman.backends.postgres.ledger",
        "postman.backends.redis.ledger",
        "postman.backends.sqlite.ledger",
        "postman.backends.sqlite.queue",
        "postman.backends.sqs.queue",
        "postman.testing.haste",
        "postman.testing.program",
        "postman.testing.sick_disk",
    ]
)


class Program:
    """See the module's docstring. Made by `open_program`.

    Attributes:
        directory: holds postman.toml, the log, and a database in a file.
        url: where it listens, at an address of its own; of the last start that became ready.
        starts: so many processes were started.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self.starts = 0
        self._address = own_address()
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
        return self._log_from(0).decode()

    def _log_from(self, start: int) -> bytes:
        path = self.directory / "log"
        if not path.exists():
            return b""
        with path.open("rb") as log:
            log.seek(start)
            return log.read()

    async def start(
        self, failpoints: str = "", *words: str, ready: bool = True, before: Callable[[], object] | None = None
    ) -> None:
        """Start, and wait until it is ready, or has ended.

        Args:
            failpoints: see `postman.failpoint`.
            words: further ones of the command line, for `postman serve`.
            ready: False: wait only until signals do to it what they do to a program that was just started.
            before: called in the new process first; a function of a module that can be imported.
        """
        if self._process is not None:
            self._process.close()
        seen = len(self._log_from(0))
        self.starts += 1
        bound = ("--bind", f"{self._address}:0", *words)
        self._process = _context.Process(target=_serve, args=(self.directory, failpoints, bound, before))
        self._process.start()
        awaited = b'"ready"' if ready else b'"begun"'
        with trio.fail_after(PATIENCE):
            while self._process.is_alive():
                for line in self._log_from(seen).splitlines(keepends=True):
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

    async def rows(self, *states: State) -> list[Row]:
        """The ledger's rows, oldest first, in all states or in these.

        A ledger that is not shared can be read when no process has it, and is opened as a start would open it: what a
        dead process was sending is in doubt from then on.
        """
        found: list[Row] = []
        setup = set_up(load(self.directory / "postman.toml"))
        async with open_ledger(setup, ClientFactory()) as ledger:
            for state in states or (None,):
                after = None
                while page := await ledger.find(Filter(state=state), after, _PAGE):
                    found += page
                    after = page[-1].id
        return sorted(found, key=lambda row: row.id)


@asynccontextmanager
async def open_program(directory: Path, toml: str) -> AsyncIterator[Program]:
    """A service that is not started yet; leaving the block kills it.

    Args:
        directory: of its own.
        toml: postman.toml.
    """
    path = directory / "postman.toml"
    path.write_text(toml, encoding="utf-8")
    program = Program(directory)
    try:
        yield program
    finally:
        program.signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            if program.starts:
                await program.wait_ended()


def _serve(directory: Path, failpoints: str, words: Sequence[str], before: Callable[[], object] | None) -> None:
    """The new process."""
    log = os.open(directory / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, sys.stderr.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
    os.write(log, b'{"event": "begun"}\n')
    failpoint.arm(failpoints)
    if before is not None:
        before()
    sys.exit(main(["serve", "--config", str(directory / "postman.toml"), *words]))
