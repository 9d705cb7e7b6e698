"""Who lets us in, as whom, and which servers are the wrong ones."""

from __future__ import annotations

import contextlib
import re
import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from postman.backends.redis.address import Address, RedisSettings, address_of
from postman.backends.redis.client import Client, Script, open_client
from postman.backends.redis.ledger import redis_ledger
from postman.backends.redis.queue import redis_queue
from postman.errors import StoreRefused, StoreUnavailable
from postman.row import Policy, State
from postman.testing.check_ledger import Scene
from postman.testing.check_ledger.scene import ACCEPTED
from postman.testing.ports import free_port
from postman.testing.redis_server import RedisServer, redis_server
from postman.testing.standing_clock import StandingClock
from postman.testing.tcp_proxy import carry
from postman.testing.waiting import wait_for, wait_until

COUNT = Script("#!lua\nreturn redis.call('INCR', KEYS[1])")


def address(port: int) -> Address:
    return Address("127.0.0.1", port)


async def test_a_sentinel_is_not_taken_for_the_server_that_it_watches(tmp_path: Path) -> None:
    config = tmp_path / "sentinel.conf"
    config.touch()
    with redis_server(tmp_path, str(config), "--sentinel") as sentinel:
        for database in (0, 1):
            with pytest.raises(StoreRefused, match="is a Sentinel, which keeps no mails; name the primary"):
                async with open_client(Address("127.0.0.1", sentinel.port, database=database)):
                    pass


async def test_a_replica_is_not_taken_for_a_primary_and_one_that_became_a_replica_is_left(
    mortal_redis: RedisServer, tmp_path: Path
) -> None:
    with redis_server(tmp_path / "other") as other:
        async with open_client(address(mortal_redis.port)) as client:
            await client.commit(COUNT, ["{postman}:count"])
            mortal_redis.ask("REPLICAOF", "127.0.0.1", other.port)
            await wait_for(
                partial(why_not, client), re.compile(r"\S* is a replica, .* name the primary").match, within=5
            )
            mortal_redis.ask("REPLICAOF", "NO", "ONE")
            await wait_for(partial(why_not, client), lambda why: not why, within=10)


async def why_not(client: Client) -> str:
    try:
        await client.commit(COUNT, ["{postman}:count"])
    except StoreUnavailable as error:
        return f"it may have happened: {error}" if error.may_have_happened else str(error)
    return ""


async def test_in_a_cluster_the_node_that_has_our_keys_is_found_and_has_them_all(tmp_path: Path) -> None:
    asked_bus, owner_bus = str(free_port()), str(free_port())
    node = ("--cluster-enabled", "yes", "--appendonly", "yes", "--appendfsync", "always", "--cluster-port")
    with (
        redis_server(tmp_path / "a", *node, asked_bus) as asked,
        redis_server(tmp_path / "b", *node, owner_bus) as owner,
    ):
        owner.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        asked.ask("CLUSTER", "MEET", "127.0.0.1", owner.port, owner_bus)
        await wait_until(
            lambda: all(b"cluster_state:ok" in one.ask("CLUSTER", "INFO") for one in (asked, owner)), within=20
        )
        async with (
            redis_queue(address(asked.port), 60.0) as queue,
            redis_ledger(address(asked.port), Policy(), queue=queue) as ledger,
        ):
            scene = Scene(ledger, StandingClock())
            [id] = await scene.accept(scene.letter(tags=("a",)))
            await queue.ack(await queue.take())
            await scene.end(id, ACCEPTED)
            assert (await ledger.statistics()).states == {State.SENT: 1}
        assert owner.ask("EXISTS", f"{{postman}}:letter:{id}") == 1


async def test_a_wrong_password_is_refused_at_start_and_not_repeated(mortal_redis: RedisServer) -> None:
    mortal_redis.ask("ACL", "SETUSER", "ann", "on", ">correct-horse", "~*", "&*", "+@all")
    url = f"redis://ann:{{}}@127.0.0.1:{mortal_redis.port}"
    with pytest.raises(StoreRefused) as raised:
        async with open_client(address_of(RedisSettings(url=url.format("wrong-horse")))):
            pass
    assert "WRONGPASS" in str(raised.value)
    assert "wrong-horse" not in str(raised.value)
    async with open_client(address_of(RedisSettings(url=url.format("correct-horse")))) as client:
        assert await client.ask(("ACL", "WHOAMI")) == [b"ann"]


async def test_databases_are_apart(redis_process: RedisServer, redis: Address) -> None:
    one = address_of(RedisSettings(url=f"{redis_process.url}/1"))
    async with open_client(redis) as zero_client, open_client(one) as one_client:
        await one_client.ask(("SET", f"{redis.prefix}x", 1))
        assert await zero_client.ask(("EXISTS", f"{redis.prefix}x")) == [0]


async def test_tls_is_spoken_and_the_certificate_is_checked(
    redis: Address, redis_process: RedisServer, tmp_path: Path
) -> None:
    ours, others = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.issue_cert("localhost").configure_cert(context)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await carry(stream, await trio.open_tcp_stream("127.0.0.1", redis_process.port))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_ssl_over_tcp, serve, 0, context)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        for ca, trusted in ((ours, True), (others, False)):
            ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            settings = RedisSettings(url=f"rediss://localhost:{port}", ca_file=tmp_path / "ca.pem")
            with (
                contextlib.nullcontext()
                if trusted
                else pytest.raises(StoreUnavailable, match="certificate verify failed")
            ):
                async with open_client(address_of(settings)) as client:
                    assert await client.commit(COUNT, [f"{redis.prefix}count"]) == 1
        nursery.cancel_scope.cancel()
