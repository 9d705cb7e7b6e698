"""The PostgreSQL server that a URL names: how to come in, what it must promise, and the tables that we have there."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import psycopg
import structlog
import trio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from postman.backends.postgres.connection import Connection, translated
from postman.backends.postgres.line import Side, Statements, open_line
from postman.errors import ConfigError, StoreRefused

_log = structlog.get_logger()

OLDEST: Final = 140_000
CONNECT_TIMEOUT: Final = 5

MIGRATIONS: Final = (
    """
    CREATE TABLE letter (
        key bigint PRIMARY KEY, client text COLLATE "C" NOT NULL, accepted float8 NOT NULL, labels bytea NOT NULL,
        state smallint NOT NULL, due float8 NOT NULL, wake float8 NOT NULL, put boolean NOT NULL, row bytea NOT NULL
    );
    CREATE INDEX letter_state ON letter (state, key);
    CREATE INDEX letter_client ON letter (client, state, key);
    CREATE INDEX letter_due ON letter (put, due) WHERE state = 0;
    CREATE INDEX letter_aged ON letter (wake) WHERE state = 0;
    CREATE INDEX letter_lapsed ON letter (wake) WHERE state = 1;
    CREATE INDEX letter_doubtful ON letter (wake) WHERE state = 2;
    CREATE INDEX letter_ended ON letter (wake) WHERE state >= 4;
    CREATE TABLE body (key bigint PRIMARY KEY, letter bytea NOT NULL);
    CREATE TABLE label (hash bigint NOT NULL, key bigint NOT NULL, PRIMARY KEY (hash, key));
    CREATE TABLE idempotency (
        client text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, fingerprint bytea NOT NULL,
        ids text NOT NULL, at float8 NOT NULL, PRIMARY KEY (client, key)
    );
    CREATE INDEX idempotency_at ON idempotency (at);
    CREATE TABLE pause (provider text COLLATE "C" PRIMARY KEY, since float8 NOT NULL, who text NOT NULL);
    CREATE TABLE tally (slot smallint, name smallint, number bigint NOT NULL, PRIMARY KEY (slot, name))
        WITH (fillfactor = 50);
    CREATE TABLE note (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, lane smallint NOT NULL, due timestamptz NOT NULL,
        lease bigint, id text NOT NULL, size bigint NOT NULL, version integer NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
    CREATE INDEX note_due ON note (lane, due, seq);
    CREATE SEQUENCE lease;
    CREATE TABLE buried (at timestamptz NOT NULL, reason text NOT NULL, bytes bytea NOT NULL);
    """,
    """
    CREATE TABLE instance (id text COLLATE "C" PRIMARY KEY, at float8 NOT NULL, said bytea NOT NULL);
    """,
)
"""How to come from version n to n + 1. They only add, and a Postman of version n works on n + 1: a rolling upgrade."""


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
            "enable_seqscan": "off",
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
            "connect_timeout": CONNECT_TIMEOUT,
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
            _check(connection, durable=durable)
            _check_pooler(server, connection)
            _warn_of_eavesdroppers(connection)
            _migrate(connection, server.schema)
    except psycopg.Error as error:
        raise translated(error) from error


def _check(connection: Connection, *, durable: bool) -> None:
    if connection.info.server_version < OLDEST:
        raise StoreRefused(f"PostgreSQL {connection.info.server_version // 10_000} is too old; 14 is the oldest")
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise StoreRefused("the database does not store UTF8; create one with ENCODING 'UTF8'")
    for name in ("fsync", "full_page_writes") if durable else ():
        if connection.execute("SELECT current_setting(%s)", [name]).fetchone() != ("on",):
            raise StoreRefused(
                f"PostgreSQL runs with {name} = off: a power cut may lose mails that were promised, or all of them;"
                f" set {name} = on"
            )


def _check_pooler(server: Server, connection: Connection) -> None:
    """Refuse a pooler that gives a session to whoever has a transaction: what we set for ours would be others' too."""
    mine = _backend(connection)
    if mine == connection.info.backend_pid:
        return  # nobody stands between
    with server.connect() as other, other.transaction():
        shared = _backend(other) == mine or _backend(connection) != mine
    if shared:
        raise StoreRefused(
            "a pooler stands before PostgreSQL and shares its sessions, so that a commit may not be flushed; name the"
            " server itself, or a port of the pooler with pool_mode = session"
        )


def _warn_of_eavesdroppers(connection: Connection) -> None:
    if is_exposed(connection.info.hostaddr, encrypted=connection.pgconn.ssl_in_use):
        _log.warning(
            "mails travel to PostgreSQL unencrypted; add ?sslmode=verify-full to the url, and sslrootcert=FILE for a"
            " certificate of your own",
            server=connection.info.host,
        )


def is_exposed(address: str, *, encrypted: bool) -> bool:
    """Whether others may read what goes to a server; no address: a socket in the file system."""
    return not encrypted and address != "" and not ipaddress.ip_address(address).is_loopback


def _backend(connection: Connection) -> object:
    return connection.execute("SELECT pg_backend_pid()").fetchall()[0][0]


def _migrate(connection: Connection, schema: str) -> None:
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('postman ' || %s, 0))", [schema])
        if connection.execute("SELECT to_regnamespace(quote_ident(%s)) IS NULL", [schema]).fetchone() == (True,):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        if connection.execute("SELECT to_regclass('migration') IS NULL").fetchone() == (True,):
            connection.execute("CREATE TABLE migration (version integer PRIMARY KEY, at timestamptz NOT NULL)")
        row = connection.execute("SELECT coalesce(max(version), 0) FROM migration").fetchone()
        version = 0 if row is None else row[0]
        if version > len(MIGRATIONS) + 1:
            raise StoreRefused(
                f"the tables in schema {schema} were made by a newer Postman (theirs is version {version}, this one"
                f" knows {len(MIGRATIONS)}); they were not touched. Run the newer one"
            )
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            connection.execute(statements)
            connection.execute("INSERT INTO migration (version, at) VALUES (%s, now())", [number])
