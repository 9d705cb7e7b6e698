"""What the server confirmed and then forgot is noticed by whoever was told; nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog.testing
import trio

from postman.backends.redis.address import Address
from postman.backends.redis.ledger import RedisLedger, redis_ledger
from postman.errors import StoreUnavailable
from postman.ledger import Claim, Filter
from postman.row import Policy, State
from postman.testing.check_ledger import Scene
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA, UNAVAILABLE
from postman.testing.redis_server import SAFE, RedisServer, redis_server
from postman.testing.standing_clock import StandingClock
from postman.testing.waiting import insist


@asynccontextmanager
async def ledger_on(server: RedisServer, clock: StandingClock | None = None) -> AsyncIterator[RedisLedger]:
    async with redis_ledger(Address("127.0.0.1", server.port), Policy(), clock) as ledger:
        yield ledger


async def troubles(ledger: RedisLedger) -> tuple[str, ...]:
    """What the ledger says once it has a connection again."""
    return (await insist(ledger.statistics, within=10)).troubles


def log_of(directory: Path) -> Path:
    [path] = directory.glob("appendonlydir/*.incr.aof")
    return path


def cut(path: Path, keep: Callable[[int], int]) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(keep(size))


async def restart(server: RedisServer, *options: str) -> None:
    await trio.to_thread.run_sync(server.start, *options)


async def test_a_log_that_was_cut_keeps_a_prefix_of_whole_requests_and_what_is_gone_is_told(
    mortal_redis: RedisServer, tmp_path: Path
) -> None:
    async with ledger_on(mortal_redis) as ledger:
        scene = Scene(ledger, StandingClock())
        accepted = [await scene.accept(scene.letter(), scene.letter()) for _ in range(10)]
        mortal_redis.kill()
        cut(log_of(tmp_path / "redis"), lambda size: size // 2)
        with structlog.testing.capture_logs() as logs:
            await restart(mortal_redis)
            [sentence] = await troubles(ledger)
        there = [[id for id in ids if await ledger.read(id, None) is not None] for ids in accepted]
        kept = [ids for ids in there if ids]
        assert kept == accepted[: len(kept)]
        assert 0 < len(kept) < len(accepted)
        assert len(await ledger.find(Filter(state=State.QUEUED), None, 100)) == 2 * len(kept)
        assert (await ledger.statistics()).states == {State.QUEUED: 2 * len(kept)}
        assert [log["event"] for log in logs if log["log_level"] == "error"] == [
            "Redis has forgotten what it confirmed"
        ]
        assert all(ids[-1] in sentence for ids in accepted[len(kept) :])
        assert all(id not in sentence for ids in kept for id in ids)
        await scene.queued()
        assert await troubles(ledger) == (sentence,), "it is said until somebody has seen it"


async def test_with_aof_load_truncated_no_a_server_whose_log_was_cut_is_not_there(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", *SAFE, "--aof-load-truncated", "no") as server:
        async with ledger_on(server) as ledger:
            await Scene(ledger, StandingClock()).queued()
            server.kill()
            cut(log_of(tmp_path / "redis"), lambda size: size - 10)
            with suppress(RuntimeError):  # it may have answered before it read so far
                await restart(server)
            with pytest.raises(StoreUnavailable):
                await ledger.statistics()


@pytest.mark.parametrize("lost", ["accept", "claim", "finish"])
async def test_the_last_change_alone_is_missed_too(mortal_redis: RedisServer, tmp_path: Path, lost: str) -> None:
    async with ledger_on(mortal_redis) as ledger:
        scene, log = Scene(ledger, StandingClock()), log_of(tmp_path / "redis")
        size = log.stat().st_size
        id = await scene.queued()
        if lost in {"claim", "finish"}:
            size = log.stat().st_size
            claim = await scene.claim(id)
            if lost == "finish":
                size = log.stat().st_size
                await ledger.finish(claim, ACCEPTED)
        mortal_redis.kill()
        cut(log, lambda _: size)
        await restart(mortal_redis)
        assert [id in sentence for sentence in await troubles(ledger)] == [True]


async def test_it_is_noticed_before_the_same_is_done_again(mortal_redis: RedisServer, tmp_path: Path) -> None:
    async with ledger_on(mortal_redis) as ledger:
        scene, log = Scene(ledger, StandingClock()), log_of(tmp_path / "redis")
        id = await scene.queued()
        size = log.stat().st_size
        await scene.end(id, ACCEPTED)
        mortal_redis.kill()
        cut(log, lambda _: size)
        await restart(mortal_redis)
        claim = None
        with trio.fail_after(10):
            while not isinstance(claim, Claim):
                with suppress(StoreUnavailable):
                    claim = await ledger.claim(id, [LAMDA])
        assert (await ledger.finish(claim, ACCEPTED)).state is State.SENT
        assert [id in sentence for sentence in await troubles(ledger)] == [True]


async def test_a_database_that_was_emptied_is_told(mortal_redis: RedisServer) -> None:
    async with ledger_on(mortal_redis) as ledger:
        id = await Scene(ledger, StandingClock()).queued()
        mortal_redis.ask("FLUSHALL")
        assert [id in sentence for sentence in await troubles(ledger)] == [True]


async def test_a_server_that_was_killed_has_forgotten_nothing(mortal_redis: RedisServer) -> None:
    async with ledger_on(mortal_redis) as ledger:
        scene = Scene(ledger, StandingClock())
        ids = await scene.accept(*(scene.letter() for _ in range(50)))
        await scene.end(ids[0], UNAVAILABLE)
        for id in ids[1:]:
            await scene.end(id, ACCEPTED)
        mortal_redis.kill()
        await restart(mortal_redis)
        assert await troubles(ledger) == ()


async def test_what_another_process_changed_or_swept_is_not_forgotten(mortal_redis: RedisServer) -> None:
    clock = StandingClock()
    async with ledger_on(mortal_redis, clock) as here, ledger_on(mortal_redis, clock) as there:
        scene = Scene(here, clock)
        claim = await scene.claim(await scene.queued())
        await there.finish(claim, ACCEPTED)
        assert await troubles(here) == ()
        clock.advance(Policy().retention)
        assert await there.sweep(10) == 1
        assert await troubles(here) == ()
