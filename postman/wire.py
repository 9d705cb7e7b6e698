"""The one place where HTTP providers meet the network.

A plugin opens a client and asks; it sees answers and the closed list of outcomes, nothing of sockets:

    async with surroundings.client(base_url=..., headers={"Authorization": bearer(key)}) as client:
        answer = await client.post("/v3/mail/send", attempt=attempt, json=payload)
        if answer.status == 202: return Receipt(answer.headers.get("x-message-id"))
        raise failure(answer, detail)

What a client does for every call:

- makes the attempt's marks: `starting` just before the first byte, `handed_over` when the last is with the kernel;
- ends without an answer in two ways alone: `ProviderUnavailable` before that last byte, `OutcomeUnknown` after it;
- sends each request once. Only when a kept connection turns out to be gone before the last byte was sent is another
  opened, which is safe;
- reads at most 64 KiB of headers and 1 MiB of body; follows no redirect, keeps no cookie, asks for no compression, and
  does not look at the environment for proxies or passwords;
- verifies certificates, TLS 1.2 or newer;
- leaves the time of a call to its caller, who cancels. A cancelled call closes its connection.
"""

from __future__ import annotations

import base64
import ssl
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property

import h11
import msgspec
import trio

from postman import multipart
from postman.answer import MAX_BODY, STATUSES, Answer, failure, wait_asked, without_addresses
from postman.connection import Connection, Origin, open_connection
from postman.errors import ConfigError, ProviderUnavailable
from postman.host import is_loopback
from postman.multipart import File
from postman.provider import Attempt
from postman.secret import Secret

__all__ = [
    "STATUSES",
    "Answer",
    "Client",
    "ClientFactory",
    "File",
    "basic",
    "bearer",
    "check_base_url",
    "failure",
    "wait_asked",
    "without_addresses",
]


def check_base_url(url: str) -> urllib.parse.SplitResult:
    """Read a provider's `base-url`; for a settings' `__post_init__`.

    Raises:
        ConfigError: it is not `https://host[:port][/path]` (or http), says why.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"base-url cannot be read: {error}") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname or port == 0:
        raise ConfigError("base-url must look like https://api.example.com, with a port or a path if need be")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("base-url must not hold a user or a password; put the key in its own setting")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ConfigError("base-url must end with its path; take the part from ? or # away")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError("base-url must be ASCII without spaces; write a host as its A-label (xn--...)")
    return parts


def bearer(key: Secret) -> Secret:
    """The value of an Authorization header."""
    return Secret(f"Bearer {key.reveal()}")


def basic(user: str, password: Secret) -> Secret:
    """The value of an Authorization header."""
    return Secret("Basic " + base64.b64encode(f"{user}:{password.reveal()}".encode()).decode())


class ClientFactory:
    """Makes the HTTP clients of this process; `Surroundings.client`.

    Args:
        tls: how certificates are judged; None: by the system's authorities, TLS 1.2 or newer.
        allow_http: let a base-url be plain http on a host that is not this one.
        connect_timeout: seconds for DNS, connect and TLS together.
        keep_idle: seconds after which an idle connection is not used again. Short, because a vendor that closes it at
            the moment we write leaves us in doubt; half of what the vendor itself says, if that is less.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        allow_http: bool = False,
        connect_timeout: float = 10.0,
        keep_idle: float = 4.0,
    ) -> None:
        self._tls = tls
        self._allow_http = allow_http
        self._connect_timeout = connect_timeout
        self._keep_idle = keep_idle

    @asynccontextmanager
    async def __call__(
        self, *, base_url: str, headers: Mapping[str, str | Secret] | None = None
    ) -> AsyncIterator[Client]:
        """Make a client for one provider; nothing is connected yet. Leaving the block closes its connections.

        Args:
            base_url: where each path is asked for.
            headers: sent with every request, credentials among them.

        Raises:
            ConfigError: the URL or a header cannot be used.
        """
        url = check_base_url(base_url)
        host = url.hostname or ""
        if url.scheme == "http" and not self._allow_http and not is_loopback(host):
            raise ConfigError("base-url must be https; plain http shows the key and the mails to the network")
        tls = (self._tls or self._by_authorities) if url.scheme == "https" else None
        origin = Origin(host, url.port or (443 if tls else 80), tls)
        lines = {"Host": url.netloc, "User-Agent": "postman-mail", "Accept-Encoding": "identity", **(headers or {})}
        client = Client(
            origin,
            url.path.rstrip("/"),
            [_line(*line) for line in lines.items()],
            self._connect_timeout,
            self._keep_idle,
        )
        try:
            yield client
        finally:
            client.close()

    @cached_property
    def _by_authorities(self) -> ssl.SSLContext:
        tls = ssl.create_default_context()  # takes 20 ms, so only when somebody is asked by https
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        return tls


