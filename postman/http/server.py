"""The way in by HTTP/1.1: listeners, the connections they accept, and how many.

A `Conversation` translates HTTP to ASGI, by h11 with `Framing` around it; quart-trio answers.
"""

from __future__ import annotations

import contextlib
from functools import partial
from http import HTTPStatus

import msgspec
import trio
from hypercorn.typing import ASGIFramework

from postman.config import Http
from postman.host import http_url
from postman.http.conversation import Conversation
from postman.http.framing import Framing, Load

_BUSY = Framing(0, Load(0)).refusal(HTTPStatus.SERVICE_UNAVAILABLE)


class ServerStatistics(msgspec.Struct, frozen=True):
    """Counts since start, but for the first.

    Attributes:
        connections: open now.
        served: requests given to the application.
        refused: connections closed at once because `http.max-connections` were open.
        cut: connections closed because the client was too slow, or because they hung beyond the grace at the end.
    """

    connections: int
    served: int
    refused: int
    cut: int


class Server:
    """Serves one ASGI application over HTTP/1.1.

    A handler that has its whole request runs to its end even when the client leaves. The application's lifespan is not
    run: whoever makes the application has opened what it needs.

    Args:
        listeners: from `postman.http.listeners`; `serve` closes them.
        http: the limits.

    Attributes:
        url: where the first listener is.
    """

    def __init__(self, listeners: list[trio.SocketListener], http: Http) -> None:
        host, port, *_ = listeners[0].socket.getsockname()
        self.url = http_url(host, port)
        self._listeners = listeners
        self._http = http
        self._load = Load(http.max_bodies)
        self._connections: set[Conversation] = set()
        self._closing = trio.Event()
        self._grace = 0.0
        self._served = self._refused = self._cut = 0

    async def serve(self, app: ASGIFramework, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `close`, or until cancelled, which cuts everything at once.

        No error of a client, of a connection or of the application leaves it.
        """
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                # Without a free descriptor trio logs it and waits 0.1 s before it accepts again.
                accept = partial(trio.serve_listeners, handler_nursery=connections)
                accepting.start_soon(accept, partial(self._welcome, app), self._listeners)
                task_status.started()
                await self._closing.wait()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + self._grace
            for connection in self._connections:
                connection.release()

    def close(self, grace: float) -> None:
        """Take no new connections, answer the requests in hand, close the others, and let `serve` return.

        Args:
            grace: seconds after which a connection that still has a request in hand is cut.
        """
        self._grace = grace
        self._closing.set()

    def statistics(self) -> ServerStatistics:
        """What there is and was."""
        served = self._served + sum(connection.served for connection in self._connections)
        cut = self._cut + sum(connection.cut for connection in self._connections)
        return ServerStatistics(len(self._connections), served, self._refused, cut)

    async def _welcome(self, app: ASGIFramework, stream: trio.SocketStream) -> None:
        if len(self._connections) >= self._http.max_connections:
            self._refused += 1
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(_BUSY)
            return
        connection = Conversation(stream, app, self._http, self._load, self._closing)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            self._served += connection.served
            self._cut += connection.cut
