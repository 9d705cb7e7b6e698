from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from postman.queue import Queue
from postman.queues.redis import redis_queue
from postman.redis.address import Address
from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, QueueCheck, QueueUnderTest

VISIBILITY_TIMEOUT = 60.0


def under(address: Address, clock: MockClock) -> QueueUnderTest:
    """The queue by the clock of the loop, which also decides when a lease of the server is over."""

    @asynccontextmanager
    async def open_it() -> AsyncGenerator[Queue]:
        async with redis_queue(address, VISIBILITY_TIMEOUT, trio.current_time) as queue:
            yield queue

    async def wait(seconds: float) -> None:
        clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked(0.02)  # the server is no task

    return QueueUnderTest(open_it, VISIBILITY_TIMEOUT, wait)


@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: QueueCheck, redis: Address, mock_clock: MockClock) -> None:
    await check(under(redis, mock_clock))
