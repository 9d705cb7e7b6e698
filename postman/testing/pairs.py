"""The pairs of ledger and queue that may start, what each promises, and the table that says so."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec


class Server(Protocol):
    """What a test starts for itself."""

    def place(self, name: str) -> str:
        """The URL of an empty place, as postman.toml has it."""
        ...


class Places:
    """Empty places on the engines.

    Args:
        server: of an engine; asked for each time.
    """

    def __init__(self, server: Callable[[str], Server]) -> None:
        self._server = server

    def url(self, engine: str) -> str:
        """Of a place that nobody else knows."""
        name = f"postman_{secrets.token_hex(4)}"
        match engine:
            case "memory":
                return "memory:"
            case "sqlite":
                return f"sqlite:{name}.db"
            case _:
                return self._server(engine).place(name)


class Pair(msgspec.Struct, frozen=True):
    """A ledger and a queue, by the schemes of their URLs.

    Attributes:
        one: they are on one URL: opened once, and a letter and its note are one transaction.
    """

    ledger: str
    queue: str
    one: bool = False

    def __str__(self) -> str:
        return self.ledger if self.one else f"{self.ledger} + {self.queue}"

    @property
    def served(self) -> bool:
        """Whether a server keeps the ledger."""
        return self.ledger in {"postgresql", "redis"}

    @property
    def durable(self) -> bool:
        """Whether a promise outlives the process."""
        return self.ledger != "memory"

    def urls(self, places: Places) -> tuple[str, str]:
        """Of the ledger and of the queue, both empty."""
        ledger = places.url(self.ledger)
        return ledger, ledger if self.one else places.url(self.queue)


PAIRS: Final = (
    Pair("sqlite", "sqlite", one=True),
    Pair("sqlite", "sqlite"),
    Pair("sqlite", "memory"),
    Pair("postgresql", "postgresql", one=True),
    Pair("postgresql", "postgresql"),
    Pair("postgresql", "redis"),
    Pair("postgresql", "sqs"),
    Pair("postgresql", "sqlite"),
    Pair("postgresql", "memory"),
    Pair("redis", "redis", one=True),
    Pair("redis", "redis"),
    Pair("redis", "postgresql"),
    Pair("redis", "sqs"),
    Pair("redis", "sqlite"),
    Pair("redis", "memory"),
    Pair("memory", "memory"),
)

_KEPT = "nothing lost"
PROMISES: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "sqlite": (_KEPT, "", _KEPT, "no"),
    "postgresql": (_KEPT, _KEPT, "as `fsync` and `synchronous_commit` say", "yes"),
    "redis": (_KEPT, _KEPT, "as `appendfsync` says", "yes"),
    "memory": ("all lost, and status says so", "", "all lost", "no"),
}
"""By the ledger, which alone holds the truth: `kill -9` of Postman, of the store, a power cut, several processes."""

COLUMNS: Final = (
    "kills",
    "acked",
    "accepted",
    "told",
    "lost",
    "unexpected",
    "doubled, hold",
    "doubled, resend",
    "recovered",
)


def table(figures: Mapping[Pair, Sequence[int]]) -> str:
    """What was promised and what was found, in Markdown; a number for each of `COLUMNS`."""
    promises = ("ledger + queue", "`kill -9` of Postman", "of the store", "power cut", "several processes")
    lines = [_line([*promises, *COLUMNS]), "|---" * len(promises) + "|---:" * len(COLUMNS) + "|"]
    for pair, numbers in figures.items():
        lines.append(_line([f"`{pair}`", *PROMISES[pair.ledger], *(f"{number:,}" for number in numbers)]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
