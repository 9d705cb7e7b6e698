"""Services with different prefixes share a server and see nothing of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from postman.backends.redis.address import RedisSettings, address_of
from postman.backends.redis.ledger import RedisLedger, redis_ledger
from postman.backends.redis.queue import RedisQueue, redis_queue
from postman.ledger import ALL, Filter, Instance, LedgerStatistics, Overdue
from postman.queue import QueueStatistics
from postman.row import Policy, State
from postman.testing.check_ledger import Scene
from postman.testing.check_ledger.scene import ACCEPTED
from postman.testing.redis_server import RedisServer
from postman.testing.standing_clock import StandingClock

PREFIXES = ("mail", "mail:queue", "mail2", "MAIL")
"""One is the beginning of another."""
EMPTY = LedgerStatistics({}), QueueStatistics((0, 0, 0), 0, 0, 0)


@asynccontextmanager
async def service(
    server: RedisServer, prefix: str, clock: StandingClock
) -> AsyncIterator[tuple[RedisLedger, RedisQueue]]:
    address = address_of(RedisSettings(url=server.url, prefix=prefix))
    async with redis_queue(address, 60.0) as queue, redis_ledger(address, Policy(), clock, queue=queue) as ledger:
        yield ledger, queue


@pytest.mark.parametrize("theirs", PREFIXES[1:])
async def test_a_service_sees_nothing_of_one_with_another_prefix(mortal_redis: RedisServer, theirs: str) -> None:
    clock = StandingClock()
    async with (
        service(mortal_redis, PREFIXES[0], clock) as (ledger, queue),
        service(mortal_redis, theirs, clock) as (other, other_queue),
    ):
        scene = Scene(ledger, clock)
        sent, sending, queued = scene.letter(tags=("a",)), scene.letter(), scene.letter()
        await ledger.accept([sent, sending, queued], "shop", "key", b"body")
        await queue.ack(await queue.take())
        await queue.bury(await queue.take(), "for a test")
        await scene.end(sent.id, ACCEPTED)
        await scene.claim(sending.id)
        await ledger.pause(ALL, "olga")
        await ledger.enrol(Instance(id="me", name="here", pid=1))
        clock.advance(Policy().retention)

        assert (await other.statistics(), await other_queue.statistics()) == EMPTY
        assert await other.read(sent.id, None) is None
        assert await other.find(Filter(tag="a"), None, 10) == await other.find(Filter(client="shop"), None, 10) == []
        assert await other.overdue(10) == Overdue()
        assert await other.pauses() == []
        assert await other.keys("", 10) == ([], "")
        assert [one.id for one in await other.enrol(Instance(id="them", name="there", pid=2))] == ["them"]
        assert await other.sweep(10) == 0
        assert not (await other.accept([Scene(other, clock).letter(id=sent.id)], "shop", "key", b"x")).replayed
        assert (await ledger.statistics()).states == {State.SENT: 1, State.SENDING: 1, State.QUEUED: 1}
        assert await ledger.sweep(10) == 2
        assert (await other.statistics()).states == {State.QUEUED: 1}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_each_key_of_a_service_is_in_its_one_slot_of_a_cluster(mortal_redis: RedisServer, prefix: str) -> None:
    clock = StandingClock()
    async with service(mortal_redis, prefix, clock) as (ledger, queue):
        scene = Scene(ledger, clock)
        for state in State:
            await scene.bring(state)
        await ledger.accept([scene.letter(tags=("{a}", "b"))], "{shop}", "{key}", b"body")
        await queue.bury(await queue.take(), "for a test")
        await queue.take()
        await ledger.pause("{lamda}", "olga")
        await ledger.enrol(Instance(id="{me}", name="here", pid=1))
    keys = mortal_redis.ask("KEYS", "*")
    assert len(keys) > 20
    assert {key.partition(b"}")[0] for key in keys} == {b"{" + prefix.encode()}
