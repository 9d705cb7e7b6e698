"""postman.toml as values. Kebab-case, seconds and bytes; unknown keys are refused with file, table and cure.

Every number here has a bound, so that a slip of the pen is found at start and not at night. `load` reads the file and
tells every mistake at once; nothing is opened.
"""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from postman.errors import ConfigError
from postman.host import is_loopback, split_port
from postman.mail import OnDoubt
from postman.table import Place, Reader, read_safely

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

Name = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z", description="1 to 64 of A-Z, a-z, 0-9, dot, dash, underscore"),
]
Domain = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+\Z", description="a domain in lower case, or in its xn-- form"),
]
Digest = Annotated[
    str,
    msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hex digits, as `postman key new` prints them"),
]
Moment = Annotated[
    datetime, msgspec.Meta(tz=True, description="a time with its offset, without quotes: 2027-01-01T00:00:00Z")
]
Scope = Literal["send", "read", "cancel", "admin"]
USUAL_SCOPES: tuple[Scope, ...] = ("send", "read", "cancel")
"""What a client's key may do, unless it says something else."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """A table of postman.toml."""


class Key(_Table, frozen=True, kw_only=True):
    """`[[http.key]]`: a client's key, known by its SHA-256 alone."""

    name: Name
    sha256: Digest
    scopes: frozenset[Scope] = frozenset(USUAL_SCOPES)
    from_: frozenset[Domain] = msgspec.field(name="from", default=frozenset())
    rate: Positive | None = None
    expires: Moment | None = None


class Http(_Table, frozen=True, kw_only=True):
    """`[http]`: the way in."""

    bind: str = "127.0.0.1:8901"
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 10
    max_recipients: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    max_body: Annotated[int, msgspec.Meta(ge=1_024)] = 31_457_280
    max_bodies: Annotated[int, msgspec.Meta(ge=1_024)] = 268_435_456
    max_connections: Count = 1_000
    header_timeout: Positive = 10.0
    body_timeout: Positive = 60.0
    idle_timeout: Positive = 60.0
    fair_burst: Count = 100
    fair_rate: Positive = 10.0
    key: tuple[Key, ...] = ()


class LedgerTable(_Table, frozen=True, kw_only=True):
    """`[ledger]`: the truth."""

    url: Annotated[str, msgspec.Meta(description="one URL, such as sqlite:postman.db")] = "sqlite:postman.db"
    retention: Positive = 2_592_000.0
    key_retention: Positive = 259_200.0


class QueueTable(_Table, frozen=True, kw_only=True):
    """`[queue]`: the wake-up."""

    url: str | tuple[str, ...] | None = None
    visibility_timeout: Positive = 60.0
    max_length: Count = 1_000_000


class DeliveryTable(_Table, frozen=True, kw_only=True):
    """`[delivery]`: the way out."""

    workers: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    grace: NotNegative = 30.0
    timeout: Positive = 25.0
    max_attempts: Count = 8
    give_up_after: Positive = 172_800.0
    on_doubt: OnDoubt = OnDoubt.HOLD
    resend_after: NotNegative = 60.0
    doubt_patience: NotNegative = 3_600.0
    max_in_flight_bytes: Count = 268_435_456


class ProviderTable(_Table, frozen=True, kw_only=True):
    """`[[provider]]`: one account at one vendor."""

    name: Name
    plugin: str
    weight: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 1
    rate: Positive | None = None
    max_concurrent: Count | None = None
    timeout: Positive | None = None
    from_domains: frozenset[Domain] = frozenset()
    suppressed: Literal["reject", "fail-over"] = "reject"
    settings: dict[str, Any] = {}


class Config(_Table, frozen=True, kw_only=True):
    """The whole of postman.toml."""

    node: Annotated[int, msgspec.Meta(ge=0, le=1_023)] | None = None
    http: Http = Http()
    ledger: LedgerTable = LedgerTable()
    queue: QueueTable = QueueTable()
    delivery: DeliveryTable = DeliveryTable()
    provider: tuple[ProviderTable, ...] = ()

    @property
    def queue_urls(self) -> tuple[str, ...]:
        """Of all queues: one is where the ledger is, if `[queue]` names none."""
        url = self.queue.url
        if url is None:
            return (self.ledger.url,)
        return (url,) if isinstance(url, str) else url


Only = Literal["http", "workers"]
"""A part of the service, run without the other: the way in, or the way out with the clerk."""

SMALLEST = """\
[[provider]]
name = "lamda"
plugin = "lamda"
"""
"""The smallest postman.toml: everything by default, and a fake that delivers nothing."""


@dataclass(frozen=True)
class Loaded:
    """postman.toml as it was read, and what the command line said beside it.

    Attributes:
        config: with absolute paths.
        path: of the file, absolute.
        bind: takes the place of the file's.
        only: the part of the service that this process is; None: all of it.
    """

    config: Config
    path: Path
    bind: str | None = None
    only: Only | None = None

    def again(self) -> Loaded:
        """The file as it is now, see `load`."""
        return load(self.path, bind=self.bind, only=self.only)

    @property
    def bind_place(self) -> str:
        """Where the address to listen at was written, for messages."""
        if self.bind is not None:
            return f"--bind {self.bind} (or POSTMAN_BIND)"
        return f'{self.place.under("http")}: bind = "{self.config.http.bind}"'

    @property
    def directory(self) -> Path:
        """What relative paths in the file are relative to."""
        return self.path.parent

    @property
    def place(self) -> Place:
        """The file, for messages."""
        return Place(self.path.name)


