"""Who may do what: API keys, their scopes and rates. A key is known here by its SHA-256 alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import msgspec

from postman.bucket import Bucket
from postman.config import USUAL_SCOPES, Key, Scope
from postman.http.reader import Fault
from postman.mail import Mail

PREFIX = "pm_live_"
SOON = 1_209_600.0
"""Seconds before its end from which on a key is worth a sentence."""

_RANDOM = 21
_TOKEN = re.compile(rf"{PREFIX}([a-z2-7]{{40}})", re.ASCII)
_NOBODY = "0" * 64


class Client(msgspec.Struct, frozen=True):
    """Who asks, as far as a key tells.

    Attributes:
        name: of the client; several keys may share it.
        scopes: what it may do; `admin` includes the others.
        domains: that it may send from, as A-labels; empty: any.
        expires: when this key is over.
    """

    name: str
    scopes: frozenset[Scope]
    domains: frozenset[str] = frozenset()
    expires: datetime | None = None

    @property
    def admin(self) -> bool:
        """Whether it may do everything, to everybody's letters."""
        return "admin" in self.scopes

    def may(self, scope: Scope) -> bool:
        """Whether it may do what needs `scope`."""
        return self.admin or scope in self.scopes

    def wrong_senders(self, mails: Sequence[Mail]) -> list[Fault]:
        """The mails of a request whose From is at a domain that it may not send from."""
        if not self.domains:
            return []
        message = f"is not at a domain that this key may send from: {', '.join(sorted(self.domains))}"
        wrong = [i for i, mail in enumerate(mails) if mail.from_.domain not in self.domains]
        return [Fault(f"[{i}].from.email", message) for i in wrong]


LOCAL = Client("local", frozenset({"admin"}))
"""Who asks when no key is configured: a program of this machine."""


class Keyring:
    """The keys of postman.toml, and how much each client may send now.

    Args:
        keys: none: every request is `LOCAL`'s.
        batch: mails that one request may hold; a client can always send so many at once.
        clock: seconds, monotonic.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        batch: int = 10,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._batch = batch
        self._clock = clock
        self._wall = wall
        self._buckets: dict[str, Bucket] = {}
        self.replace(keys)

    def replace(self, keys: Sequence[Key]) -> None:
        """Use these keys from now on. What a client has already sent counts on, if its rate did not change."""
        self._clients = {key.sha256: Client(key.name, key.scopes, key.from_, key.expires) for key in keys}
        rates: dict[str, float] = {}
        for key in keys:
            if key.rate is not None:  # the keys of one client share one rate, the lowest
                rates[key.name] = min(key.rate, rates.get(key.name, math.inf))
        old = self._buckets
        self._buckets = {
            name: old[name]
            if name in old and old[name].rate == rate
            else Bucket(rate, max(rate, self._batch), self._clock)
            for name, rate in rates.items()
        }

    @property
    def open(self) -> bool:
        """Whether no key is configured, so that whoever reaches the port may do everything."""
        return not self._clients

    @property
    def several(self) -> bool:
        """Whether there is more than one client."""
        return len({client.name for client in self._clients.values()}) > 1

    def authenticate(self, authorization: str | None) -> Client | None:
        """Whose request it is; None: nobody's that is known.

        Takes as long for a key that is unknown as for one that is known. Text that is no key of ours is refused without
        hashing.

        Args:
            authorization: the value of the header, `Bearer pm_live_...`.
        """
        if self.open:
            return LOCAL
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not is_token(token):
            return None
        digest = hashlib.sha256(token.encode()).hexdigest()
        client = self._clients.get(digest)  # chance decides a digest, so its bytes cannot be guessed one by one
        known = hmac.compare_digest(digest, digest if client else _NOBODY)
        return client if known else None

    def is_over(self, client: Client) -> bool:
        """Whether the key that this client came with has expired."""
        return client.expires is not None and client.expires.timestamp() <= self._wall()

    def sentences(self) -> Iterator[str]:
        """Which keys are over, or will be soon."""
        for client in self._clients.values():
            if client.expires is not None and client.expires.timestamp() <= self._wall() + SOON:
                verb = "expired" if self.is_over(client) else "expires"
                yield f"A key of {client.name} {verb} at {client.expires.isoformat()}; `postman key new` makes another."

    def spend(self, client: Client, mails: int) -> float:
        """Count `mails` as sent by `client`, and answer 0; or count nothing, and answer the seconds to wait.

        More mails than a client may ever send at once are granted when its rate is unused, and paid for later.
        """
        bucket = self._buckets.get(client.name)
        if bucket is None:
            return 0.0
        wait = bucket.seconds_until(mails)
        if not wait:
            bucket.spend(mails)
        return wait


class NewKey(msgspec.Struct, frozen=True):
    """A key that was just made.

    Attributes:
        token: the key; to be shown once and kept nowhere.
        toml: its lines for postman.toml.
    """

    token: str
    toml: str


def new_key(name: str, expires: datetime | None = None, scopes: Sequence[str] = USUAL_SCOPES) -> NewKey:
    """Make a key for `name`: 168 random bits and their checksum, so that a scanner recognises a key that leaked."""
    random = secrets.token_bytes(_RANDOM)
    token = PREFIX + base64.b32encode(random + _checksum(random)).decode().lower()
    digest = hashlib.sha256(token.encode()).hexdigest()
    granted = ", ".join(f'"{scope}"' for scope in scopes)
    toml = f'[[http.key]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = [{granted}]\n'
    if expires is not None:
        toml += f"expires = {expires.isoformat(timespec='seconds')}\n"
    return NewKey(token, toml)


def is_token(text: str) -> bool:
    """Whether `text` has the form of a key and its checksum is right."""
    match = _TOKEN.fullmatch(text)
    if not match:
        return False
    raw = base64.b32decode(match[1].upper())
    return raw[_RANDOM:] == _checksum(raw[:_RANDOM])


def _checksum(random: bytes) -> bytes:
    return zlib.crc32(random).to_bytes(4)
