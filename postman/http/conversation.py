"""One client's requests, one after another: read under deadlines, given to hypercorn, answered in order.

Hypercorn's own loop over a connection, `hypercorn.trio.tcp_server.TCPServer`, is not used, for four faults:

- An error in the code of one connection leaves its `serve`, and ends the process.
- Its idle timer is a task of its own, which can close a connection whose next request was just read. Here a connection
  ends by ending its read, so what was read is answered.
- At the end of an answer it waits, and quart-trio cancels that wait: idle connections stay for ever,
  `Connection: close` and HTTP/1.0 hang.
- It does not bound the time of headers, bodies and answers.

With another hypercorn than 0.18: when tests/http/server passes with its own loop, this file has done its work.
"""

from __future__ import annotations

import contextlib
import math

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import parse_socket_addr

from postman.config import Http
from postman.failpoint import failpoint
from postman.http.framing import Framing, Load

_LINGER = 2.0  # seconds a refused client has to read why, while what it still sends is thrown away
_READ = 65_536

_log = structlog.get_logger()


class Conversation:
    """One client's connection.

    A handler that has its whole request is not told when the client leaves: nothing is read until it has answered, so
    what it commits is committed whole.

    Args:
        stream: the connection; whoever made it closes it.
        app: answers the requests.
        limits: on time and size.
        load: of the bodies of all connections.
        config: hypercorn's.
        context: hypercorn's; once it is `terminated`, no further request is taken.

    Attributes:
        served: requests given to the application.
        cut: the client was too slow, or the server could not wait any longer.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        app: ASGIFramework,
        limits: Http,
        load: Load,
        config: Config,
        context: WorkerContext,
    ) -> None:
        self.served = 0
        self.cut = False
        self._stream = stream
        self._app = ASGIWrapper(app)
        self._limits = limits
        self._config = config
        self._context = context
        self._http = Framing(limits.max_body, load)
        self._protocol: H11Protocol
        self._writing = trio.Lock()
        self._conversation = trio.CancelScope()
        self._receiving = trio.CancelScope()
        self._deadline = math.inf
        self._idle = True
        self._answered = trio.Event()
        self._unread = False

    async def run(self) -> None:
        """Serve the client until it leaves, is refused, is too slow or is released."""
        try:
            await self._converse()
        except* (trio.Cancelled, KeyboardInterrupt, SystemExit):
            self.cut = True
            raise
        except* BaseException:  # noqa: BLE001  # one connection is no reason to end the process
            _log.exception("a connection failed")
        finally:
            self._http.let_go()

    def release(self) -> None:
        """Close the connection unless a request is in hand; that one is answered first."""
        if self._http.their_state is h11.IDLE:
            self._receiving.cancel()

    async def _converse(self) -> None:
        try:
            ends = self._stream.socket.getpeername(), self._stream.socket.getsockname()
        except OSError:
            return  # gone already
        client, server = (parse_socket_addr(self._stream.socket.family, end) for end in ends)
        async with TaskGroup() as tasks:
            self._protocol = H11Protocol(
                self._app, self._config, self._context, tasks, ConnectionState({}), False, client, server, self._send
            )
            self._protocol.connection = self._http
            with self._conversation:
                await self._read()
        if self._unread and not self._context.terminated.is_set():
            await self._linger()

    async def _read(self) -> None:
        self._expect_within(self._limits.header_timeout)
        while True:
            data = await self._receive()
            await self._protocol.handle(RawData(data))
            if not data:
                return
            if self._http.has_request:
                await self._answered.wait()

    async def _receive(self) -> bytes:
        if self._context.terminated.is_set() and self._http.their_state is h11.IDLE:
            self._expect_within(-math.inf)
        with (
            trio.CancelScope(deadline=self._deadline) as self._receiving,
            contextlib.suppress(trio.BrokenResourceError),
        ):
            data = await self._stream.receive_some(_READ)
            if self._idle:
                self._idle = False
                self._expect_within(self._limits.header_timeout)
            return bytes(data)
        if self._receiving.cancelled_caught and not self._idle:
            self.cut = not self._context.terminated.is_set()
            self._http.refuse(408 if self.cut else 503)
        return b""

    def _expect_within(self, seconds: float) -> None:
        self._deadline = trio.current_time() + seconds

    async def _send(self, event: Event) -> None:
        """Do what hypercorn asks for.

        After the last byte of an answer nothing here waits. Hypercorn tells the application of the end within the
        application's last send; quart-trio then cancels the task that sends, and what waited would not be done.
        """
        match event:
            case RawData(data=data) if data:
                await self._write(data)
            case Updated(idle=False):
                self.served += 1
                self._answered = trio.Event()
                self._expect_within(self._limits.body_timeout)
            case Updated():
                failpoint("A7")
                self._answered.set()
                self._idle = True
                self._expect_within(self._limits.idle_timeout)
            case Closed():
                self._unread = not self._http.has_request
                await self._protocol.handle(event)  # tells the application
                self._conversation.cancel()

    async def _write(self, data: bytes) -> None:
        try:
            async with self._writing:
                with trio.fail_after(self._limits.body_timeout):
                    await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self.cut |= isinstance(error, trio.TooSlowError)
            await self._send(Closed())
        except trio.Cancelled:
            self._conversation.cancel()  # half an answer may be on its way: nothing can follow it
            raise

    async def _linger(self) -> None:
        """Read on for a moment: closing now would send a RST, and that can destroy the refusal on its way."""
        with trio.move_on_after(_LINGER), contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            while await self._stream.receive_some(_READ):
                pass
