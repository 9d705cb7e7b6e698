"""A proxy between a client and a server, which cuts or stalls connections when a test says so."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio


class TcpProxy:
    """Carries bytes both ways. Made by `open_proxy`.

    Attributes:
        port: on 127.0.0.1.
        server: the port of 127.0.0.1 to which the next connections lead.
        swallow: an answer with these bytes in it is not given: its connection is cut instead; then it is None again.
        flows: as long as it is not set nothing is carried, and nothing is closed.
    """

    def __init__(self, server: int) -> None:
        self.port = 0
        self.server = server
        self.swallow: bytes | None = None
        self.flows = trio.Event()
        self.flows.set()
        self._pairs: set[tuple[trio.SocketStream, trio.SocketStream]] = set()

    async def cut(self) -> None:
        """End all connections."""
        for pair in list(self._pairs):
            for stream in pair:
                await trio.aclose_forcefully(stream)

    async def _carry(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        pair = client, server
        self._pairs.add(pair)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(partial(self._pump, client, server, answers=False))
            nursery.start_soon(partial(self._pump, server, client, answers=True))
        self._pairs.discard(pair)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, *, answers: bool) -> None:
        try:
            async for data in source:
                await self.flows.wait()
                if answers and self.swallow is not None and self.swallow in data:
                    self.swallow = None
                    break
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(sink)


async def carry(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    """Carry bytes both ways, until either ends; then both are closed."""
    async with one, other, trio.open_nursery() as nursery:
        nursery.start_soon(_pump, one, other)
        nursery.start_soon(_pump, other, one)


async def _pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    await trio.aclose_forcefully(sink)


@asynccontextmanager
async def open_proxy(port: int) -> AsyncGenerator[TcpProxy]:
    """A proxy before the server on `port` of 127.0.0.1."""
    proxy = TcpProxy(port)

    async def serve(client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", proxy.server)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        await proxy._carry(client, server)  # noqa: SLF001  # ours

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
        proxy.port = listeners[0].socket.getsockname()[1]
        yield proxy
        nursery.cancel_scope.cancel()
