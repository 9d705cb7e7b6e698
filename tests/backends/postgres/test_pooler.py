"""A pooler between us and the server, where the program pgbouncer is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from postman.backends.postgres.server import Server, prepare
from postman.errors import StoreRefused
from postman.testing.ports import free_port
from postman.testing.postgres_server import PostgresServer
from postman.testing.waiting import wait_for

PROGRAM = shutil.which("pgbouncer")


@asynccontextmanager
async def pooled(server: Server, port: int, mode: str, directory: Path) -> AsyncIterator[Server]:
    """The same server behind a pooler."""
    own = free_port()
    settings = {"listen_addr": "127.0.0.1", "listen_port": own, "auth_type": "any", "pool_mode": mode}
    settings |= {"unix_socket_dir": "", "ignore_startup_parameters": "extra_float_digits"}
    lines = ["[databases]", f"postgres = host=127.0.0.1 port={port} user=postgres", "[pgbouncer]"]
    (directory / "pgbouncer.ini").write_text(
        "\n".join([*lines, *(f"{name} = {word}" for name, word in settings.items())])
    )
    owner = pwd.getpwnam("nobody") if os.getuid() == 0 else None  # it refuses to run as root
    with (directory / "log").open("wb") as log, (directory / "pgbouncer.ini").open("rb") as said:
        process = subprocess.Popen(
            [PROGRAM or "", "-q", "/dev/stdin"],
            stdin=said,
            stdout=log,
            stderr=log,
            user=owner and owner.pw_uid,
        )
    try:
        await wait_for(partial(listens, own), within=10)
        yield replace(server, url=server.url.replace(str(port), str(own)))
    finally:
        process.kill()
        process.wait()


async def listens(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


@pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer here")
async def test_a_pooler_that_shares_sessions_is_refused_with_its_cure_and_one_that_keeps_them_is_not(
    postgres: Server, postgres_process: PostgresServer, tmp_path: Path
) -> None:
    async with pooled(postgres, postgres_process.port, "session", tmp_path) as kept:
        await prepare(kept, durable=True)
    async with pooled(postgres, postgres_process.port, "transaction", tmp_path) as shared:
        with pytest.raises(StoreRefused, match="pool_mode = session"):
            await prepare(shared, durable=True)
