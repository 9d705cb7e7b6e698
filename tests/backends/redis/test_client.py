"""What goes wrong between us and a server, seen by who asks."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import hiredis
import pytest
import trio
import trio.testing

from postman.backends.redis.address import Address
from postman.backends.redis.client import Script, open_client
from postman.errors import StoreError, StoreFull, StoreRefused, StoreUnavailable
from postman.testing.redis_server import RedisServer
from postman.testing.tcp_proxy import open_proxy
from postman.testing.waiting import insist

COUNT = Script("#!lua\nreturn redis.call('INCR', KEYS[1])")
SECOND = 1.0


def address(port: int, **more: object) -> Address:
    return Address("127.0.0.1", port, **more)  # type: ignore[arg-type]  # fields of Address


@asynccontextmanager
async def a_server_that_says(*answers: bytes, greetings: Sequence[bytes] = ()) -> AsyncGenerator[int]:
    """Greets with `greetings`, lets in who comes then, and answers with these, the last again and again."""
    rest, first = list(answers), list(greetings)

    async def serve(stream: trio.SocketStream) -> None:
        reader = hiredis.Reader()
        async for data in stream:
            reader.feed(bytes(data))
            while (command := reader.gets()) is not False:
                match command[0]:
                    case b"HELLO":
                        await stream.send_all(b"%1\r\n+role\r\n+master\r\n")
                    case b"EXISTS":
                        await stream.send_all(first.pop(0) if first else b":0\r\n")
                    case _:
                        await stream.send_all(rest.pop(0) if len(rest) > 1 else rest[0])

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_ten_thousand_cancelled_callers_disturb_nobody(redis: Address) -> None:
    chance, cancelled, answered = random.Random(1), 0, 0
    async with open_client(redis) as client:

        async def ask() -> None:
            nonlocal cancelled, answered
            while cancelled < 10_000:
                nonce = f"{chance.random()}"
                with trio.CancelScope() as scope:
                    if chance.random() < 0.9:
                        nursery.start_soon(cancel, scope, chance.randrange(4))
                    [answer] = await client.ask(("ECHO", nonce))
                    assert answer == nonce.encode()
                    answered += 1
                cancelled += scope.cancelled_caught

        async def cancel(scope: trio.CancelScope, after: int) -> None:
            for _ in range(after):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(32):
                    nursery.start_soon(ask)
        assert answered > 1_000
        assert await client.ask(("ECHO", "last"), ("ECHO", "of all")) == [b"last", b"of all"]


async def test_a_caller_that_is_cancelled_before_anything_was_sent_has_done_nothing(redis: Address) -> None:
    async with open_client(redis) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.ask(("SET", f"{redis.prefix}x", 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ask, ("SET", f"{redis.prefix}x", 1))
            nursery.cancel_scope.cancel()
        assert await client.ask(("EXISTS", f"{redis.prefix}x")) == [0]


async def test_a_commit_that_was_begun_is_waited_for_by_its_cancelled_caller(redis: Address) -> None:
    async with open_client(redis) as client:
        counted: list[int] = []

        async def count() -> None:
            counted.append(await client.commit(COUNT, [f"{redis.prefix}count"]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            while not client.connection._wire._asked:  # type: ignore[union-attr]  # connected
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert counted == [1]


async def test_scripts_are_loaded_again_when_the_server_has_lost_them(redis: Address) -> None:
    async with open_client(redis) as client:
        key = [f"{redis.prefix}count"]
        assert await client.commit(COUNT, key) == 1
        await client.ask(("SCRIPT", "FLUSH"))
        assert await client.commit_all(COUNT, [(key, ())] * 3) == [2, 3, 4]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("LOADING Redis is loading the dataset in memory", StoreUnavailable),
        ("BUSY Redis is busy running a script", StoreUnavailable),
        ("MISCONF Redis is configured to save RDB snapshots, but it cannot", StoreUnavailable),
        ("READONLY You can't write against a read only replica.", StoreUnavailable),
        ("NOREPLICAS Not enough good replicas to write.", StoreUnavailable),
        ("CLUSTERDOWN The cluster is down", StoreUnavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", StoreUnavailable),
        ("NOAUTH Authentication required.", StoreUnavailable),
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFull),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", StoreRefused),
        ("NOPERM User ann has no permissions to run the 'evalsha' command", StoreRefused),
        ("ERR something else", StoreError),
    ],
)
async def test_each_error_of_the_server_has_its_meaning(said: str, error: type[StoreError]) -> None:
    async with a_server_that_says(f"-{said}\r\n".encode()) as port, open_client(address(port)) as client:
        with pytest.raises(StoreError) as raised:
            await client.commit(COUNT, ["x"])
        assert isinstance(raised.value, error)
        assert error is not StoreError or not isinstance(raised.value, StoreUnavailable | StoreFull)
        assert not getattr(raised.value, "may_have_happened", False), "it was refused"
        assert said in str(raised.value)


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$99999999999999999999\r\n", b"\x00"])
async def test_who_does_not_speak_the_protocol_breaks_the_connection_and_no_more(garbage: bytes) -> None:
    async with a_server_that_says(garbage, b":7\r\n") as port, open_client(address(port)) as client:
        with pytest.raises(StoreUnavailable) as raised:
            await client.ask(("PING",))
        assert raised.value.may_have_happened
        assert await client.ask(("PING",)) == [7]


async def test_an_answer_that_nobody_asked_for_breaks_the_connection() -> None:
    async with a_server_that_says(b":1\r\n:2\r\n", b":7\r\n") as port, open_client(address(port)) as client:
        assert await client.ask(("PING",)) == [1]
        assert await client.ask(("PING",)) == [7], "2 would be the answer of another question"


async def test_without_an_answer_in_time_the_fate_is_unknown_and_the_connection_is_not_used_again(
    redis: Address, redis_process: RedisServer
) -> None:
    async with (
        open_proxy(redis_process.port) as proxy,
        open_client(replace(redis, port=proxy.port, timeout=0.3)) as client,
    ):
        proxy.flows = trio.Event()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fails, client.ask, True)  # trio passes no names
        assert 0.2 < trio.current_time() - began < SECOND
        with pytest.raises(StoreUnavailable):  # connected, but not let in
            await client.ask(("ECHO", "old"))
        proxy.flows.set()
        assert await insist(partial(client.ask, ("ECHO", "new")), within=10) == [b"new"]


async def fails(ask: Callable[..., object], unknown: bool) -> None:  # trio passes no names
    with pytest.raises(StoreUnavailable) as raised:
        await ask(("ECHO", "old"))  # type: ignore[misc]  # async
    assert raised.value.may_have_happened is unknown


async def test_a_connection_that_is_cut_after_the_write_leaves_it_unknown(
    redis: Address, redis_process: RedisServer
) -> None:
    async with open_proxy(redis_process.port) as proxy, open_client(replace(redis, port=proxy.port)) as client:
        proxy.swallow = b"+OK"
        with pytest.raises(StoreUnavailable) as raised:
            await client.ask(("SET", f"{redis.prefix}x", "done"))
        assert raised.value.may_have_happened
        assert await client.ask(("GET", f"{redis.prefix}x")) == [b"done"]


async def test_while_the_server_is_down_callers_are_told_at_once_and_afterwards_all_goes_on(
    mortal_redis: RedisServer,
) -> None:
    async with open_client(address(mortal_redis.port)) as client:
        for number in range(1, 4):
            assert await client.commit(COUNT, ["{postman}:count"]) == number
            mortal_redis.kill()
            with pytest.raises(StoreUnavailable):
                await client.ask(("PING",))
            began = time.monotonic()
            for _ in range(100):
                with pytest.raises(StoreUnavailable) as raised:
                    await client.ask(("PING",))
                assert not raised.value.may_have_happened
                await trio.lowlevel.checkpoint()
            assert time.monotonic() - began < SECOND
            await trio.to_thread.run_sync(mortal_redis.start)
            with trio.fail_after(10):
                await insist(partial(client.ask, ("PING",)), within=10)


async def test_a_server_that_is_still_loading_is_waited_for() -> None:
    loading = [b"-LOADING the dataset\r\n"] * 3
    async with a_server_that_says(b":7\r\n", greetings=loading) as port, open_client(address(port)) as client:
        assert await client.ask(("PING",)) == [7]


async def test_a_server_that_is_not_there_is_named_at_start(mortal_redis: RedisServer) -> None:
    mortal_redis.kill()
    with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{mortal_redis.port} cannot be reached"):
        async with open_client(address(mortal_redis.port)):
            pass


async def test_when_the_node_of_a_cluster_that_had_our_keys_is_gone_the_first_one_is_asked_again(
    mortal_redis: RedisServer,
) -> None:
    moved = [f"-MOVED 5 127.0.0.1:{mortal_redis.port}\r\n".encode()]
    async with a_server_that_says(b":7\r\n", greetings=moved) as port, open_client(address(port)) as client:
        assert await client.ask(("PING",)) == [b"PONG"]
        mortal_redis.kill()
        with trio.fail_after(10):
            await insist(partial(client.ask, ("PING",)), within=10)
        assert await client.ask(("PING",)) == [7]
