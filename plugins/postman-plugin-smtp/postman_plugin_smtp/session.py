"""From a name to a connection that is ready for letters: resolve, connect, greeting, EHLO, TLS, AUTH.

Nothing of a letter is in it, so every failure is surely not accepted.
"""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass

import trio

from postman.errors import ProviderMisconfigured, ProviderUnavailable
from postman.host import words_of
from postman_plugin_smtp.connection import Connection
from postman_plugin_smtp.reply import Reply, account_refusal
from postman_plugin_smtp.settings import SmtpSettings


@dataclass(frozen=True)
class Dialler:
    """Opens connections to one account.

    Attributes:
        settings: of the account.
        context: whom to believe; not used with `security = "none"`.
        timeout: seconds for finding the host and connecting to it.
    """

    settings: SmtpSettings
    context: ssl.SSLContext
    timeout: float

    async def open(self) -> Connection:
        """A connection that is encrypted and signed in as the settings say; closed when this fails or is cancelled.

        Raises:
            ProviderUnavailable: the server cannot be reached, is not ready or does not speak SMTP or TLS.
            ProviderMisconfigured: no STARTTLS, a certificate that does not fit, a password that is refused.
        """
        stream = await self._connect()
        connection = Connection(stream)
        try:
            await self._greet(connection, _literal(stream))
        except BaseException:
            connection.close()
            raise
        return connection

    async def _greet(self, connection: Connection, literal: str) -> None:
        settings = self.settings
        if settings.security == "tls":
            await connection.start_tls(self.context, settings.host)
        _wanted(await connection.reply(), "greeting", 220)
        name = settings.helo_name or _own_name() or literal
        await _hello(connection, name)
        if settings.security == "starttls":
            if "STARTTLS" not in connection.extensions:
                raise ProviderMisconfigured("the server offers no STARTTLS; nothing is sent in clear text")
            _wanted(await connection.command("STARTTLS"), "STARTTLS", 220)
            await connection.start_tls(self.context, settings.host)
            await _hello(connection, name)  # what it announced in clear text counts no more (RFC 3207, 4.2)
        if settings.username is not None and settings.password is not None:
            await _sign_in(connection, settings.username, settings.password.reveal())

    async def _connect(self) -> trio.SocketStream:
        host, port = self.settings.host, self.settings.service
        try:
            with trio.fail_after(self.timeout):
                return await trio.open_tcp_stream(host, port)
        except trio.TooSlowError:
            raise ProviderUnavailable(f"no connection within {self.timeout:g} s") from None
        except (OSError, UnicodeError) as error:  # a label of over 63 characters is a UnicodeError
            raise ProviderUnavailable(f"no connection: {_why(error)}") from None


async def _hello(connection: Connection, name: str) -> None:
    reply = await connection.command("EHLO", name)
    _wanted(reply, "EHLO", 250)
    lines = (line.upper().replace("=", " ").partition(" ") for line in reply.lines[1:])  # some still say AUTH=LOGIN
    connection.extensions = {keyword: parameters for keyword, _, parameters in lines}


async def _sign_in(connection: Connection, username: str, password: str) -> None:
    offered = connection.extensions.get("AUTH", "").split()
    if "PLAIN" in offered:
        reply = await connection.command("AUTH", f"PLAIN {_base64(f'\0{username}\0{password}')}")
    elif "LOGIN" in offered:
        reply = await connection.command("AUTH", "LOGIN")
        for answer in (username, password):
            if reply.code == 334:
                reply = await connection.answer(_base64(answer))
    else:
        raise ProviderMisconfigured("the server offers neither AUTH PLAIN nor LOGIN on this connection")
    _wanted(reply, "AUTH", 235)


def _wanted(reply: Reply, said_to: str, code: int) -> None:
    if reply.code != code:
        raise account_refusal(reply, said_to)


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode("ascii")


def _own_name() -> str | None:
    name = socket.gethostname()
    return name if "." in name and name.isascii() else None


def _literal(stream: trio.SocketStream) -> str:
    """Our address as EHLO wants it of a machine without a name (RFC 5321, 4.1.3)."""
    address = stream.socket.getsockname()[0].partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _why(error: Exception) -> str:
    """The operating system's words, of the first address that failed."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return words_of(cause.errno)
    return "the name of the host cannot be looked up"
