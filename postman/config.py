"""postman.toml as values. Kebab-case, seconds and bytes; unknown keys are refused with file, table and cure.

Every number here has a bound, so that a slip of the pen is found at start and not at night.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from postman.mail import OnDoubt

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

Scope = Literal["send", "read", "cancel", "admin"]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """A table of postman.toml."""


class Key(_Table, frozen=True, kw_only=True):
    """`[[http.key]]`: a client's key, known by its SHA-256 alone."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    scopes: frozenset[Scope] = frozenset({"send", "read", "cancel"})
    from_: frozenset[str] = msgspec.field(name="from", default=frozenset())
    rate: Positive | None = None


class Http(_Table, frozen=True, kw_only=True):
    """`[http]`: the way in."""

    bind: str = "127.0.0.1:8901"
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 10
    max_recipients: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    max_body: Annotated[int, msgspec.Meta(ge=1_024)] = 31_457_280
    max_connections: Count = 1_000
    header_timeout: Positive = 10.0
    body_timeout: Positive = 60.0
    idle_timeout: Positive = 60.0
    key: tuple[Key, ...] = ()


class LedgerTable(_Table, frozen=True, kw_only=True):
    """`[ledger]`: the truth."""

    url: str = "sqlite:postman.db"
    retention: Positive = 2_592_000.0
    key_retention: Positive = 259_200.0


class QueueTable(_Table, frozen=True, kw_only=True):
    """`[queue]`: the wake-up."""

    url: str | None = None
    visibility_timeout: Positive = 60.0
    max_length: Count = 1_000_000


class Delivery(_Table, frozen=True, kw_only=True):
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

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    plugin: str
    weight: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 1
    rate: Positive | None = None
    max_concurrent: Count | None = None
    timeout: Positive | None = None
    from_domains: frozenset[str] = frozenset()
    suppressed: Literal["reject", "fail-over"] = "reject"
    settings: dict[str, Any] = {}


class Config(_Table, frozen=True, kw_only=True):
    """The whole of postman.toml."""

    node: Annotated[int, msgspec.Meta(ge=0, le=1_023)] | None = None
    http: Http = Http()
    ledger: LedgerTable = LedgerTable()
    queue: QueueTable = QueueTable()
    delivery: Delivery = Delivery()
    provider: tuple[ProviderTable, ...] = ()
