"""Our tables in PostgreSQL, and how they came to be."""

from __future__ import annotations

from typing import Final

from psycopg import sql

from postman.backends.postgres.connection import Connection
from postman.errors import StoreRefused

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


def migrate(connection: Connection, schema: str) -> None:
    """Bring our tables to what this version knows; `StoreRefused` when a newer one made them."""
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
