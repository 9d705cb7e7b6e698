"""A ledger and a queue on a private PostgreSQL server, as tests open them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio
import trio.testing

from postman.backends.postgres.ledger import PostgresLedger, ledger_on
from postman.backends.postgres.queue import PostgresQueue, queue_on
from postman.backends.postgres.queue_moves import Announce
from postman.backends.postgres.server import Server, open_side, prepare
from postman.mail import Letter
from postman.row import Policy
from postman.testing.letters import a_letter
from postman.testing.postgres_server import PostgresServer
from postman.testing.tcp_proxy import TcpProxy, open_proxy

_numbers = itertools.count(1)


@asynccontextmanager
async def opened(server: Server) -> AsyncGenerator[tuple[PostgresLedger, PostgresQueue]]:
    """Both in one schema."""
    await prepare(server, durable=True)
    async with (
        open_side(server) as side,
        queue_on(server, side, 60.0) as queue,
        ledger_on(server, side, Policy(), queue=queue) as ledger,
    ):
        yield ledger, queue


@asynccontextmanager
async def proxied(server: Server, process: PostgresServer) -> AsyncGenerator[tuple[TcpProxy, PostgresLedger]]:
    """A ledger whose letters go through a proxy; its lists do not."""
    await prepare(server, durable=True)
    async with open_proxy(process.port) as proxy:
        through = replace(server, url=server.url.replace(str(process.port), str(proxy.port)))
        async with open_side(server) as side, ledger_on(through, side, Policy()) as ledger:
            yield proxy, ledger


def letter() -> Letter:
    """A letter with an id of its own."""
    return a_letter(next(_numbers))


async def settled(queue: PostgresQueue) -> None:
    """Wait until all takers have what they can have now, and what is left over is back."""
    fetching = True
    while fetching or queue._fetching:  # noqa: SLF001  # it is idle for nobody but a test
        await trio.testing.wait_all_tasks_blocked()
        fetching = queue._fetching  # noqa: SLF001  # the same
        await queue._line.run(Announce())  # noqa: SLF001  # what is asked of a line is answered in order
