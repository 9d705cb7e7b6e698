"""Where a server is and how to come in: the URL of [ledger] and [queue], and its query."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
import trio

from postman.errors import ConfigError
from postman.host import is_loopback
from postman.secret import Secret
from postman.table import read_safely

DEFAULT_PORT = 6379

HELP = "write redis://HOST:PORT/DATABASE, with rediss:// for TLS"


class RedisSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """A URL and what its query may say, for ledger and queue alike.

    Attributes:
        url: where the server is, without the query.
        prefix: of all keys; several Postmans may share one server.
        timeout: seconds that the server may take to answer.
        wait: so many replicas must have a write before it counts as done.
        accept_loss: True: use a server that may forget what it was told, and say so, instead of refusing it.
        username: for the server's ACL.
        password_file: whose text is the password.
        password_env: the environment variable whose text is the password.
        ca_file: certificates to trust instead of the system's, for rediss.
    """

    url: str
    prefix: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}\Z")] = "postman"
    timeout: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    wait: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    accept_loss: bool = False
    username: str | None = None
    password_file: Path | None = None
    password_env: str | None = None
    ca_file: Path | None = None


@dataclass(frozen=True)
class Address:
    """A server, as a client needs it.

    Attributes:
        host: its name or number.
        port: of TCP.
        database: 0 in a cluster.
        prefix: of all keys, in braces: they are all in one slot of a cluster, so that a script may use them together.
        timeout: seconds, of connecting and of each answer.
        wait: how many replicas must confirm a write.
        username: None: the server's default user.
        password: None: none is asked for.
        tls: None: plain TCP.
    """

    host: str
    port: int
    database: int = 0
    prefix: str = "{postman}:"
    timeout: float = 5.0
    wait: int = 0
    username: str | None = None
    password: Secret | None = None
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def is_exposed(self) -> bool:
        """Whether others on the network may read what goes there."""
        return self.tls is None and not is_loopback(self.host)

    def moved(self, to: str) -> Address:
        """The same at HOST:PORT, as a cluster says it; no host: the same one."""
        host, _, port = to.rpartition(":")
        return replace(self, host=host.strip("[]") or self.host, port=int(port))

    async def connect(self) -> trio.abc.Stream:
        """A stream to the server.

        Raises:
            OSError: it cannot be reached.
        """
        stream = await trio.open_tcp_stream(self.host, self.port)
        if self.tls is None:
            return stream
        secure = trio.SSLStream(stream, self.tls, server_hostname=self.host)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(secure)
            raise
        return secure


def address_of(settings: RedisSettings) -> Address:
    """The server that the URL names.

    Raises:
        ConfigError: it is no URL of a server, or the password cannot be read. The text holds no secret.
    """
    try:
        parts = urlsplit(settings.url)
        port, database = parts.port or DEFAULT_PORT, int(parts.path.strip("/") or 0)
    except ValueError:
        raise ConfigError(f"this is no URL of Redis; {HELP}") from None
    if not parts.hostname or database < 0:
        raise ConfigError(f"this URL names no server; {HELP}")
    return Address(
        host=parts.hostname,
        port=port,
        database=database,
        prefix=f"{{{settings.prefix}}}:",
        timeout=settings.timeout,
        wait=settings.wait,
        username=settings.username or unquote(parts.username or "") or None,
        password=_password(parts, settings),
        tls=_tls(settings.ca_file) if parts.scheme == "rediss" else None,
    )


def _password(parts: SplitResult, settings: RedisSettings) -> Secret | None:
    text = unquote(parts.password or "")
    if settings.password_file is not None:
        text = read_safely(settings.password_file).rstrip("\r\n")
    elif settings.password_env is not None:
        text = os.environ.get(settings.password_env, "")
        if not text:
            raise ConfigError(f"the environment variable {settings.password_env} is not set, or is empty")
    return Secret(text) if text else None


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"{ca_file} holds no certificates that can be read: {error.strerror or error}") from error
