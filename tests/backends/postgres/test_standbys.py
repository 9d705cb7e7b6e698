"""Standbys: what they have not confirmed is not done, and that nobody waits for them is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import psycopg
import pytest
import trio
from structlog.testing import capture_logs

from postman.backends.postgres.ledger import PostgresLedger
from postman.backends.postgres.server import Server, prepare
from postman.errors import StoreUnavailable
from postman.ledger import Claim
from postman.movable import Stored, UsedKey
from postman.row import Policy, State, present
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.postgres_server import PostgresServer
from postman.testing.postgres_stores import letter, opened
from postman.transitions import accepted_row

WAITED_FOR = "synchronous_standby_names"
UNCONFIRMED = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def test_what_no_standby_confirmed_is_not_taken_for_done_whoever_asks_again(
    mortal_postgres: PostgresServer,
) -> None:
    async with opened(Server(mortal_postgres.url, timeout=0.5)) as (ledger, queue):
        claimed, lost = letter(), letter()
        await ledger.accept([claimed], "shop", None, b"")
        mortal_postgres.configure(WAITED_FOR, "nobody")
        claim = partial(ledger.claim, claimed.id, [LAMDA], owner="me")
        with pytest.raises(StoreUnavailable, match="did not answer in time") as caught:
            await ledger.accept([lost], "shop", "key", b"")
        assert caught.value.may_have_happened
        await unconfirmed(mortal_postgres, partial(ledger.accept, [letter()], "shop", "key", b""))
        await unconfirmed(mortal_postgres, partial(ledger.read, lost.id, None))
        for _ in range(2):
            await unconfirmed(mortal_postgres, claim)
        assert await ledger.statistics(), "people are answered"
        with trio.fail_after(5):
            await queue.ack(await queue.take())
        mortal_postgres.configure(WAITED_FOR, "")
        assert (await ledger.accept([letter()], "shop", "key", b"")).ids == (lost.id,)
        assert await ledger.read(lost.id, None)
        given = await claim()
        assert isinstance(given, Claim)
        assert (given.fence, (await ledger.finish(given, ACCEPTED)).state) == (1, State.SENT)


async def test_what_is_imported_waits_for_standbys_the_second_time_as_well(mortal_postgres: PostgresServer) -> None:
    one, now = letter(), present()
    stored = Stored(accepted_row(one, "shop", 100, Policy(), now), one)
    async with opened(Server(mortal_postgres.url)) as (ledger, _):
        mortal_postgres.configure(WAITED_FOR, "nobody")
        for act in (
            partial(ledger.take_in, [stored]),
            partial(ledger.take_keys, [UsedKey("shop", "key", b"", (one.id,), now.wall)]),
            partial(ledger.pause, "lamda", "olga"),
        ):
            for _ in range(2):
                await unconfirmed(mortal_postgres, act)
        mortal_postgres.configure(WAITED_FOR, "")
        assert (await kept(ledger)) == ({one.id}, "key")


async def kept(ledger: PostgresLedger) -> tuple[set[str], str]:
    """The letters that are there, and the key."""
    [key], _ = await ledger.keys("", 10)
    return set(await ledger.letters(key.ids)), key.key


async def unconfirmed(server: PostgresServer, act: Callable[[], Awaitable[object]]) -> None:
    """`act`, whose wait for standbys is cancelled as an operator may: the server takes the commit for done then."""

    def cancel() -> None:
        server.wait_for(UNCONFIRMED)
        server.execute(UNCONFIRMED.replace("pid", "pg_cancel_backend(pid)", 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, cancel)
        with pytest.raises(StoreUnavailable, match="no standby confirmed") as caught:
            await act()
    assert caught.value.may_have_happened


async def test_standbys_that_nobody_waits_for_are_warned_of(mortal_postgres: PostgresServer) -> None:
    server = Server(mortal_postgres.url)
    assert await warnings(server) == []
    with psycopg.connect(f"{mortal_postgres.url}?replication=true", autocommit=True):
        mortal_postgres.wait_for("SELECT FROM pg_stat_replication")
        [warning] = await warnings(server)
        assert "standbys and does not wait for them" in warning
        assert await warnings(server, durable=False) == [], "a queue's notes can be made again"
        mortal_postgres.configure(WAITED_FOR, "somebody")
        assert await warnings(server) == []
        mortal_postgres.configure("synchronous_commit", "local")
        assert await warnings(server) == [warning]


async def warnings(server: Server, *, durable: bool = True) -> list[str]:
    """What is logged at start."""
    with capture_logs() as lines:
        await prepare(server, durable=durable)
    return [line["event"] for line in lines if line["log_level"] == "warning"]
