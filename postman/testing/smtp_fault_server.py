r"""An SMTP server on loopback that goes wrong where a script says so, and records what it heard and took.

    async with open_smtp_fault_server({"DATA": b"451 later\r\n"}) as server:
        ...  # speak to 127.0.0.1, server.port

A script maps a moment to an act. Moments: `banner`, a verb (`EHLO`, `MAIL`, `RCPT`, ...), `TLS` (before the handshake),
`answer` (to a line that goes on with AUTH), `message` (after the first bytes of a message), `.` (after its end).
`RCPT 2` is the second RCPT that the server hears, over all connections, and goes before `RCPT`. Acts: bytes are said
as they are, a Fault happens, a tuple is done in order. What is not scripted is answered well.
"""

from __future__ import annotations

import enum
import re
import socket
import ssl
import struct
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio


class Fault(enum.Enum):
    """What a server may do instead of an answer."""

    DROP = "close the connection"
    RESET = "close it with RST"
    STALL = "say nothing for ever"


type Act = bytes | Fault | tuple[bytes | Fault, ...]

_GOOD: Mapping[str, bytes] = {
    "banner": b"220 fault.example ESMTP\r\n",
    "STARTTLS": b"220 2.0.0 go ahead\r\n",
    "AUTH": b"235 2.7.0 welcome\r\n",
    "answer": b"235 2.7.0 welcome\r\n",
    "DATA": b"354 go ahead\r\n",
    ".": b"250 2.0.0 Ok: queued as FA01\r\n",
    "QUIT": b"221 2.0.0 bye\r\n",
}
_WELL = b"250 2.0.0 Ok\r\n"


@dataclass(frozen=True)
class TakenMail:
    """A mail that the server took or may have taken: its end was read, and it was not refused.

    Attributes:
        sender: of MAIL.
        recipients: of the RCPTs that were answered with 2xx.
        message: its bytes, dots unstuffed.
    """

    sender: str
    recipients: tuple[str, ...]
    message: bytes


