"""One HTTP/1.1 connection: opened, spoken on, closed; h11 on a trio stream.

Its errors tell how far a call came: `ProviderUnavailable` as long as the last byte of the request is not with the
kernel, `OutcomeUnknown` from then on. One connection carries one call at a time. Whoever's call did not end with an
answer closes it, so nothing of one call is ever read by the next.

A client library in its place costs four times the CPU for each call, and tells phases only through a tracing hook.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

import h11
import msgspec
import trio

from postman.answer import MAX_BODY, STATUSES, Answer, decoded
from postman.errors import OutcomeUnknown, ProviderUnavailable
from postman.failpoint import failpoint
from postman.host import words_of

MAX_HEAD = 65_536
"""Bytes before the end of an answer's headers, interim answers (100 Continue) included."""
MAX_RAW = 4
"""So many times as long as its body an answer may be, with the overhead of its chunks."""
MAX_PIECES = 10_000
"""Chunks of an answer; the CPU that a vendor may cost us."""

_CHUNK = 262_144  # a large body is encrypted and sent in pieces, so that other tasks get their turn
_READ = 16_384


class Origin(msgspec.Struct, frozen=True):
    """Where a vendor listens. `tls` is None for plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None


async def open_connection(origin: Origin, within: float) -> Connection:
    """Connect, with TLS where the origin has it, trying the host's addresses side by side.

    Args:
        origin: where to.
        within: seconds for DNS, connect and TLS together.

    Raises:
        ProviderUnavailable: no connection; surely nothing was sent.
    """
    try:
        with trio.fail_after(within):
            stream = await trio.open_tcp_stream(origin.host, origin.port)
            if origin.tls is None:
                return Connection(stream, stream.socket)
            return await _secured(stream, origin.host, origin.tls)
    except trio.TooSlowError:
        raise ProviderUnavailable(f"no connection within {within:g} s") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise ProviderUnavailable(f"no connection: {_why(error)}") from error


async def _secured(stream: trio.SocketStream, host: str, tls: ssl.SSLContext) -> Connection:
    try:
        secure = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
        await secure.do_handshake()
    except BaseException:
        stream.socket.close()
        raise
    return Connection(secure, stream.socket)


class Connection:
    """An open connection to a vendor.

    Attributes:
        reusable: the last call ended so that another may follow.
        keep: seconds that the vendor said it keeps an idle connection; None: it did not say.
        idle_since: for whoever keeps it.
    """

    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType) -> None:
        self.reusable = False
        self.keep: float | None = None
        self.idle_since = 0.0
        self._stream = stream
        self._socket = socket
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._received = 0

    async def send(self, request: h11.Request, body: bytes) -> None:
        """Hand a request to the kernel. When this returns the last byte is there, and no cancellation came since.

        Raises:
            ProviderUnavailable: the last byte is not there.
        """
        self.reusable = False
        self._received = 0
        pieces = [self._http.send(request) or b"", self._http.send(h11.Data(body)) or b""]
        self._http.send(h11.EndOfMessage())
        if len(body) < _CHUNK:
            pieces = [b"".join(pieces)]
        try:
            for piece in pieces:
                for start in range(0, len(piece), _CHUNK):
                    await self._stream.send_all(memoryview(piece)[start : start + _CHUNK])
                    failpoint("W4")
        except trio.BrokenResourceError as error:
            raise ProviderUnavailable(f"the connection broke before the last byte was sent: {_why(error)}") from error

    async def receive(self, max_body: int = MAX_BODY) -> Answer:
        """The answer to what was sent, to its end; its body has at most `max_body` bytes.

        A refusal whose head came but not the whole of its body is an answer all the same: its status is enough.

        Raises:
            OutcomeUnknown: no answer that can be read.
        """
        try:
            head = await self._head()
            failpoint("W7")
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        except (_Unreadable, h11.RemoteProtocolError, trio.BrokenResourceError) as error:
            raise OutcomeUnknown(f"the request was sent, but no answer came: {_why(error)}") from error
        try:
            body = decoded(headers, await self._body(max_body))
        except (_Unreadable, h11.RemoteProtocolError, trio.BrokenResourceError, ValueError) as error:
            if head.status_code < 300:
                raise OutcomeUnknown(
                    f"the provider answered {head.status_code}, but the rest cannot be read: {_why(error)}"
                ) from error
            return Answer(head.status_code, headers, b"")
        self._end(headers)
        return Answer(head.status_code, headers, body)

    async def receive_refusal(self, broken: ProviderUnavailable) -> Answer:
        """The answer that a vendor gave before it broke the connection in the middle of a request.

        Raises:
            ProviderUnavailable: `broken`, when there is no answer that says why nothing was accepted.
        """
        with contextlib.suppress(OutcomeUnknown):
            answer = await self.receive()
            if answer.status in STATUSES:
                return answer
        raise broken

    def alive(self) -> bool:
        """Whether an idle connection is still quiet; anything to read is a goodbye, or an answer to nobody."""
        return not self._socket.is_readable()

    def close(self) -> None:
        """Close at once; without TLS's goodbye, which nobody waits for. Sync, so that no outcome is lost to it."""
        self._socket.close()

    async def _head(self) -> h11.Response:
        while not isinstance(event := await self._next_event(MAX_HEAD), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise _Unreadable("it is not HTTP")
        return event

    async def _body(self, most: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while isinstance(event := await self._next_event(MAX_RAW * most), h11.Data):
            size += len(event.data)
            if size > most or len(parts) >= MAX_PIECES:
                raise _Unreadable("it is too long")
            parts.append(bytes(event.data))
        return b"".join(parts)

    async def _next_event(self, limit: int) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._received > limit:
                raise _Unreadable("it does not end")
            data = await self._stream.receive_some(_READ)
            self._received += len(data)
            self._http.receive_data(bytes(data))
        if not isinstance(event, h11.Event):
            raise _Unreadable("it is not HTTP")
        return event

    def _end(self, headers: dict[str, str]) -> None:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
            self.reusable = True
            for word in headers.get("keep-alive", "").split(","):
                name, _, seconds = word.strip().partition("=")
                if name.lower() == "timeout" and seconds.isdecimal():
                    self.keep = float(seconds)


class _Unreadable(Exception):
    """What came is no answer to us."""


def _why(error: BaseException) -> str:
    """The few words of the operating system, OpenSSL or h11 for a person."""
    while (cause := error.__cause__) is not None:
        error = cause
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {(error.reason or 'failed').replace('_', ' ').lower()}"
        case socket.gaierror(strerror=str(words)):
            return words.lower()
        case OSError(errno=int(number)):
            return words_of(number)  # trio's own text names the address
        case h11.RemoteProtocolError() if "ConnectionClosed" in str(error):
            return "it was closed"  # h11 speaks of its own states here
        case _:
            return str(error) or "it was closed"
