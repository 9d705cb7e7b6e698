"""How fast notes go into SQS and out of it, beside bare calls of the same actions. A process of its own.

The server is fauxqs, an emulator on this machine. 64 tasks put ten notes a call; then 64 tasks take a note and ack it.
The bare calls are said over as many connections as our client has calls under way, unsigned, with all that can be
prepared before. Prints JSON: for each measurement its notes, seconds and CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from postman.backends.sqs.address import SqsQueueSettings
from postman.backends.sqs.batches import CALLS, FULL
from postman.backends.sqs.queue import open_queue
from postman.flake import Flake
from postman.kind import Surroundings
from postman.mail import Id
from postman.queue import Note, Queue
from postman.testing.sqs_server import REGION, SqsServer, fauxqs_server
from postman.wire import ClientFactory
from tests.bench.stores import Clock, Figures, share

_CHUNK = 1 << 16


def measure(count: int) -> Figures:
    """One round: ours, and then bare calls, each with a queue of its own."""
    flake = Flake()
    notes = [Note(Id(flake.next_id()), size=2_500) for _ in range(count)]
    batches = [notes[first : first + FULL] for first in range(0, count, FULL)]
    with tempfile.TemporaryDirectory(prefix="postman-bench-") as directory, fauxqs_server(Path(directory)) as server:
        return trio.run(ours, server, batches) + bare(server, batches)


async def ours(server: SqsServer, batches: Sequence[Sequence[Note]]) -> Figures:
    """What our client does."""
    server.make("ours")
    settings = SqsQueueSettings(url=f"sqs://{REGION}/ours", endpoint=server.endpoint)
    count = sum(map(len, batches))
    async with open_queue(settings, Surroundings("store", 0, 0.0, ClientFactory())) as queue:
        clock = Clock()
        await share(partial(_put, queue, iter(batches)))
        put = clock.stop()
        clock = Clock()
        await share(partial(_let_go, queue, iter(range(count))))
        gone = clock.stop()
        assert sum((await queue.statistics()).ready) == 0, "a note was left"
    return [("put", count, *put), ("let go", count, *gone)]


async def _put(queue: Queue, batches: Iterator[Sequence[Note]]) -> None:
    for notes in batches:
        await queue.put(notes)


async def _let_go(queue: Queue, turns: Iterator[int]) -> None:
    for _ in turns:
        await queue.ack(await queue.take())


def bare(server: SqsServer, batches: Sequence[Sequence[Note]]) -> Figures:
    """The same actions, and nothing else."""
    url, count = server.make("bare"), sum(map(len, batches))
    callers = [Caller(server.port) for _ in range(CALLS)]
    bodies = [[{"Id": str(n), "MessageBody": _text(note)} for n, note in enumerate(notes)] for notes in batches]
    puts = [request("SendMessageBatch", QueueUrl=url, Entries=entries) for entries in bodies]
    receive = request("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=FULL, WaitTimeSeconds=0)
    clock = Clock()
    for group in _by(CALLS, puts):
        _at_once(callers, group)
    put = clock.stop()
    clock = Clock()
    left = count
    while left:
        deletes = []
        for messages in filter(None, (answer.get("Messages") for answer in _at_once(callers, [receive] * CALLS))):
            handles = [{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(messages)]
            deletes.append(request("DeleteMessageBatch", QueueUrl=url, Entries=handles))
            left -= len(handles)
        _at_once(callers, deletes)
    return [("put, raw", count, *put), ("let go, raw", count, *clock.stop())]


def request(action: str, **body: Any) -> bytes:  # noqa: ANN401  # what it takes
    """A call as it goes over the wire; the server looks at no signature."""
    data = msgspec.json.encode(body)
    head = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-amz-json-1.0\r\n"
        f"X-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Caller:
    """A connection to the server."""

    def __init__(self, port: int) -> None:
        self._stream = socket.create_connection(("127.0.0.1", port))
        self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, data: bytes) -> None:
        """Say a request."""
        self._stream.sendall(data)

    def hear(self) -> dict[str, Any]:
        """Wait for its answer."""
        heard = b""
        while (end := heard.find(b"\r\n\r\n")) < 0:
            heard += self._stream.recv(_CHUNK)
        status, *lines = heard[:end].lower().split(b"\r\n")
        assert status.endswith(b" 200 ok"), heard
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        body = heard[end + 4 :]
        while len(body) < length:
            body += self._stream.recv(_CHUNK)
        told: dict[str, Any] = msgspec.json.decode(body)
        return told


def _at_once(callers: Sequence[Caller], requests: Sequence[bytes]) -> list[dict[str, Any]]:
    """Each over a connection of its own; the answers."""
    used = callers[: len(requests)]
    for caller, data in zip(used, requests, strict=True):
        caller.say(data)
    return [caller.hear() for caller in used]


def _by[T](size: int, items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _text(note: Note) -> str:
    return msgspec.json.encode(note).decode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", type=int, required=True)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    os.environ |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    try:
        figures = measure(parser.parse_args().mails)
    except FileNotFoundError as missing:
        print(missing, file=sys.stderr)  # noqa: T201  # why there is no answer
        figures = []
    print(json.dumps(figures))  # noqa: T201  # its answer
