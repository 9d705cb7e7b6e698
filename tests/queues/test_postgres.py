from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from postman.postgres_server import Server, open_side, prepare
from postman.queue import Queue
from postman.queues.postgres import PostgresQueue, queue_on
from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, QueueCheck, QueueUnderTest

VISIBILITY_TIMEOUT = 0.4


@pytest.fixture
def under(postgres: Server) -> QueueUnderTest:
    queues: list[PostgresQueue] = []

    @asynccontextmanager
    async def open_it() -> AsyncGenerator[Queue]:
        await prepare(postgres, durable=False)
        async with open_side(postgres) as side, queue_on(postgres, side, VISIBILITY_TIMEOUT) as queue:
            queues.append(queue)
            yield queue

    async def wait(seconds: float) -> None:
        await trio.sleep(seconds)
        quiet = 0
        while quiet < 4:  # then nothing is under way between a taker's two takes either
            quiet = 0 if queues[-1]._fetching else quiet + 1
            await trio.sleep(0.01)

    return QueueUnderTest(open_it, VISIBILITY_TIMEOUT, wait)


@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: QueueCheck, under: QueueUnderTest) -> None:
    await check(under)
