"""What a PostgreSQL server must be, and how its tables come to be there."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest
import trio

from postman.backends.postgres.server import PostgresSettings, Server, prepare
from postman.backends.postgres.tables import MIGRATIONS
from postman.errors import ConfigError, StoreRefused, StoreUnavailable
from postman.ledger import Claim, Filter, Instance, Overdue
from postman.row import State, Verb
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.postgres_server import PostgresServer
from postman.testing.postgres_stores import letter, opened


async def test_a_server_that_may_lose_commits_is_refused_as_a_ledger_and_taken_as_a_queue(
    mortal_postgres: PostgresServer,
) -> None:
    mortal_postgres.stop()
    mortal_postgres.start(fsync="off")
    server = Server(mortal_postgres.url)
    with pytest.raises(StoreRefused, match=r"fsync = off: a power cut may lose"):
        await prepare(server, durable=True)
    await prepare(server, durable=False)


async def test_letters_are_flushed_though_the_servers_default_is_not_to_wait(
    mortal_postgres: PostgresServer,
) -> None:
    mortal_postgres.stop()
    mortal_postgres.start(synchronous_commit="off")
    server, asked = Server(mortal_postgres.url), "SELECT current_setting('synchronous_commit')"
    with server.connect_durable() as durable:
        assert durable.execute(asked).fetchone() == ("on",)
    with server.connect(synchronous_commit="local") as connection:
        assert connection.execute(asked).fetchone() == ("local",)


async def test_tables_are_made_once_by_many_at_once_and_those_of_the_next_version_are_used(postgres: Server) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(partial(prepare, postgres, durable=True))
    with postgres.connect() as connection:
        for version in (1, 2):
            connection.execute("INSERT INTO migration (version, at) VALUES (%s, now())", [len(MIGRATIONS) + version])
            if version == 1:
                await prepare(postgres, durable=True)
    with pytest.raises(StoreRefused, match="newer Postman"):
        await prepare(postgres, durable=True)


async def test_a_letter_goes_its_whole_way_on_tables_to_which_the_next_version_has_added(postgres: Server) -> None:
    await prepare(postgres, durable=True)
    with postgres.connect() as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s", [postgres.schema]
        ).fetchall()
        for (table,) in tables:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN added integer NOT NULL DEFAULT 7".encode())
        connection.execute("CREATE TABLE another (added integer)")
        connection.execute("INSERT INTO migration (version, at) VALUES (%s, now())", [len(MIGRATIONS) + 1])
    async with opened(postgres) as (ledger, queue):
        sent, cancelled = letter(), letter()
        assert not (await ledger.accept([sent, cancelled], "shop", "key", b"body")).replayed
        assert (await ledger.accept([letter()], "shop", "key", b"body")).replayed
        leases = {lease.note and lease.note.id: lease for lease in [await queue.take() for _ in range(2)]}
        claim = await ledger.claim(sent.id, [LAMDA])
        assert isinstance(claim, Claim)
        assert (await ledger.finish(claim, ACCEPTED)).state is State.SENT
        await queue.ack(leases[sent.id])
        await queue.release(leases[cancelled.id])
        await ledger.act([cancelled.id], Verb.CANCEL, "olga")
        await queue.bury(await queue.take(), "cancelled")
        await ledger.pause("lamda", "olga")
        assert len(await ledger.pauses()) == len(await ledger.enrol(Instance(id="me", name="here", pid=1))) == 1
        assert (await ledger.statistics()).states == {State.SENT: 1, State.CANCELLED: 1}
        assert len(await ledger.find(Filter(), None, 10)) == 2
        assert await ledger.overdue(10) == Overdue()
        assert await ledger.sweep(10) == 0


def test_migrations_only_add() -> None:
    for statement in ";".join(MIGRATIONS).split(";"):
        assert statement.split()[:1] in ([], ["CREATE"]) or " ADD COLUMN " in statement, statement


async def test_a_server_that_is_not_there_is_no_reason_to_refuse_it_for_good() -> None:
    with pytest.raises(StoreUnavailable):
        await prepare(Server("postgresql://postgres@127.0.0.1:1/postgres"), durable=True)


async def test_a_url_that_cannot_be_read_is_told_without_its_password() -> None:
    with pytest.raises(ConfigError, match="no URL of PostgreSQL") as caught:
        await prepare(Server("postgresql://me:canary@[host/x"), durable=True)
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "said", [{"schema": ""}, {"schema": "a" * 64}, {"schema": "ä"}, {"schema": "a\n"}, {"timeout": 0.0004}]
)
def test_a_name_that_would_be_cut_short_and_a_timeout_that_would_be_none_are_refused(said: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"url": "postgresql:", **said}, PostgresSettings)
