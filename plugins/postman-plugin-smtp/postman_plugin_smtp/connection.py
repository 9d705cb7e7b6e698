"""Commands and replies on one SMTP connection, one at a time and never pipelined, so that the phase is always known."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from typing import Final

import trio

from postman.errors import ProviderMisconfigured, ProviderUnavailable
from postman_plugin_smtp.reply import Reply

_CHUNK: Final = 262_144  # what TLS encrypts in one go, without the loop
_DECIPHER: Final = 0.01  # seconds to see whether what came through TLS is meant for us
_READ: Final = 65_536
_MAX_LINE: Final = 4_096  # RFC 5321 grants a server 512
_MAX_LINES: Final = 100
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])([^\r\n]*))?")


class Connection:
    """A connection and what its server announced.

    Whatever breaks, and whatever is not SMTP, ends the connection (`broken`) and is raised as ProviderUnavailable:
    before a letter's final dot nothing was accepted. The one caller that sends the dot knows better.

    Not for use by two tasks. A cancelled call leaves the connection in the middle of a command: close it.

    Attributes:
        extensions: keywords of EHLO in upper case, with their parameters.
        broken: of no more use.
        letters: how many letters were begun on it.
        used: `trio.current_time()` of the last return to the pool.
        resting: between two transactions, so that another letter may follow.
    """

    def __init__(self, socket: trio.SocketStream) -> None:
        self.extensions: dict[str, str] = {}
        self.broken = False
        self.letters = 0
        self.used = 0.0
        self.resting = False
        self._step = "greeting"
        self._socket = socket
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = socket
        self._buffer = bytearray()

    async def command(self, verb: str, argument: str = "") -> Reply:
        """Send one command and read its reply, of whatever code. After a 421 the connection is of no more use."""
        self._step = "message" if verb == "." else verb
        return await self.answer(f"{verb} {argument}".rstrip())

    async def answer(self, line: str) -> Reply:
        """Send a line that goes on with the last command, and read the reply."""
        if not line.isprintable():
            raise ValueError("a command holds a control character")  # every argument was checked: a bug
        await self.send(line.encode("ascii") + b"\r\n")
        return await self.reply()

    async def send(self, data: bytes) -> None:
        """Hand `data` to the kernel, as long as the server does not speak before its turn."""
        for at in range(0, len(data), _CHUNK):
            if (self._buffer or self._socket.socket.is_readable()) and not await self.is_quiet():
                raise self._break("it spoke out of turn or closed the connection")
            try:
                await self._stream.send_all(data[at : at + _CHUNK])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise self._break("the connection broke while sending") from None

    async def reply(self) -> Reply:
        """Read one reply: at most 100 lines of 4 KiB, all of one code."""
        code = 0
        lines: list[str] = []
        for _ in range(_MAX_LINES):
            line = _LINE.fullmatch(await self._line())
            if line is None or (lines and int(line[1]) != code):
                raise self._break("its reply is not SMTP")
            code = int(line[1])
            lines.append((line[3] or b"").decode("utf-8", "replace"))
            if line[2] != b"-":
                self.broken = self.broken or code == 421
                return Reply(code, tuple(lines))
        raise self._break(f"its reply has more than {_MAX_LINES} lines")

    async def is_quiet(self) -> bool:
        """Whether the server neither spoke nor hung up since its last reply: no stale connection, no reply too many."""
        if self.broken or self._buffer:
            return False
        if self._stream is self._socket:
            return not self._socket.socket.is_readable()
        wait = _DECIPHER if self._socket.socket.is_readable() else 0.0
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + wait  # set inside, so that 0 still takes what TLS has read ahead
            try:
                self._buffer += await self._stream.receive_some(_READ)
            except trio.BrokenResourceError:
                self.broken = True
            return False
        return True  # there was nothing, or only TLS's own talk: the tickets of TLS 1.3

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Shake hands; certificate and name are verified, and nothing that came in clear text is believed afterwards.

        Raises:
            ProviderMisconfigured: the certificate is not to be trusted, or is not for `host`.
            ProviderUnavailable: any other failure; never falls back.
        """
        self._step = "TLS"
        if not await self.is_quiet():  # it would be taken for the answer to the first encrypted command
            raise self._break("clear text was put in before the handshake")
        stream = trio.SSLStream(self._socket, context, server_hostname=host, https_compatible=True)
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise ProviderMisconfigured(f"TLS: its certificate is not trusted: {cause.verify_message}") from None
            reason = getattr(cause, "reason", None) or "the_connection_broke"
            raise self._break(f"no handshake: {reason.replace('_', ' ').lower()}") from None
        self._stream = stream

    async def quit(self) -> None:
        """Take leave without waiting for the answer, which would change nothing, and close. Also when cancelled."""
        with trio.move_on_after(1, shield=True), suppress(ProviderUnavailable):  # it may have hung up first
            await self.send(b"QUIT\r\n")
        self.close()

    def close(self) -> None:
        """Close at once, without TLS's goodbye. Sync, so that an outcome that is known stays known."""
        self.broken = True
        self._socket.socket.close()

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _MAX_LINE:
                raise self._break("its reply has an endless line")
            try:
                data = await self._stream.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise self._break("the connection broke before its reply")
            self._buffer += data
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def _break(self, reason: str) -> ProviderUnavailable:
        self.broken = True
        return ProviderUnavailable(f"{self._step}: {reason}")
