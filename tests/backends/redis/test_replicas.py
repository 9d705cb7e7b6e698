"""A replica takes the place of its primary: what it did not have is lost, unless `wait` says to wait for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import structlog.testing
import trio

from postman.backends.redis.address import Address
from postman.backends.redis.client import Script, open_client
from postman.backends.redis.ledger import redis_ledger
from postman.errors import StoreUnavailable
from postman.ledger import ALL, Claim
from postman.mail import Id
from postman.row import Policy, State
from postman.testing.check_ledger import Scene
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.redis_server import RedisServer, redis_server
from postman.testing.standing_clock import StandingClock
from postman.testing.tcp_proxy import open_proxy
from postman.testing.waiting import insist, wait_until

COUNT = Script("#!lua\nreturn redis.call('INCR', KEYS[1])")
TIMEOUT = 0.8
"""Seconds; half of them are waited for replicas."""


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that will be a replica."""
    with redis_server(tmp_path / "replica") as server:
        yield server


async def follow(replica: RedisServer, primary: RedisServer, port: int | None = None) -> None:
    """On return the replica confirms what the primary is told; through `port` if one is given."""
    primary.ask("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    replica.ask("REPLICAOF", "127.0.0.1", port or primary.port)
    async with open_client(Address("127.0.0.1", primary.port, timeout=20.0, wait=1)) as client:
        await client.commit(COUNT, ["{postman}:count"])


def address(server: RedisServer, wait: int = 0) -> Address:
    return Address("127.0.0.1", server.port, timeout=TIMEOUT, wait=wait)


@contextmanager
def deaf(server: RedisServer) -> Iterator[None]:
    """It neither hears nor says anything."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


@pytest.mark.parametrize("wait", [0, 1])
async def test_after_a_failover_to_a_stale_replica_nothing_is_lost_with_wait_and_without_it_what_came_last_and_told(
    mortal_redis: RedisServer, replica: RedisServer, wait: int
) -> None:
    acked, refused = list[Id](), 0
    async with (
        open_proxy(mortal_redis.port) as proxy,
        open_proxy(mortal_redis.port) as name,
        redis_ledger(replace(address(mortal_redis, wait), port=name.port), Policy()) as ledger,
    ):
        await follow(replica, mortal_redis, proxy.port)
        scene = Scene(ledger, StandingClock())
        acked += await scene.accept(scene.letter())
        await wait_until(lambda: replica.ask("EXISTS", f"{{postman}}:letter:{acked[0]}"), within=5)
        proxy.flows = trio.Event()
        for _ in range(2):
            try:
                acked += await scene.accept(scene.letter())
            except StoreUnavailable:
                refused += 1
        replica.ask("REPLICAOF", "NO", "ONE")
        name.server = replica.port
        mortal_redis.kill()
        statistics = await insist(ledger.statistics, within=10)
    async with redis_ledger(address(replica), Policy()) as ledger:
        there = [id for id in acked if await ledger.read(id, None) is not None]
    assert (len(acked), refused, len(there)) == ((1, 2, 1) if wait else (3, 0, 1))
    assert [all(id in sentence for id in acked[1:]) for sentence in statistics.troubles] == ([] if wait else [True])


async def test_a_letter_that_the_replicas_do_not_have_is_not_told_to_be_there_though_it_is_found(
    mortal_redis: RedisServer, replica: RedisServer
) -> None:
    await follow(replica, mortal_redis)
    async with redis_ledger(address(mortal_redis, wait=1), Policy()) as ledger:
        scene = Scene(ledger, StandingClock())
        await scene.queued()
        letter = scene.letter()
        with deaf(replica):
            for attempt in (scene.accept(letter), ledger.read(letter.id, None)):
                with pytest.raises(StoreUnavailable, match="replicas") as raised:
                    await attempt
                assert raised.value.may_have_happened
            mortal_redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            for _ in range(2):  # a new connection has written nothing that it could wait for
                with pytest.raises(StoreUnavailable):
                    await ledger.read(letter.id, None)
        assert await insist(partial(ledger.read, letter.id, None), within=10) is not None
        assert replica.ask("EXISTS", f"{{postman}}:letter:{letter.id}") == 1


async def test_a_claim_that_the_replicas_do_not_have_is_not_given_when_it_is_asked_for_again(
    mortal_redis: RedisServer, replica: RedisServer
) -> None:
    await follow(replica, mortal_redis)
    async with redis_ledger(address(mortal_redis, wait=1), Policy()) as ledger:
        scene = Scene(ledger, StandingClock())
        id = await scene.queued()
        with deaf(replica):
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="replicas"):
                    await ledger.claim(id, [LAMDA], owner="me")
        claim = await insist(partial(ledger.claim, id, [LAMDA], owner="me"), within=10)
        assert isinstance(claim, Claim)
        assert claim.fence == 1
        assert (await ledger.finish(claim, ACCEPTED)).state is State.SENT


async def test_a_pause_that_the_replicas_do_not_have_is_not_said_to_hold_and_its_end_is_waited_for(
    mortal_redis: RedisServer, replica: RedisServer
) -> None:
    await follow(replica, mortal_redis)
    async with redis_ledger(address(mortal_redis, wait=1), Policy()) as ledger:
        for who in ("olga", None):
            with deaf(replica), trio.move_on_after(0) as scope, pytest.raises(StoreUnavailable, match="replicas"):
                await ledger.pause(ALL, who)
            assert not scope.cancelled_caught
            assert len(await insist(ledger.pauses, within=10)) == bool(who)


async def test_a_server_with_replicas_is_warned_of_unless_they_are_waited_for(
    mortal_redis: RedisServer, replica: RedisServer
) -> None:
    await follow(replica, mortal_redis)
    for wait, sentence in ((0, "wait=1"), (1, None), (2, "has 1 of the 2 replicas")):
        with structlog.testing.capture_logs() as logs:
            async with redis_ledger(address(mortal_redis, wait), Policy()):
                pass
        assert [log["reason"] for log in logs if sentence and sentence in log["reason"]] or not (sentence or logs)


async def test_the_touch_that_is_waited_for_stays_nowhere_and_works_when_the_memory_is_full(
    mortal_redis: RedisServer, replica: RedisServer
) -> None:
    await follow(replica, mortal_redis)
    mortal_redis.ask("CONFIG", "SET", "maxmemory", "1")
    async with open_client(address(mortal_redis, wait=1)) as client:
        client._doubts = 1
        assert await client.ask_confirmed(("ECHO", "x")) == [b"x"]
        assert client._settled == 1
        await wait_until(lambda: not mortal_redis.ask("KEYS", "*touch"), within=5)
