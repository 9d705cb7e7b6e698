"""The queue on servers that speak the protocol of SQS: the contract, and what only a server shows."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from postman.backends.sqs.address import Address
from postman.backends.sqs.queue import SqsQueue
from postman.errors import StoreError
from postman.queue import Queue, QueueStatistics
from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, QueueCheck, QueueUnderTest, notes
from postman.testing.sqs_server import SqsServer
from postman.testing.tcp_proxy import open_proxy
from postman.testing.waiting import wait_until

type Make = Callable[..., Address]
type Opens = Callable[..., AbstractAsyncContextManager[SqsQueue]]


def busy(queue: SqsQueue) -> bool:
    """Whether anything is under way but a call that waits for messages."""
    batches = [line for channel in queue._channels for line in (channel._sends, channel._deletes, channel._hides)]
    return bool(queue._receiver._calls or any(line._under_way for line in batches))


LANE_CHECKS = [
    check
    for check in QUEUE_CHECKS + DURABLE_QUEUE_CHECKS
    if any(word in check.__name__ for word in ("lanes", "statistics", "as_it_was_put", "cancelled", "reopening"))
]
REAL_TIME_CHECKS = [
    check for check in QUEUE_CHECKS if not any(word in check.__name__ for word in ("statistics", "cancelled"))
]
"""fauxqs counts as delayed what is due, until somebody receives; and nobody knows when what it says has come."""


@pytest.mark.parametrize(
    ("check", "lanes"),
    [*((check, 1) for check in QUEUE_CHECKS + DURABLE_QUEUE_CHECKS), *((check, 3) for check in LANE_CHECKS)],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_the_contract(
    check: QueueCheck, lanes: int, moto: SqsServer, make: Make, opens: Opens, mock_clock: MockClock
) -> None:
    async def wait(seconds: float, queue: SqsQueue) -> None:
        mock_clock.jump(seconds)
        moto.advance(seconds)
        await trio.testing.wait_all_tasks_blocked(0.05)
        while busy(queue):
            await trio.testing.wait_all_tasks_blocked(0.05)

    address = make(moto, lanes, dead=True)
    await check(under(partial(opens, address, 60.0), 60.0, wait, lanes=lanes == 3))


@pytest.mark.parametrize("check", REAL_TIME_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract_by_the_clock_of_the_wall(
    check: QueueCheck, fauxqs: SqsServer, make: Make, opens: Opens
) -> None:
    async def wait(seconds: float, queue: SqsQueue) -> None:
        await trio.sleep(seconds + 0.05)
        under_way = True
        while under_way:  # what the server said before it answers has come
            await trio.to_thread.run_sync(fauxqs.ask, "ListQueues")
            await trio.testing.wait_all_tasks_blocked(0.02)
            under_way = busy(queue)

    address, visibility_timeout = make(fauxqs, 3, dead=True), lease_of(check)
    await check(under(partial(opens, address, visibility_timeout), visibility_timeout, wait, lanes=True))


def lease_of(check: QueueCheck) -> float:
    """So many seconds a lease lasts: few where its end is waited for, whole ones where half of them is."""
    if "delay" in check.__name__:
        return 2.0
    return 1.0 if any(word in check.__name__ for word in ("gone", "over", "never", "left")) else 20.0


def under(
    opens: Callable[[], AbstractAsyncContextManager[SqsQueue]],
    visibility_timeout: float,
    wait: Callable[[float, SqsQueue], Awaitable[None]],
    *,
    lanes: bool,
) -> QueueUnderTest:
    queues: list[SqsQueue] = []

    @asynccontextmanager
    async def open_it() -> AsyncGenerator[Queue]:
        async with opens() as queue:
            queues.append(queue)
            yield queue

    async def wait_for_it(seconds: float) -> None:
        await wait(seconds, queues[-1])

    return QueueUnderTest(open_it, visibility_timeout, wait_for_it, ordered=False, lanes=lanes)


async def test_however_long_what_is_no_note_is_it_can_be_buried(moto: SqsServer, make: Make, opens: Opens) -> None:
    address = make(moto, dead=True)
    url = moto.ask("GetQueueUrl", QueueName=address.name)["QueueUrl"]
    for _ in range(10):
        moto.ask("SendMessage", QueueUrl=url, MessageBody='"' * 600_000)
    async with opens(address) as queue:
        leases = [await queue.take() for _ in range(10)]
        async with trio.open_nursery() as nursery:
            for lease in leases:
                nursery.start_soon(queue.bury, lease, "no note")
        assert await queue.statistics() == QueueStatistics((0, 0, 0), delayed=0, leased=0, buried=10)


async def test_notes_come_though_connections_are_cut_at_random(moto: SqsServer, make: Make, opens: Opens) -> None:
    async with open_proxy(moto.port) as proxy:
        address = make(moto, port=proxy.port)
        put, done = {note.id for note in notes(60)}, set[str]()
        async with opens(address, visibility_timeout=1.0, patience=2.0) as queue, trio.open_nursery() as nursery:

            async def cut() -> None:
                chance = random.Random(3)
                for _ in range(6):
                    await trio.sleep(chance.uniform(0.1, 0.5))
                    await proxy.cut()

            async def work() -> None:
                while done != put:
                    with suppress(StoreError):
                        lease = await queue.take()
                        assert lease.note is not None
                        await queue.ack(lease)
                        done.add(lease.note.id)

            async def clerk() -> None:
                while done != put:
                    with suppress(StoreError):
                        await queue.put([note for note in notes(60) if note.id not in done])
                    await trio.sleep(2.0)
                nursery.cancel_scope.cancel()

            with trio.fail_after(30):
                nursery.start_soon(cut)
                nursery.start_soon(clerk)
                for _ in range(8):
                    nursery.start_soon(work)
                await wait_until(lambda: done == put, within=20)
