"""The load: some connections, each of which posts again as soon as it was answered. A process of its own.

Lean, so that it is never what is measured: one callback for what was read, no HTTP library. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.bench.mails import batch

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class _Customer(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], seconds: list[float]) -> None:
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._seconds = seconds
        self._read = b""
        self._posted = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._post()

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not end or (length and len(body) < int(length[1])):
            return
        self._seconds.append(time.perf_counter() - self._posted)
        if not head.startswith(b"HTTP/1.1 202 "):
            self.left.set_exception(AssertionError(self._read.decode()))
            self._transport.close()
            return
        self._read = b""
        self._post()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.left.done():
            self.left.set_exception(error or AssertionError("the connection was closed"))

    def _post(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.left.set_result(None)
            self._transport.close()
            return
        self._posted = time.perf_counter()
        self._transport.write(request)


async def post(url: str, posts: int, size: int, connections: int) -> dict[str, float]:
    """Post, and tell when it began (seconds, CLOCK_MONOTONIC), how long it took and how long each POST took."""
    place = urlsplit(url)
    head = f"POST /mail HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    start = head.encode() + b"%d\r\n\r\n" % len(batch(0, size))
    requests = (start + batch(number * size, size) for number in range(posts))
    seconds: list[float] = []
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    host, port = place.hostname or "", place.port or 80
    customers = [
        (await loop.create_connection(lambda: _Customer(requests, seconds), host, port))[1]
        for _ in range(min(connections, posts))
    ]
    await asyncio.gather(*(customer.left for customer in customers))
    took = time.monotonic() - began
    seconds.sort()
    return {
        "began": began,
        "seconds": took,
        "p50": seconds[len(seconds) // 2],
        "p99": seconds[len(seconds) * 99 // 100],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    for name in ("posts", "size", "connections"):
        parser.add_argument(f"--{name}", type=int, required=True)
    print(json.dumps(asyncio.run(post(**vars(parser.parse_args())))))  # noqa: T201  # its answer
