"""A real server in the test's own run, and raw clients that speak any nonsense to it."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import h11
import msgspec
import pytest
import trio
from hypercorn.typing import ASGIFramework
from quart import request

from postman.config import Http
from postman.http.exchange import Application
from postman.http.listeners import open_listeners
from postman.http.server import Server

PATIENCE = 20.0
"""Seconds after which a test has failed; nothing waits for it to pass."""


@dataclass(frozen=True)
class Answer:
    """One response of the server."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Client:
    """One raw connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._expected: list[h11.Request] = []

    async def send(self, data: bytes) -> None:
        """Write `data` as it is."""
        await self.stream.send_all(data)

    async def answer(self, method: str = "POST") -> Answer:
        """Read one final response to a request that was sent in full or in part."""
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        if self._http.our_state is h11.IDLE:
            self._http.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
            self._http.send(h11.EndOfMessage())
        response, body = None, b""
        while True:
            event = self._http.next_event()
            match event:
                case h11.NEED_DATA:
                    self._http.receive_data(await self.stream.receive_some(65_536))
                case h11.Response():
                    response = event
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    assert response is not None
                    return Answer(response.status_code, dict(response.headers), body)
                case h11.ConnectionClosed():
                    pytest.fail("closed without an answer")

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        received = b""
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in self.stream:
                received += data
        return received

    def reset(self) -> None:
        """Be gone at once: RST, not FIN."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


class House:
    """A server that runs, and what its application saw."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.ended = trio.Event()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        """A new connection."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Client(stream)

    async def ask(self, data: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> Answer:
        """One request on a connection of its own."""
        async with self.connect() as client:
            await client.send(data)
            return await client.answer()


class Desk:
    """The application of most tests: `committed` bodies, `began` and `go` for a handler that is held up."""

    def __init__(self) -> None:
        self.app = Application(__name__)
        self.committed: list[bytes] = []
        self.began = trio.Event()
        self.go = trio.Event()
        self.cancelled = trio.Event()
        self.app.add_url_rule("/", view_func=self.greet)
        self.app.add_url_rule("/mail", view_func=self.take, methods=["POST"])
        self.app.add_url_rule("/slow", view_func=self.take_slowly, methods=["POST"])
        self.app.add_url_rule("/large", view_func=self.tell_much)

    async def greet(self) -> str:
        return "hello"

    async def take(self) -> tuple[str, int]:
        self.committed.append(await request.body)
        return "taken", 202

    async def take_slowly(self) -> tuple[str, int]:
        body = await request.body
        self.began.set()
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        self.committed.append(body)
        return "taken", 202

    async def tell_much(self) -> bytes:
        return b"x" * 30_000_000


class Open(Protocol):
    """The fixture `house`."""

    def __call__(self, app: ASGIFramework, **settings: float) -> AbstractAsyncContextManager[House]: ...


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def house() -> Open:
    return _house


@asynccontextmanager
async def _house(app: ASGIFramework, **settings: float) -> AsyncIterator[House]:
    listeners = await open_listeners("127.0.0.1:0")
    server = Server(listeners, msgspec.structs.replace(Http(), **settings))
    running = House(server, listeners[0].socket.getsockname()[1])

    async def serve(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await server.serve(app, task_status=task_status)
        running.ended.set()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield running
            nursery.cancel_scope.cancel()
