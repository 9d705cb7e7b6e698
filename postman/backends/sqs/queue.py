"""The queue in SQS, shared by all processes that name it.

A note is the body of a message, a lease is a receipt of it. SQS may show a message twice and in any order, and so may
we. Without `lanes=3` there is one queue for all notes, which come in about the order in which they were put.

What is buried goes to the queue NAME-dead, if there is one; else it is kept in the log.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import msgspec
import structlog
import trio

from postman.backends.sqs.address import SqsQueueSettings, address_of
from postman.backends.sqs.channel import Channel, attributes, find_url
from postman.backends.sqs.checks import ASKED, warnings
from postman.backends.sqs.client import Client, open_client
from postman.backends.sqs.receiver import WAIT, Held, Receiver
from postman.backends.sqs.refusal import CREDENTIALS, DENIED, MISSING, Refusal
from postman.errors import LeaseLost, StoreRefused, StoreUnavailable
from postman.hookspecs import hookimpl
from postman.kind import Kind, Surroundings
from postman.queue import COPY, LANES, Lease, Note, Queue, QueueStatistics, bounded

FRESH: Final = 5.0
"""Seconds for which statistics are not asked for again."""
PATIENCE: Final = 3.0
"""Seconds that statistics may take."""
GOODBYE: Final = 2.0
"""Seconds, when the queue is closed, for what is under way."""

_log = structlog.get_logger()


class SqsQueue:
    """See `postman.queue.Queue`. Opened by `sqs_queue`.

    Args:
        channels: one for all notes, or one for each lane.
        dead: for what is buried.
        receiver: takes from the channels.
        fresh: seconds for which statistics are kept.
    """

    durable = True
    shared = True

    def __init__(
        self, channels: Sequence[Channel], dead: Channel | None, receiver: Receiver, fresh: float = FRESH
    ) -> None:
        self._channels = channels
        self._dead = dead
        self._receiver = receiver
        self._fresh = fresh
        self._buried = 0
        self._counted: tuple[float, QueueStatistics] | None = None

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """See `Queue.put`. What cannot be put does not keep the others back."""
        bodies: dict[Channel, list[str]] = {}
        for note in notes:
            channel = self._channels[note.lane if len(self._channels) == LANES else 0]
            bodies.setdefault(channel, []).append(msgspec.json.encode(note).decode())
        sent = [channel.send(texts, bounded(delay)) for channel, texts in bodies.items()]
        for group in sent:
            await group.wait()

    async def take(self) -> Lease:
        """See `Queue.take`."""
        return await self._receiver.take()

    async def ack(self, lease: Lease) -> None:
        """See `Queue.ack`."""
        with _ending(lease) as held:
            await held.channel.delete(held.message)

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """See `Queue.release`."""
        with _ending(lease) as held:
            await held.channel.hide(held.message, bounded(delay))

    async def bury(self, lease: Lease, reason: str) -> None:
        """See `Queue.bury`. The copy has `COPY` characters, since ten go into one call; or it is a line of the log."""
        with _ending(lease) as held:
            body = held.message.body[:COPY]
            if self._dead is None:
                _log.warning("a note is buried here: there is no queue for the dead", note=body, reason=reason)
            else:
                await self._dead.send([msgspec.json.encode({"reason": reason, "note": body}).decode()]).wait()
            await held.channel.delete(held.message)
        self._buried += 1

    async def statistics(self) -> QueueStatistics:
        """See `Queue.statistics`. What SQS knew some seconds ago; in one queue all notes count as normal.

        Raises:
            StoreUnavailable: also when it takes too long: nobody's status waits for SQS.
        """
        if self._counted is None or trio.current_time() - self._counted[0] >= self._fresh:
            try:
                with trio.fail_after(PATIENCE):
                    self._counted = trio.current_time(), await self._count()
            except trio.TooSlowError:
                raise StoreUnavailable(f"SQS does not say in {PATIENCE:g} s how many notes there are") from None
        return msgspec.structs.replace(self._counted[1], troubles=self._receiver.troubles)

    async def _count(self) -> QueueStatistics:
        counts = [await channel.count() for channel in self._channels]
        high, normal, bulk = [ready for ready, _, _ in counts] if len(counts) == LANES else (0, counts[0][0], 0)
        return QueueStatistics(
            (high, normal, bulk),
            delayed=sum(delayed for _, delayed, _ in counts),
            leased=sum(hidden for _, _, hidden in counts),
            buried=self._buried if self._dead is None else (await self._dead.count())[0],
        )


@contextmanager
def _ending(lease: Lease) -> Generator[Held]:
    """End a lease once; what SQS did not do for sure may be tried again."""
    held: Held = lease.handle
    ends, held.ends = held.ends, -math.inf
    if trio.current_time() >= ends:
        raise LeaseLost("the lease of this note was over")
    try:
        yield held
    except StoreUnavailable:
        held.ends = ends
        raise


@asynccontextmanager
async def sqs_queue(
    client: Client, visibility_timeout: float, wait: int = WAIT, fresh: float = FRESH
) -> AsyncGenerator[SqsQueue]:
    """The queue that `client` asks for.

    Args:
        client: see `open_client`.
        visibility_timeout: seconds that a lease lasts.
        wait: seconds that SQS waits for a message.
        fresh: seconds for which statistics are kept.

    Raises:
        StoreRefused: a queue is missing or closed to us, and the cure.
        StoreUnavailable: SQS does not answer.
    """
    places = [(name, await _find(client, name)) for name in client.address.names]
    if len(places) < LANES:
        _log.info("the queue has one lane: a mail's priority is not looked at; see lanes=3", queue=places[0][0])
    dead_url = await _find_dead(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.credentials.keep)
        channels = [Channel(client, name, url, nursery) for name, url in places]
        dead = Channel(client, client.address.dead, dead_url, nursery) if dead_url else None
        async with trio.open_nursery() as calls:
            receiver = Receiver(channels, visibility_timeout, calls, wait)
            calls.start_soon(receiver.serve)
            yield SqsQueue(channels, dead, receiver, fresh)
            calls.cancel_scope.cancel()
        with trio.move_on_after(GOODBYE):  # what came for nobody is given back
            for channel in channels:
                await channel.wait_idle()
        nursery.cancel_scope.cancel()


async def _find(client: Client, name: str) -> str:
    try:
        url = await find_url(client, name)
        for warning in warnings(await attributes(client, name, url, ASKED)):
            _log.warning("a queue of SQS is not set as it should be", queue=name, reason=warning)
    except Refusal as error:
        if error.code in MISSING | DENIED | CREDENTIALS:
            raise StoreRefused(str(error)) from error
        raise
    return url


async def _find_dead(client: Client) -> str | None:
    try:
        return await find_url(client, client.address.dead)
    except Refusal as error:
        if error.code in MISSING | DENIED:
            return None
        raise


@asynccontextmanager
async def open_queue(settings: SqsQueueSettings, surroundings: Surroundings) -> AsyncGenerator[Queue]:
    """Open `sqs://REGION/NAME`."""
    async with (
        open_client(address_of(settings), surroundings.client, settings.timeout) as client,
        sqs_queue(client, settings.visibility_timeout) as queue,
    ):
        yield queue


@hookimpl
def postman_register() -> Kind[SqsQueueSettings, Queue]:
    """The queue `sqs`."""
    return Kind(name="sqs", settings=SqsQueueSettings, open=open_queue, check=address_of, shared=True)
