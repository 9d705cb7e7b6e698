"""A vendor that misbehaves on cue: an HTTP/1.1 server on loopback that follows a script of `acts`.

    async with open_fault_server(otherwise=acts.answer(202)) as server:
        server.script(acts.answer(503), acts.reset_after_request(accept=True))
        ...
        assert [request.accepted for request in server.requests] == [False, True]

Each act plays for one request (or for one new connection, where its docstring says so); when the script is empty,
`server.otherwise` plays. An act says whether the vendor took the mail, so that a test can tell a lost answer from a
lost mail.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

_READ = 65_536
_WINDOW = 4_096  # small, so that a large body cannot be with the kernel before we read it


@dataclass
class Received:
    """A request as it came in.

    Attributes:
        method: in capitals.
        path: with its query.
        headers: names in lower case.
        body: as far as it was read.
        whole: the last byte was read.
        accepted: the vendor of this test took it.
        connection: counts connections from 0.
    """

    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    accepted: bool = False
    connection: int = -1


class Turn:
    """What an act has in hand: one connection, at the point where a request begins."""

    def __init__(self, server: FaultServer, stream: trio.abc.Stream, raw: trio.socket.SocketType, number: int) -> None:
        self.stream = stream
        self.raw = raw
        self.request = Received(connection=number)
        self._server = server
        self._buffer = b""

    async def wait_first_byte(self) -> bool:
        """Wait until a request begins; False: the client closed instead."""
        if not self._buffer:
            self._buffer = bytes(await self.stream.receive_some(_READ))
        return bool(self._buffer)

    async def read_head(self) -> None:
        """Read up to the end of the headers."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        self.request = Received(method, path, headers, connection=self.request.connection)
        self._server.requests.append(self.request)

    async def read_request(self) -> None:
        """Read a whole request."""
        await self.read_head()
        body = bytearray(self._buffer)
        length = int(self.request.headers.get("content-length", "0"))
        while len(body) < length:
            body += await self._more()
        self.request.body, self._buffer = bytes(body[:length]), bytes(body[length:])
        self.request.whole = True

    async def _more(self) -> bytes:
        if data := await self.stream.receive_some(_READ):
            return bytes(data)
        raise trio.BrokenResourceError("the client closed in the middle of a request")

    def reset(self) -> None:
        """Close with RST."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.close()


@dataclass(frozen=True)
class Act:
    """One step of a script.

    Attributes:
        play: does it; True: the connection stays open for the next request.
        on_connect: plays when a connection comes in, before TLS and before a request is awaited.
    """

    play: Callable[[Turn], Awaitable[bool]]
    on_connect: bool = False


class FaultServer:
    """See the module's docstring. Made by `open_fault_server`.

    Attributes:
        url: where it listens.
        requests: what came, in order, whole or not.
        connections: how many came in.
        otherwise: plays when the script is empty.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None, otherwise: Act) -> None:
        self.url = url
        self.requests: list[Received] = []
        self.connections = 0
        self.otherwise = otherwise
        self._tls = tls
        self._script: deque[Act] = deque()
        self._open: set[trio.SocketStream] = set()

    def script(self, *acts: Act) -> None:
        """Play these next, one for each request."""
        self._script = deque(acts)

    @property
    def accepted(self) -> list[Received]:
        """The requests whose mail was taken."""
        return [request for request in self.requests if request.accepted]

    @property
    def open_connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def hang_up(self) -> None:
        """Close every connection, as a vendor does with idle ones."""
        for stream in self._open:
            stream.socket.close()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Speak on one connection until an act ends it."""
        number = self.connections
        self.connections += 1
        self._open.add(stream)
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                await self._play(stream, number)
        finally:
            self._open.discard(stream)
            stream.socket.close()

    async def _play(self, stream: trio.SocketStream, number: int) -> None:
        if self._script and self._script[0].on_connect:
            await self._script.popleft().play(Turn(self, stream, stream.socket, number))
            return
        spoken = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True) if self._tls else stream
        turn = Turn(self, spoken, stream.socket, number)
        while await turn.wait_first_byte():
            act = self._script.popleft() if self._script else self.otherwise
            if not await act.play(turn):
                return


@asynccontextmanager
async def open_fault_server(*, otherwise: Act, tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultServer]:
    """Listen on a free port of 127.0.0.1.

    Args:
        otherwise: what plays without a script.
        tls: speak TLS with this certificate.
    """
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
        port = listener.socket.getsockname()[1]
        server = FaultServer(f"http{'s' if tls else ''}://127.0.0.1:{port}", tls, otherwise)
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
