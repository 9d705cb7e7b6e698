"""The PostgreSQL server that a URL names, and how to come in."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Annotated, Final

import msgspec
import psycopg
import trio
from psycopg.conninfo import make_conninfo

from postman.backends.postgres import checks
from postman.backends.postgres.connection import Connection, translated
from postman.backends.postgres.line import Side, Statements, open_line
from postman.backends.postgres.tables import migrate
from postman.errors import ConfigError

CONNECT_TIMEOUT: Final = 5
"""Seconds; a failover must not be waited for as long as a slow statement."""

_READ_ALL: Final = ("enable_seqscan", "enable_bitmapscan", "enable_mergejoin", "enable_hashjoin")
"""Ways of the server that end well only where most of a table is wanted."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[ -~]{1,63}\Z", description="1 to 63 characters of ASCII")]
"""PostgreSQL cuts longer names short, and two services might meet."""


class PostgresSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """A URL and what its query may say, for ledger and queue alike; see `Server` and libpq."""

    url: str
    schema: _Name = "postman"
    timeout: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 5.0  # PostgreSQL takes 0 ms for no limit
    sslmode: str = ""
    sslrootcert: str = ""
    passfile: str = ""


@dataclass(frozen=True)
class Server:
    """Where the tables are, and how to come there: directly, or through a pooler that keeps sessions apart.

    Attributes:
        url: postgresql://...; what it leaves open is taken from the environment (PGPASSFILE and the others).
        schema: ours alone; made when it is not there.
        timeout: seconds that the server may take for a statement, and half of it for a lock.
        options: further words of libpq, such as sslmode.
    """

    url: str
    schema: str = "postman"
    timeout: float = 5.0
    options: Mapping[str, str] = field(default_factory=dict)

    def connect(self, **settings: str) -> Connection:
        """A connection in our schema that neither side waits for without a limit.

        Args:
            settings: further parameters of the session.

        Raises:
            psycopg.Error: it cannot be reached, or is a replica.
            ConfigError: the URL is none.
        """
        milliseconds = int(self.timeout * 1_000)
        session = {
            "search_path": '"{}"'.format(self.schema.replace('"', '""')),
            "statement_timeout": str(milliseconds),
            "lock_timeout": str(milliseconds // 2),
            "idle_in_transaction_session_timeout": str(milliseconds),
            # We ask for little and by keys. A plan that was made while a table was small would read all of it later.
            **dict.fromkeys(_READ_ALL, "off"),
            "jit": "off",
            **settings,
        }
        name = f"postman {secrets.token_hex(8)}"
        connection = Connection.connect(self.conninfo(name), autocommit=True, prepare_threshold=2)
        try:
            connection.name = name
            connection.add_notice_handler(connection.hear)
            connection.patience = 1.5 * self.timeout + 1
            connection.execute(
                "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS session (name, value)",
                [list(session), list(session.values())],
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def connect_durable(self) -> Connection:
        """A connection on which what was committed has survived a power cut, whatever the server's default is."""
        connection = self.connect()
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        return connection

    @property
    def patience(self) -> float:
        """Seconds that a job may wait for its turn."""
        return 2 * self.timeout

    def conninfo(self, name: str) -> str:
        """For libpq; ConfigError when the URL is none."""
        kept: dict[str, str | int] = {
            "connect_timeout": ceil(min(self.timeout, CONNECT_TIMEOUT)),
            "target_session_attrs": "read-write",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            "client_encoding": "utf8",
            "application_name": name,
        }
        try:
            return make_conninfo(self.url, **{**kept, **self.options})
        except psycopg.ProgrammingError:  # its text may hold the password
            raise ConfigError(
                "this is no URL of PostgreSQL; write postgresql://USER@HOST:PORT/DATABASE, with the password in the"
                " file that PGPASSFILE names"
            ) from None


def server_of(settings: PostgresSettings) -> Server:
    """The server that settings name."""
    words = {word: getattr(settings, word) for word in ("sslmode", "sslrootcert", "passfile")}
    return Server(settings.url, settings.schema, settings.timeout, {word: said for word, said in words.items() if said})


def check(settings: PostgresSettings) -> None:
    """Raises ConfigError when they name no server."""
    server_of(settings).conninfo("check")


@asynccontextmanager
async def open_side(server: Server) -> AsyncGenerator[Side]:
    """A line beside those that letters wait for."""
    async with open_line(server.connect_durable, Statements(), server.patience, "lists") as side:
        yield side


async def prepare(server: Server, *, durable: bool) -> None:
    """Check the server and bring our tables to what this version knows.

    Args:
        server: which.
        durable: what is committed there must survive a power cut.

    Raises:
        StoreRefused: it is too old, may lose what it committed, or its tables are too new.
        StoreUnavailable: it does not answer.
        ConfigError: the URL is none.
    """
    await trio.to_thread.run_sync(_prepare, server, durable, limiter=trio.CapacityLimiter(1))


def _prepare(server: Server, durable: bool) -> None:  # noqa: FBT001  # trio passes no names
    try:
        with server.connect() as connection:
            checks.refuse_unfit(connection, durable=durable)
            checks.refuse_shared_sessions(connection, server.connect)
            checks.warn(connection, durable=durable)
            migrate(connection, server.schema)
    except psycopg.Error as error:
        raise translated(error) from error
