from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from postman.backends.sqs.address import Address
from postman.backends.sqs.queue import SqsQueue
from postman.queue import Queue
from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, QueueCheck, QueueUnderTest
from postman.testing.sqs_server import SqsServer

type Make = Callable[..., Address]
type Opens = Callable[..., AbstractAsyncContextManager[SqsQueue]]

VISIBILITY_TIMEOUT = 60.0


def busy(queue: SqsQueue) -> bool:
    """Whether anything is under way but a call that waits for messages."""
    batches = [line for channel in queue._channels for line in (channel._sends, channel._deletes, channel._hides)]
    return bool(queue._receiver._calls or any(line._under_way for line in batches))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(
    check: QueueCheck, lanes: int, moto: SqsServer, make: Make, opens: Opens, mock_clock: MockClock
) -> None:
    address = make(moto, lanes, dead=True)
    queues: list[SqsQueue] = []

    @asynccontextmanager
    async def open_it() -> AsyncGenerator[Queue]:
        async with opens(address, VISIBILITY_TIMEOUT) as queue:
            queues.append(queue)
            yield queue

    async def wait(seconds: float) -> None:
        mock_clock.jump(seconds)
        moto.advance(seconds)
        await trio.testing.wait_all_tasks_blocked(0.05)
        while busy(queues[-1]):
            await trio.testing.wait_all_tasks_blocked(0.05)

    await check(QueueUnderTest(open_it, VISIBILITY_TIMEOUT, wait, ordered=False, lanes=lanes == 3))
