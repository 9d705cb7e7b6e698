"""What we take for an HTTP request: h11, without what a proxy before us could read differently, and with limits."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

import h11

MAX_HEADERS = 65_536
"""Bytes of a request line with its headers; beyond: 431."""
RETRY_AFTER = b"1"
"""Seconds after which a client may ask again that was refused for want of room."""
CLOSE = (b"connection", b"close")
"""The header of an answer after which the connection ends."""

_LOOSE_LINE = re.compile(rb"(?<!\r)\n|\n[ \t]")  # a bare LF, or a folded header
_AUTHORITY = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)


class Load:
    """Bytes of the bodies of all connections: being received, or with whoever answers them.

    Args:
        limit: beyond it bodies are refused.

    Attributes:
        bytes: there now.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0


class Framing(h11.Connection):
    """h11 without what a proxy before us could read differently, and with an end to bodies.

    A refusal is a RemoteProtocolError: who meets it answers with the `refusal` of its status, and closes.

    Args:
        max_body: bytes of one body.
        load: of all connections together; counted by what has come, since who only promises much takes no memory.

    Attributes:
        bodiless: answers to this request have no body.
    """

    def __init__(self, max_body: int, load: Load) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEADERS)
        self._max_body = max_body
        self._load = load
        self._held = 0
        self._left = 0
        self._chunked = False
        self._recent = b""
        self._head = b""
        self._refusal: h11.RemoteProtocolError | None = None
        self.bodiless = False

    @property
    def has_request(self) -> bool:
        """The client has sent its whole request."""
        return self._refusal is None and self.their_state not in {h11.IDLE, h11.SEND_BODY, h11.ERROR, h11.CLOSED}

    def refuse(self, status: int) -> h11.RemoteProtocolError:
        """Make this and every further look for an event end in a refusal.

        What came of its body counts no more: else all that come at once would be refused, and not those too many.
        """
        self.let_go()
        self._refusal = h11.RemoteProtocolError("refused", error_status_hint=status)
        return self._refusal

    def receive_data(self, data: bytes) -> None:
        """Take what was read; b"" for the end."""
        self._recent = self._recent[-3:] + data
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """Find the next event in what was read.

        Raises:
            h11.RemoteProtocolError: the request is refused.
        """
        if self._refusal is not None:
            raise self._refusal
        buffered = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        event = super().next_event()
        match event:
            case h11.Request():
                return self._checked(event, buffered[: len(buffered) - len(self.trailing_data[0])])
            case h11.Data():
                self._left -= len(event.data)
                self._held += len(event.data)
                self._load.bytes += len(event.data)
                if self._left < 0:
                    raise self.refuse(413)
                if self._load.bytes > self._load.limit:
                    raise self.refuse(503)
            case h11.EndOfMessage() if self._chunked:
                end = len(self._recent) - len(self.trailing_data[0])
                if not self._recent[:end].endswith(b"\r\n\r\n"):
                    raise self.refuse(400)
        return event

    def start_next_cycle(self) -> None:
        """The request was answered."""
        super().start_next_cycle()
        self.bodiless = False
        self.let_go()

    def let_go(self) -> None:
        """The body that came last is needed no more."""
        self._load.bytes -= self._held
        self._held = 0

    def send(self, event: h11.Event) -> bytes:  # type: ignore[override]  # h11 tells ConnectionClosed apart: no bytes
        """Translate what is to be sent. The head of an answer goes out with what follows it, in one packet."""
        data, self._head = self._head + (super().send(event) or b""), b""
        if isinstance(event, h11.Response):
            data, self._head = b"", data
        return data

    def refusal(self, status: int, *more: tuple[bytes, bytes]) -> bytes:
        """A whole answer that says why, as all errors do; with `more` headers."""
        status = HTTPStatus(status)
        details = {
            HTTPStatus.BAD_REQUEST: "This cannot be read as HTTP/1.1, or not in one way only.",
            HTTPStatus.CONTENT_TOO_LARGE: f"The body is larger than {self._max_body} bytes.",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"The headers are larger than {MAX_HEADERS} bytes.",
            HTTPStatus.REQUEST_TIMEOUT: "The request took too long to arrive.",
            HTTPStatus.SERVICE_UNAVAILABLE: "The request cannot be taken now. Nothing was accepted.",
            HTTPStatus.INTERNAL_SERVER_ERROR: "This is our fault; the log says more.",
            HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "HTTP/1.1 and 1.0 are spoken here.",
        }
        detail = details.get(status, "The request is not taken.")
        body = json.dumps({"title": status.phrase, "status": status, "detail": detail}).encode()
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body)), CLOSE, *more]
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", RETRY_AFTER))
        self.send(h11.Response(status_code=status, headers=headers))
        told = b"" if self.bodiless else self.send(h11.Data(data=body))
        return told + self.send(h11.EndOfMessage())

    def _checked(self, request: h11.Request, raw: bytes) -> h11.Request:
        headers = dict(request.headers)
        self.bodiless = request.method == b"HEAD"
        self._chunked = b"transfer-encoding" in headers
        self._left = self._max_body
        target = _AUTHORITY.sub(b"", request.target, count=1)
        if len(raw) > MAX_HEADERS:
            raise self.refuse(431)
        if request.http_version not in {b"1.0", b"1.1"}:
            raise self.refuse(505)
        if _LOOSE_LINE.search(raw) or not target.startswith(b"/"):
            raise self.refuse(400)
        if self._chunked and (b"content-length" in headers or request.http_version == b"1.0"):
            raise self.refuse(400)
        length = int(headers.get(b"content-length", 0))
        if length > self._max_body:
            raise self.refuse(413)
        if length and self._load.bytes + length > self._load.limit:
            raise self.refuse(503)
        if target == request.target:
            return request
        return h11.Request(
            method=request.method, target=target, headers=request.headers, http_version=request.http_version
        )
