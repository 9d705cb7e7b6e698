"""The queue that forgets when the process ends."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio

from postman.backends.lanes import Entry, Lanes
from postman.hookspecs import hookimpl
from postman.kind import Kind, Surroundings
from postman.queue import Lease, Note, Queue, QueueSettings, QueueStatistics, bounded


class MemoryQueue:
    """See `postman.queue.Queue`. Opened by `memory_queue`."""

    durable = False
    shared = False

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._numbers = itertools.count(1)
        self._buried = 0

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """See `Queue.put`."""
        await trio.lowlevel.checkpoint()
        due = self._lanes.time() + bounded(delay)
        self._lanes.show([Entry(due, next(self._numbers), note) for note in notes])

    async def take(self) -> Lease:
        """See `Queue.take`."""
        return await self._lanes.take()

    async def ack(self, lease: Lease) -> None:
        """See `Queue.ack`."""
        await trio.lowlevel.checkpoint()
        self._lanes.end(lease)

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """See `Queue.release`."""
        await trio.lowlevel.checkpoint()
        entry = self._lanes.end(lease)
        if delay > 0:
            entry = Entry(self._lanes.time() + bounded(delay), next(self._numbers), entry.note)
        self._lanes.show([entry])

    async def bury(self, lease: Lease, reason: str) -> None:  # noqa: ARG002  # nobody could read it
        """See `Queue.bury`. Counted, not kept."""
        await trio.lowlevel.checkpoint()
        self._lanes.end(lease)
        self._buried += 1

    async def statistics(self) -> QueueStatistics:
        """See `Queue.statistics`."""
        await trio.lowlevel.checkpoint()
        return self._lanes.statistics(self._buried)


@asynccontextmanager
async def memory_queue(visibility_timeout: float) -> AsyncGenerator[MemoryQueue]:
    """An empty queue."""
    async with trio.open_nursery() as nursery:
        lanes = Lanes(visibility_timeout)
        nursery.start_soon(lanes.run)
        yield MemoryQueue(lanes)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_queue(settings: QueueSettings, _surroundings: Surroundings) -> AsyncGenerator[Queue]:
    """Open `memory:`."""
    async with memory_queue(settings.visibility_timeout) as queue:
        yield queue


@hookimpl
def postman_register() -> Kind[QueueSettings, Queue]:
    """The queue `memory`."""
    return Kind(name="memory", settings=QueueSettings, open=open_queue, durable=False)
