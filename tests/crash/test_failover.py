"""In a cluster the server that has our keys gives them up, and then dies, while mails come in and go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from postman.testing.customer import MAIL, open_customer
from postman.testing.haste import hasten
from postman.testing.ports import free_port
from postman.testing.program import open_program
from postman.testing.redis_server import SAFE, RedisServer, redis_server
from postman.testing.report import report
from postman.testing.waiting import wait_until

HOLD = {**MAIL, "on-doubt": "hold"}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """The server of all keys, and its replica."""
    buses = [str(free_port()) for _ in range(2)]
    words = [(*SAFE, "--repl-diskless-sync-delay", "0", "--cluster-enabled", "yes", "--cluster-port", b) for b in buses]
    try:
        with redis_server(tmp_path / "a", *words[0]) as one, redis_server(tmp_path / "b", *words[1]) as other:
            yield one, other
    except LookupError as error:
        pytest.skip(f"no Redis here: {error}")


def says(node: RedisServer, words: bytes) -> bool:
    """Whether it says so of itself as one of two."""
    return words in node.ask("INFO", "replication")


async def join(one: RedisServer, other: RedisServer) -> None:
    """On return `other` confirms what `one` is told."""
    one.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
    bus = one.ask("CONFIG", "GET", "cluster-port")[1]
    other.ask("CLUSTER", "MEET", "127.0.0.1", one.port, bus)
    await wait_until(lambda: b"cluster_state:ok" in other.ask("CLUSTER", "INFO"))
    other.ask("CLUSTER", "REPLICATE", one.ask("CLUSTER", "MYID"))
    await wait_until(lambda: b"cluster_state:ok" in one.ask("CLUSTER", "INFO") and says(one, b"state=online"))


async def test_when_a_cluster_moves_our_keys_to_a_replica_that_is_waited_for_nothing_is_lost_or_sent_twice(
    tmp_path: Path,
    toml: Callable[..., str],
    accepted: Callable[[], list[str]],
    nodes: tuple[RedisServer, RedisServer],
) -> None:
    one, other = nodes
    await join(one, other)
    url = f"{other.url}?wait=1&timeout=1"
    text = toml(ledger=url, queue=url, workers=8, timeout=2, visibility=2)
    async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
        await program.start(before=hasten)
        done = trio.Event()

        async def post(who: int) -> None:
            while not done.is_set():
                await customer.post(f"{who}-{len(customer.ids)}", [HOLD])

        async def more() -> None:
            goal = len(customer.ids) + 20
            await wait_until(lambda: len(customer.ids) >= goal)

        async with trio.open_nursery() as nursery:
            for who in range(4):
                nursery.start_soon(post, who)
            await more()
            other.ask("CLUSTER", "FAILOVER")
            await wait_until(lambda: says(one, b"role:slave") and says(other, b"state=online"))
            await more()
            other.kill()
            one.ask("CLUSTER", "FAILOVER", "TAKEOVER")
            await trio.to_thread.run_sync(other.start)
            await more()
            done.set()
        await customer.wait_settled()
        assert await program.stop() == 0
        found = report(customer.ids, accepted(), await program.rows(), customer.recovered)
    assert (found.waiting, found.lost, found.unexpected, found.duplicated) == (0, (), (), {})