def load(path: Path, *, bind: str | None = None, only: Only | None = None) -> Loaded:
    """Read postman.toml. Opens nothing else; settings of providers and secrets are read by `postman.registry`.

    Args:
        path: of the file.
        bind: in place of the file's, see `Loaded`.
        only: see `Loaded`.

    Raises:
        ConfigError: a line for each mistake, with file, table and cure.
    """
    path = path.absolute()
    reader = Reader(path.parent)
    config = reader.read(Config, _raw(path), Place(path.name))
    if config:
        config = _with_whole_urls(config, path.parent)
        if bind is not None:
            config = msgspec.structs.replace(config, http=msgspec.structs.replace(config.http, bind=bind))
        _cross_check(Loaded(config, path, bind, only), reader)
    return Loaded(reader.checked(config), path, bind, only)


def bind_of(path: Path) -> str:
    """Where a service with this file listens, whatever else is wrong in it: one that runs goes on with what it read.

    Raises:
        ConfigError: there is no such file, or no TOML in it.
    """
    http = _raw(path.absolute()).get("http")
    return str(http.get("bind", Http().bind) if isinstance(http, dict) else Http().bind)


def _raw(path: Path) -> dict[str, Any]:
    if not os.path.exists(path):  # noqa: PTH110  # Path.exists raises for a name that is too long
        raise ConfigError(f"{path} does not exist. --config PATH names another. A smallest one is:\n\n{SMALLEST}")
    try:
        return tomllib.loads(read_safely(path))
    except (ValueError, RecursionError) as error:  # also for 5,000 digits, or deep nesting
        raise ConfigError(f"{path.name}: not TOML: {error}") from None


def _with_whole_urls(config: Config, directory: Path) -> Config:
    queue = config.queue
    if queue.url is not None:
        urls = tuple(_whole_url(url, directory) for url in config.queue_urls)
        queue = msgspec.structs.replace(queue, url=urls[0] if len(urls) == 1 else urls)
    ledger = msgspec.structs.replace(config.ledger, url=_whole_url(config.ledger.url, directory))
    return msgspec.structs.replace(config, ledger=ledger, queue=queue)


def _whole_url(url: str, directory: Path) -> str:
    scheme, _, path = url.partition(":")
    return f"sqlite:{directory / path}" if scheme == "sqlite" and path and not path.startswith("//") else url


def _cross_check(loaded: Loaded, reader: Reader) -> None:
    config, place = loaded.config, loaded.place
    http, ledger, queue = map(place.under, ("http", "ledger", "queue"))
    reader.mistakes += [f"{loaded.bind_place} {mistake}" for mistake in _bind_mistakes(config.http)]
    if config.http.max_bodies < config.http.max_body:
        reader.note(http, "max-bodies is smaller than max-body: the largest mails would never be taken")
    in_queue = () if config.queue.url is None else config.queue_urls
    for url, table in ((config.ledger.url, ledger), *((url, queue) for url in in_queue)):
        if ":" not in url:
            reader.note(table, f'url = "{url}" has no scheme, such as memory: or sqlite:postman.db')
    for mistake in _queue_mistakes(config):
        reader.note(queue, mistake)
    if config.ledger.key_retention > config.ledger.retention:
        reader.note(ledger, "key-retention is longer than retention: a key would outlive its mails")
    if not config.provider:
        reader.note(place, f"there is no [[provider]], so nothing can be sent. A smallest one is:\n\n{SMALLEST}")
    for name in _doubled(table.name for table in config.provider):
        reader.note(place, f'several [[provider]] have name = "{name}"; each needs one of its own')
    for digest in _doubled(key.sha256 for key in config.http.key):
        reader.note(place, f'several [[http.key]] have sha256 = "{digest[:8]}..."; each needs one of its own')


def _queue_mistakes(config: Config) -> Iterator[str]:
    urls = config.queue_urls
    if not urls:
        yield "url = [] names no queue; leave it out to have the queue where the ledger is"
    for url in _doubled(urls):
        yield f"url names the queue [{urls.index(url)}] several times; name each once"
    if len(urls) > 1 and config.ledger.url in urls and config.ledger.url.startswith("sqlite:"):
        yield f'url: "{config.ledger.url}" is the file of the ledger; several queues need files of their own'


def _bind_mistakes(http: Http) -> Iterator[str]:
    try:
        host, _ = split_port(http.bind)
    except ValueError as error:
        yield str(error)
        return
    if not http.key and not is_loopback(host):
        yield "can be reached from other machines, and there is no [[http.key]]; `postman key new NAME` makes one"


def _doubled(words: Iterable[str]) -> list[str]:
    return [word for word, times in Counter(words).items() if times > 1]
