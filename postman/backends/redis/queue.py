"""The queue in Redis or Valkey, shared by all processes that name it.

A note is an entry of the sorted set of its lane, by the time it is due; the entry begins with a serial number, so that
it is there once and in order. A lease moves it, behind the lease's own serial number, to the sorted set of leases, by
the time the lease ends. To end a lease is to take that very member away: who comes late finds nothing. Time is the
server's. One script serves all who wait in this process; a message says when there is something to look for.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import Any, Final

import msgspec
import trio

from postman.backends.redis import queue_scripts as scripts
from postman.backends.redis.address import Address, RedisSettings, address_of
from postman.backends.redis.checks import check
from postman.backends.redis.client import Client, open_client
from postman.errors import LeaseLost, StoreError
from postman.hookspecs import hookimpl
from postman.kind import Kind, Surroundings
from postman.mail import Id
from postman.queue import LANE_WEIGHTS, LANES, Lease, Note, Queue, QueueStatistics, bounded, read_note
from postman.takers import Takers

BATCH: Final = 64
"""Notes taken at once."""
BODY: Final = 65_536
"""Bytes; so long may the body of a letter be that comes along with its note."""
LOOK: Final = 1.0
"""Seconds after which an empty queue is looked at though no message came: messages may be lost."""


class RedisQueueSettings(RedisSettings, frozen=True, kw_only=True):
    """See `postman.queue.QueueSettings`."""

    visibility_timeout: float = 60.0


class RedisQueue:
    """See `postman.queue.Queue`. Opened by `redis_queue`.

    Args:
        client: connected to the server.
        visibility_timeout: seconds that a lease lasts.
        durable: see `Queue`.
        clock: seconds; None: the server's time.

    Attributes:
        keys: of all scripts of the queue.
        letters: what the key of a letter begins with, for a ledger by the same prefix; "": no letters come along.
        on_letter: told what came along with the note of a letter: its version, row and body.
    """

    shared = True

    def __init__(
        self, client: Client, visibility_timeout: float, *, durable: bool, clock: Callable[[], float] | None = None
    ) -> None:
        self.durable = durable
        self.keys = scripts.keys_of(client.prefix)
        self.letters = ""
        self.on_letter: Callable[[Id, Sequence[bytes]], None] = lambda _id, _values: None
        self._client = client
        self._visibility = _ms(visibility_timeout)
        self._clock = clock
        self._takers = Takers()
        self._credit = [0] * LANES
        self._stirred = trio.Event()
        self._look_at = -math.inf

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """See `Queue.put`. All or none."""
        arguments = [part for note in notes for part in put_arguments(note, delay)]
        if arguments:
            await self._client.commit(scripts.PUT, self.keys, self.now(), *arguments)

    async def take(self) -> Lease:
        """See `Queue.take`."""
        return await self._takers.wait(self._stirred.set)

    async def ack(self, lease: Lease) -> None:
        """See `Queue.ack`."""
        [removed] = await self._client.ask(("ZREM", self.keys[scripts.LEASED], lease.handle))
        _was_held(removed)

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """See `Queue.release`."""
        _was_held(await self._client.commit(scripts.RELEASE, self.keys, self.now(), lease.handle, _ms(bounded(delay))))

    async def bury(self, lease: Lease, reason: str) -> None:
        """See `Queue.bury`."""
        _was_held(await self._client.commit(scripts.BURY, self.keys, lease.handle, f"{time.time():.3f} {reason}"))

    async def statistics(self) -> QueueStatistics:
        """See `Queue.statistics`."""
        high, normal, bulk, delayed, leased, buried = await self._client.run(scripts.COUNT, self.keys, self.now())
        return QueueStatistics((high, normal, bulk), delayed, leased, buried)

    def look(self) -> None:
        """There may be something to take."""
        self._look_at = -math.inf
        self._stirred.set()

    async def serve(self) -> None:
        """Hand notes to takers, until cancelled."""
        while True:
            with trio.move_on_at(self._look_at if self._takers else math.inf):
                await self._stirred.wait()
            self._stirred = trio.Event()
            if self._takers and trio.current_time() >= self._look_at:
                with trio.CancelScope(shield=True):  # what is leased goes to a taker, or back
                    await self._look()

    async def _look(self) -> None:
        wanted = min(len(self._takers), BATCH)
        self._look_at = math.inf  # a message that comes meanwhile makes it earlier
        arguments = (self.now(), wanted, self._visibility, *self._credit, *LANE_WEIGHTS, self.letters, BODY)
        try:
            handles, wait, self._credit, letters = await self._client.run(scripts.TAKE, self.keys, *arguments)
        except StoreError as error:
            self._look_at = -math.inf
            self._takers.fail(error)
            return
        for handle, letter in zip_longest(handles, letters):
            note = _read(handle)
            if not self._takers.give(Lease(note, handle)):
                await self._give_back(handle)
            elif note and letter:
                self.on_letter(note.id, letter)
        pause = LOOK if wait < 0 else min(wait / 1_000, LOOK)
        later = -math.inf if len(handles) == wanted else trio.current_time() + pause
        self._look_at = min(self._look_at, later)

    async def _give_back(self, handle: bytes) -> None:
        try:
            await self.release(Lease(None, handle))
        except StoreError:
            return  # it is shown again when its lease is over

    def now(self) -> str | int:
        """The time in milliseconds as scripts are told it; nothing: the server's."""
        return "" if self._clock is None else _ms(self._clock())


def put_arguments(note: Note, delay: float) -> tuple[int, int, bytes]:
    """A note for the script that puts it."""
    return note.lane, _ms(bounded(delay)), msgspec.json.encode(note)


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1_000)  # not a moment too early: then nobody may claim yet


def _was_held(answer: Any) -> None:  # noqa: ANN401  # what the server says
    if answer == 0:
        raise LeaseLost("the lease of this note was over")


def _read(handle: bytes) -> Note | None:
    """The note of a lease: what is behind its serial number; None when it cannot be read."""
    return read_note(handle.split(b":", 3)[3][16:])


@asynccontextmanager
async def redis_queue(
    address: Address, visibility_timeout: float, clock: Callable[[], float] | None = None
) -> AsyncGenerator[RedisQueue]:
    """The queue at `address`, served."""
    async with open_client(address, scripts.keys_of(address.prefix)[scripts.CHANNEL]) as client:
        durable = await check(client, what="queue", must_keep=False)
        queue = RedisQueue(client, visibility_timeout, durable=durable, clock=clock)
        client.connection.on_message = queue.look
        await queue.statistics()  # tells what somebody else wrote to
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.serve)
            yield queue
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_queue(settings: RedisQueueSettings, _surroundings: Surroundings) -> AsyncGenerator[Queue]:
    """Open `redis://...`, `rediss://...` or `valkey://...`."""
    async with redis_queue(address_of(settings), settings.visibility_timeout) as queue:
        yield queue


@hookimpl
def postman_register() -> Kind[RedisQueueSettings, Queue]:
    """The queue `redis`, under all its names."""
    return Kind(name="redis", settings=RedisQueueSettings, open=open_queue, check=address_of, shared=True)