class Client:
    """Asks one vendor, any number of calls at once, each on a connection of its own. Made by a `ClientFactory`.

    Attributes:
        max_body: bytes that an answer may have.
    """

    def __init__(
        self,
        origin: Origin,
        prefix: str,
        headers: Sequence[tuple[bytes, bytes]],
        connect_timeout: float,
        keep_idle: float,
    ) -> None:
        self.max_body = MAX_BODY
        self._origin = origin
        self._prefix = prefix
        self._headers = headers
        self._connect_timeout = connect_timeout
        self._keep_idle = keep_idle
        self._idle: deque[Connection] = deque()
        self._closed = False

    async def post(
        self,
        path: str,
        *,
        attempt: Attempt | None,
        json: object = msgspec.UNSET,
        form: Sequence[tuple[str, str]] = (),
        files: Sequence[File] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask once, and return what the vendor answered, whatever the status.

        Args:
            path: below the base-url, beginning with a slash.
            attempt: gets its marks; None only for what hands over no mail.
            json: the body; bytes in it become base64.
            form: the body's fields when there is no `json`; sent as multipart/form-data.
            files: the files of the form.
            headers: of this request.

        Raises:
            TooLate: from the attempt; nothing was sent.
            ProviderUnavailable: surely not accepted.
            OutcomeUnknown: perhaps accepted.
        """
        if json is msgspec.UNSET:
            kind, body = multipart.encode(form, files)
        else:
            kind, body = "application/json", msgspec.json.encode(json)
        return await self._ask("POST", path, {"Content-Type": kind, **(headers or {})}, body, attempt)

    async def get(self, path: str, *, attempt: Attempt | None = None) -> Answer:
        """Ask a question that changes nothing; else as `post`."""
        return await self._ask("GET", path, {}, b"", attempt)

    def close(self) -> None:
        """Close what is idle now, and what becomes idle later."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, attempt: Attempt | None
    ) -> Answer:
        lines = [*self._headers, *(_line(*line) for line in headers.items()), (b"Content-Length", b"%d" % len(body))]
        request = h11.Request(method=method, target=self._prefix + path, headers=lines)
        if kept := self._take_idle():
            try:
                return await self._exchange(kept, request, body, attempt)
            except ProviderUnavailable:
                pass  # it was gone before the last byte: nobody can have accepted, and a fresh one may do
        fresh = await open_connection(self._origin, self._connect_timeout)
        return await self._exchange(fresh, request, body, attempt)

    async def _exchange(
        self, connection: Connection, request: h11.Request, body: bytes, attempt: Attempt | None
    ) -> Answer:
        try:
            if attempt:
                attempt.starting()
            try:
                await connection.send(request, body)
            except ProviderUnavailable as broken:
                return await connection.receive_refusal(broken)
            if attempt:
                attempt.handed_over()
            return await connection.receive(self.max_body)
        finally:
            self._give_back(connection)

    def _take_idle(self) -> Connection | None:
        """The connection that was used last, if it may be used again."""
        while self._idle:
            connection = self._idle.pop()
            if self._is_young(connection) and connection.alive():
                return connection
            connection.close()
        return None

    def _give_back(self, connection: Connection) -> None:
        while self._idle and not self._is_young(self._idle[0]):
            self._idle.popleft().close()
        if connection.reusable and not self._closed:
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            connection.close()

    def _is_young(self, connection: Connection) -> bool:
        limit = self._keep_idle if connection.keep is None else min(self._keep_idle, connection.keep / 2)
        return trio.current_time() - connection.idle_since < limit


def _line(name: str, value: str | Secret) -> tuple[bytes, bytes]:
    """A header line; checked here, because h11's complaint would show the value."""
    text = value.reveal() if isinstance(value, Secret) else value
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ConfigError(
            f"the header {name} would hold a character that HTTP forbids; is there a line end in a secret?"
        )
    return name.encode("ascii"), text.encode("ascii")