class SmtpFaultServer:
    """The server; its fields may be read, and its script changed, at any time.

    Attributes:
        port: on 127.0.0.1.
        script: see the module.
        extensions: what EHLO announces, besides STARTTLS.
        heard: every line outside messages, in order, over all connections.
        taken: the mails.
        accepted: connections so far.
        open: connections now.
    """

    def __init__(self, script: Mapping[str, Act], tls: ssl.SSLContext | None, *, implicit: bool) -> None:
        self.port = 0
        self.script = dict(script)
        self.extensions: tuple[str, ...] = ("SIZE 1000000", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN")
        self.heard: list[str] = []
        self.taken: list[TakenMail] = []
        self.accepted = 0
        self.open = 0
        self._tls = tls
        self._implicit = implicit
        self._times: Counter[str] = Counter()
        self._reached: defaultdict[str, trio.Event] = defaultdict(trio.Event)
        self._closed = trio.Event()

    async def wait_reached(self, moment: str) -> None:
        """Wait until `moment` (or `RCPT 2`) came and its act was begun."""
        await self._reached[moment].wait()

    async def wait_closed(self) -> None:
        """Wait until no connection is open."""
        while self.open:
            await self._closed.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Speak on one connection to its end."""
        self.accepted += 1
        self.open += 1
        try:
            await _Conversation(self, stream, self._tls).run(implicit=self._implicit)
        except (trio.BrokenResourceError, trio.ClosedResourceError, _Over):
            pass
        finally:
            stream.socket.close()
            self.open -= 1
            if not self.open:
                self._closed.set()
                self._closed = trio.Event()

    def act(self, moment: str) -> Act | None:
        """The act of this moment, which is counted."""
        self._times[moment] += 1
        numbered = f"{moment} {self._times[moment]}"
        self._reached[moment].set()
        self._reached[numbered].set()
        return self.script.get(numbered, self.script.get(moment))


@asynccontextmanager
async def open_smtp_fault_server(
    script: Mapping[str, Act] | None = None, *, tls: ssl.SSLContext | None = None, implicit: bool = False
) -> AsyncGenerator[SmtpFaultServer]:
    """Serve until the block is left.

    Args:
        script: what goes wrong where; see the module.
        tls: the server's side; offered as STARTTLS, or spoken from the first byte when `implicit`.
        implicit: see `tls`.
    """
    server = SmtpFaultServer(script or {}, tls, implicit=implicit)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


class _Over(Exception):
    """The conversation is over."""


class _Conversation:
    """One connection."""

    def __init__(self, server: SmtpFaultServer, socket: trio.SocketStream, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._socket = socket
        self._stream: trio.abc.Stream = socket
        self._tls = tls
        self._buffer = bytearray()
        self._sender = ""
        self._recipients: list[str] = []

    async def run(self, *, implicit: bool) -> None:
        if implicit:
            await self._encrypt()
        await self._do("banner", _GOOD["banner"])
        while True:
            line = (await self._until(b"\r\n")).decode("latin-1")
            self._server.heard.append(line)
            await self._hear(line)

    async def _hear(self, line: str) -> None:
        verb = line.partition(" ")[0].upper()
        if not re.fullmatch("[A-Z]{4}|STARTTLS", verb):
            verb = "answer"
        good = self._hello() if verb == "EHLO" else _GOOD.get(verb, _WELL)
        if line == "AUTH LOGIN":
            good = b"334 VXNlcm5hbWU6\r\n"
        elif verb == "answer" and self._server.heard[-2:][0] == "AUTH LOGIN":
            good = b"334 UGFzc3dvcmQ6\r\n"
        said = await self._do(verb, good)
        match verb, said[:1]:
            case "STARTTLS", b"2":
                await self._encrypt()
            case "MAIL", b"2":
                self._sender, self._recipients = _between(line), []
            case "RCPT", b"2":
                self._recipients.append(_between(line))
            case "DATA", b"3":
                await self._message()
            case "QUIT", _:
                raise _Over

    def _hello(self) -> bytes:
        lines = ["fault.example", *self._server.extensions]
        if self._tls is not None and self._stream is self._socket:
            lines.append("STARTTLS")
        return "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode()

    async def _message(self) -> None:
        await self._more()
        await self._do("message", b"")
        self._buffer[:0] = b"\r\n"
        lines = await self._until(b"\r\n.\r\n")
        acts = self._acts(".", _GOOD["."])
        if not isinstance(acts[0], bytes) or acts[0][:1] not in b"45":
            message = lines.replace(b"\r\n.", b"\r\n")[2:] + b"\r\n"
            self._server.taken.append(TakenMail(self._sender, tuple(self._recipients), message))
        await self._play(acts)

    async def _encrypt(self) -> None:
        assert self._tls is not None
        await self._do("TLS", b"")
        stream = trio.SSLStream(self._socket, self._tls, server_side=True, https_compatible=True)
        await stream.do_handshake()
        self._stream = stream

    async def _do(self, moment: str, good: bytes) -> bytes:
        """Do what the script says, else say what is good; what was said."""
        return await self._play(self._acts(moment, good))

    def _acts(self, moment: str, good: bytes) -> tuple[bytes | Fault, ...]:
        act = self._server.act(moment)
        if act is None:
            return (good,)
        return act if isinstance(act, tuple) else (act,)

    async def _play(self, acts: tuple[bytes | Fault, ...]) -> bytes:
        for act in acts:
            if isinstance(act, Fault):
                await self._fail(act)
            elif act:
                await self._stream.send_all(act)
        return b"".join(act for act in acts if isinstance(act, bytes))

    async def _fail(self, fault: Fault) -> None:
        if fault is Fault.STALL:
            while True:
                await self._more()
        if fault is Fault.RESET:
            self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Over

    async def _until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            await self._more()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return found

    async def _more(self) -> None:
        data = await self._stream.receive_some(65_536)
        if not data:
            raise _Over
        self._buffer += data


def _between(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]
