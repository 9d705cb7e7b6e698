"""What a server must be so that what it confirmed is not lost, asked at start; and what slows it, asked ever again."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

import psycopg
import structlog

from postman.backends.postgres.connection import Connection
from postman.errors import StoreRefused

OLDEST: Final = 140_000
OLD = 100_000
"""Transactions; while somebody may still look at what so many of them changed, nothing of it can be cleaned up."""

_log = structlog.get_logger()


def refuse_unfit(connection: Connection, *, durable: bool) -> None:
    """Raise `StoreRefused` for a server that is too old, or may lose in a power cut what must be `durable`."""
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


def refuse_shared_sessions(connection: Connection, connect: Callable[[], Connection]) -> None:
    """Refuse a pooler that gives a session to whoever has a transaction: what we set for ours would be others' too."""
    mine = _backend(connection)
    if mine == connection.info.backend_pid:
        return  # nobody stands between
    with connect() as other, other.transaction():
        shared = _backend(other) == mine or _backend(connection) != mine
    if shared:
        raise StoreRefused(
            "a pooler stands before PostgreSQL and shares its sessions, so that a commit may not be flushed; name the"
            " server itself, or a port of the pooler with pool_mode = session"
        )


def _backend(connection: Connection) -> object:
    return connection.execute("SELECT pg_backend_pid()").fetchall()[0][0]


def warn(connection: Connection, *, durable: bool) -> None:
    """Log who may read our mails, and what a failover would lose of them."""
    host = connection.info.host
    if is_exposed(connection.info.hostaddr, encrypted=connection.pgconn.ssl_in_use):
        _log.warning(
            "mails travel to PostgreSQL unencrypted; add ?sslmode=verify-full to the url, and sslrootcert=FILE for a"
            " certificate of your own",
            server=host,
        )
    if durable and connection.execute(_FORGETFUL).fetchall():
        _log.warning(
            "PostgreSQL has standbys and does not wait for them: one that takes its place forgets the last mails, and"
            " that others were sent; set synchronous_standby_names, and synchronous_commit = on",
            server=host,
        )


_FORGETFUL: Final = """
SELECT FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'
AND (current_setting('synchronous_standby_names') = '' OR current_setting('synchronous_commit') = 'local')
"""
"""What a session of ours sets is no matter: it waits, unless the server's default is `local`."""


def is_exposed(address: str, *, encrypted: bool) -> bool:
    """Whether others may read what goes to a server; no address: a socket in the file system."""
    return not encrypted and address != "" and not ipaddress.ip_address(address).is_loopback


def troubles(connection: psycopg.Connection) -> tuple[str, ...]:
    """A sentence about who keeps the server from cleaning up behind us, so that everything gets slower and larger."""
    return tuple(
        f"PostgreSQL cannot clean up, and gets slower and larger, because {holder} is open{since}; `{cure}` ends that."
        for holder, since, cure in connection.execute(_HOLDERS, [OLD])
    )


_HOLDERS: Final = """
SELECT holder, coalesce(to_char(since, '" since "YYYY-MM-DD HH24:MI'), ''), cure FROM (
    SELECT format('a transaction of session %%s (%%s)', pid, application_name), xact_start,
        format('SELECT pg_terminate_backend(%%s)', pid), greatest(age(backend_xmin), age(backend_xid))
    FROM pg_stat_activity
    WHERE usesysid IS NOT NULL AND coalesce(datname, current_database()) = current_database()
        AND application_name NOT LIKE 'postman %%'
    UNION ALL
    SELECT format('the prepared transaction %%s', gid), prepared, format('ROLLBACK PREPARED %%L', gid), age(transaction)
    FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT format('the replication slot %%s', slot_name), NULL,
        format('SELECT pg_drop_replication_slot(%%L)', slot_name), age(xmin)
    FROM pg_replication_slots
) AS found (holder, since, cure, age) WHERE age > %s ORDER BY age DESC, since LIMIT 1
"""
"""A session without a database is a standby's. Autovacuum, which is nobody's, keeps nothing; ours the server ends."""
