"""What a plugin registers: a frozen value that says how one thing named in postman.toml is configured and opened."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from postman.wire import ClientFactory


class ProviderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """Base for the settings of a provider plugin: frozen, kebab-case in postman.toml, unknown names refused."""


@dataclass(frozen=True)
class Surroundings:
    """What a kind is given when it is opened.

    Attributes:
        name: the name in postman.toml.
        workers: how many calls may be under way at once; size pools by it.
        timeout: seconds that one call may take.
        client: the one factory of HTTP clients, see `postman.wire`.
    """

    name: str
    workers: int
    timeout: float
    client: ClientFactory


def _no_account(_settings: object) -> str:
    return ""


def _no_check(_settings: object) -> None:
    return None


@dataclass(frozen=True)
class Kind[S: msgspec.Struct, T]:
    """One kind of provider, ledger or queue.

    Attributes:
        name: the entry point's name, and the word in postman.toml (`plugin = "..."`, or the scheme of a URL).
        settings: what its settings are; a frozen struct that forbids unknown fields.
        open: acquires; leaving the block gives everything back. Must not block the loop.
        check: for ledgers and queues: raises ConfigError for settings with which `open` must fail, such as a URL that
            is none, or a directory that is not there. Looks at this machine, asks nobody, changes nothing.
        account: for providers: base URL and the vendor's account, never a secret; two configurations of one account
            give the same text. Doubt is resolved only where the account is the same.
        marks: for providers: True when every call makes `Attempt.starting` before its first byte (whatever goes through
            `Surroundings.client` does). Then an unexpected exception before the mark is known to have sent nothing.
        open_both: for ledgers whose store is a queue too: opens ledger and queue on one URL, with the settings of both.
        delivers: for providers: False for fakes, of which `GET /status` says loudly that nothing is delivered.
        durable: for ledgers and queues: False when they end with the process.
        shared: for ledgers and queues: several processes may use one.
        features: for providers: what of a mail it carries, see `FEATURES`.
    """

    name: str
    settings: type[S]
    open: Callable[[S, Surroundings], AbstractAsyncContextManager[T]]
    check: Callable[[S], object] = _no_check
    account: Callable[[S], str] = _no_account
    marks: bool = False
    delivers: bool = True
    open_both: Callable[[S, Any, Surroundings], AbstractAsyncContextManager[Any]] | None = None
    durable: bool = True
    shared: bool = False
    features: frozenset[str] = field(default_factory=frozenset)


ONLY_FAKES = "Only fake providers are configured: nothing is delivered. Add a real [[provider]] to postman.toml."
"""What a person is told when no provider delivers."""

FEATURES = (
    "text",
    "html",
    "cc-bcc",
    "reply-to",
    "several-reply-to",
    "attachments",
    "inline-images",
    "headers",
    "tags",
    "metadata",
    "live-check",
)
"""The features of a mail that the table in plugins/README.md is made of."""
