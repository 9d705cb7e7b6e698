"""One client's requests, one after another: read under deadlines, given to the application, answered in order.

The application runs in the task of its connection, which reads what the application asks for and nothing ahead of it.
Hypercorn in our place took half of the CPU of a POST, with a task and a channel for each request. It also ends its
`serve` by an error in one connection, bounds neither the time of headers and bodies nor that of answers, and may close
an idle connection whose next request was just read.
"""

from __future__ import annotations

import contextlib
import math
import time
import urllib.parse
from http import HTTPStatus
from wsgiref.handlers import format_date_time

import h11
import structlog
import trio
from hypercorn.typing import ASGIFramework, ASGIReceiveEvent, ASGISendEvent, HTTPScope

from postman.config import Http
from postman.failpoint import failpoint
from postman.http.framing import CLOSE, Framing, Load

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
        closing: once it is set, no further request is taken.

    Attributes:
        served: requests given to the application.
        cut: the client was too slow, or the server could not wait any longer.
    """

    def __init__(
        self, stream: trio.SocketStream, app: ASGIFramework, limits: Http, load: Load, closing: trio.Event
    ) -> None:
        self.served = 0
        self.cut = False
        self._stream = stream
        self._app = app
        self._limits = limits
        self._closing = closing
        self._http = Framing(limits.max_body, load)
        self._receiving = trio.CancelScope()
        self._deadline = math.inf
        self._idle = True

    async def run(self) -> None:
        """Serve the client until it leaves, is refused, is too slow or is released."""
        try:
            self._expect_within(self._limits.header_timeout)
            while await self._exchange():
                self._idle = True
                self._expect_within(self._limits.idle_timeout)
            if self._is_unread and not self._closing.is_set():
                await self._linger()
        except* (trio.Cancelled, KeyboardInterrupt, SystemExit):
            self.cut = True
            raise
        except* BaseException:  # noqa: BLE001  # one connection is no reason to end the process
            _log.exception("a connection failed")
            await self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
        finally:
            self._http.let_go()

    def release(self) -> None:
        """Close the connection unless a request is in hand; that one is answered first."""
        if self._http.their_state is h11.IDLE:
            self._receiving.cancel()

    async def _exchange(self) -> bool:
        """Take a request and answer it; whether another may follow."""
        try:
            request = await self._next_event()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
            return False
        if not isinstance(request, h11.Request):
            return False
        self.served += 1
        self._expect_within(self._limits.body_timeout)
        if self._http.they_are_waiting_for_100_continue:
            await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        await self._app(_scope(request), self._receive, self._send)
        if self._http.our_state is h11.SEND_RESPONSE:
            raise RuntimeError("the application did not answer")
        with contextlib.suppress(h11.RemoteProtocolError):
            while self._http.their_state is h11.SEND_BODY and self._http.next_event() is not h11.NEED_DATA:
                pass  # what has come of a body that nobody wanted
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        failpoint("A7")
        self._http.start_next_cycle()
        return True

    async def _receive(self) -> ASGIReceiveEvent:
        """The next of the request's body; when it does not come, the client was told why, and the answer is dropped."""
        if self._http.has_request:
            await trio.sleep_forever()
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
            return {"type": "http.disconnect"}
        body = bytes(event.data) if isinstance(event, h11.Data) else b""
        return {"type": "http.request", "body": body, "more_body": isinstance(event, h11.Data)}

    async def _send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer, or nothing when the client is gone, or was answered already."""
        if self._http.our_state not in {h11.SEND_RESPONSE, h11.SEND_BODY}:
            return
        data = b""
        if message["type"] == "http.response.start":
            headers = [*message["headers"], _date()]
            if self._closing.is_set():
                headers.append(CLOSE)
            data = self._http.send(h11.Response(status_code=message["status"], headers=headers))
        elif message["type"] == "http.response.body":
            body = message.get("body")
            if body and not self._http.bodiless:
                data = self._http.send(h11.Data(data=body))
            if not message.get("more_body"):
                data += self._http.send(h11.EndOfMessage())
        await self._write(data)

    async def _refuse(self, status: int) -> None:
        """Answer in place of the application, if no answer was begun; the connection ends."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._write(self._http.refusal(status, _date()))

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._read())
        return event

    async def _read(self) -> bytes:
        """What comes next; nothing when the client has left, is too slow or is to be released."""
        if self._closing.is_set() and self._http.their_state is h11.IDLE:
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
            self.cut = not self._closing.is_set()
            self._http.refuse(HTTPStatus.REQUEST_TIMEOUT if self.cut else HTTPStatus.SERVICE_UNAVAILABLE)
        return b""

    async def _write(self, data: bytes) -> None:
        """Hand bytes to the kernel. Nothing can follow those that did not go whole."""
        if not data:
            return
        sent = False
        try:
            with (
                trio.move_on_after(self._limits.body_timeout) as sending,
                contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                await self._stream.send_all(data)
                sent = True
            self.cut |= sending.cancelled_caught
        finally:
            if not sent:
                self._http.send_failed()

    async def _linger(self) -> None:
        """Read on for a moment: closing now would send a RST, and that can destroy the refusal on its way."""
        with trio.move_on_after(_LINGER), contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            while await self._stream.receive_some(_READ):
                pass

    def _expect_within(self, seconds: float) -> None:
        self._deadline = trio.current_time() + seconds

    @property
    def _is_unread(self) -> bool:
        """Whether the client may be sending still."""
        return self._http.their_state is not h11.CLOSED and not self._http.has_request


def _scope(request: h11.Request) -> HTTPScope:
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": urllib.parse.unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
        "state": {},  # type: ignore[typeddict-item]  # hypercorn's own class, a dict
        "extensions": {},
    }


def _date() -> tuple[bytes, bytes]:
    return b"date", format_date_time(time.time()).encode("ascii")
