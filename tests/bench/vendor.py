"""A vendor that answers as SendGrid does, at once and at next to no cost. A process of its own.

`GET /` tells what came: requests, distinct letters among them, and when the last one came (seconds, CLOCK_MONOTONIC).
"""

from __future__ import annotations

import asyncio
import json
import re
import time

KEY = "SG.benchmark.benchmark"

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = b'"postman_id":"'
_ACCEPTED = (
    b"HTTP/1.1 202 Accepted\r\nServer: nginx\r\nDate: Tue, 24 Nov 2026 09:00:00 GMT\r\nContent-Length: 0\r\n"
    b"Connection: keep-alive\r\nX-Message-Id: %016x\r\nStrict-Transport-Security: max-age=31536000\r\n\r\n"
)


class _Books:
    def __init__(self) -> None:
        self.requests = 0
        self.letters: set[bytes] = set()
        self.last = 0.0


class _Vendor(asyncio.Protocol):
    def __init__(self, books: _Books) -> None:
        self._books = books
        self._read = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            self._read = b""
            self._transport.write(self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        books = self._books
        if head.startswith(b"GET / "):
            told = {"requests": books.requests, "letters": len(books.letters), "last": books.last}
            document = json.dumps(told).encode()
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(document), document)
        if not head.startswith(b"POST /v3/mail/send ") or b"Bearer " + KEY.encode() not in head:
            return b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
        books.requests += 1
        books.last = time.monotonic()
        at = body.find(_ID) + len(_ID)
        books.letters.add(body[at : at + 18])
        return _ACCEPTED % books.requests


async def serve() -> None:
    """Serve on a free port of this machine until killed; print the URL."""
    books = _Books()
    server = await asyncio.get_running_loop().create_server(lambda: _Vendor(books), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(json.dumps({"url": f"http://{host}:{port}"}), flush=True)  # noqa: T201  # whoever started it reads it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
