"""A server that would forget what it confirmed is refused, or said loudly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import structlog.testing

from postman.backends.redis.address import Address
from postman.backends.redis.checks import Facts, check, judge
from postman.backends.redis.client import open_client
from postman.errors import StoreRefused
from postman.testing.redis_server import SAFE, redis_server

GOOD = Facts("7.2.4", maxmemory=1_000_000, policy="noeviction", appendonly=True, appendfsync="always")


def test_a_server_that_forgets_nothing_is_durable_and_not_talked_about() -> None:
    verdict = judge(GOOD)
    assert (verdict.durable, verdict.risks, verdict.warnings) == (True, [], [])


@pytest.mark.parametrize(
    ("change", "risk"),
    [
        ({"policy": "allkeys-lru"}, "noeviction"),
        ({"policy": "allkeys-random"}, "noeviction"),
        ({"appendonly": False}, "appendonly yes"),
        ({"appendfsync": "no"}, "always"),
    ],
)
def test_what_forgets_by_itself_is_a_risk_that_names_its_cure(change: dict[str, object], risk: str) -> None:
    [sentence] = judge(msgspec.structs.replace(GOOD, **change)).risks
    assert risk in sentence


@pytest.mark.parametrize(
    ("change", "durable", "warnings"),
    [
        ({"appendfsync": "everysec"}, False, 1),
        ({"appendfsync": None}, False, 1),
        ({"policy": None}, True, 1),
        ({"policy": "volatile-lru"}, True, 0),  # our keys never expire, so it evicts none
        ({"policy": "allkeys-lru", "maxmemory": 0}, True, 0),  # without a limit nothing is evicted
    ],
)
def test_what_is_a_lesser_promise_is_told(change: dict[str, object], durable: bool, warnings: int) -> None:
    verdict = judge(msgspec.structs.replace(GOOD, **change))
    assert (verdict.durable, len(verdict.warnings), verdict.risks) == (durable, warnings, [])


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (("--appendonly", "no"), "appendonly"),
        ((*SAFE, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu"), "noeviction"),
    ],
)
async def test_a_ledger_is_not_kept_where_it_may_be_forgotten_unless_that_is_accepted(
    tmp_path: Path, options: tuple[str, ...], cure: str
) -> None:
    with redis_server(tmp_path, *options) as server:
        async with open_client(Address("127.0.0.1", server.port)) as client:
            with pytest.raises(StoreRefused, match=cure) as raised:
                await check(client, what="ledger", must_keep=True)
            assert "accept-loss=true" in str(raised.value)
            with structlog.testing.capture_logs() as logs:
                await check(client, what="ledger", must_keep=False)
            assert [log["log_level"] for log in logs] == ["warning"]


async def test_a_server_that_does_not_tell_its_settings_is_warned_of(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        server.ask("ACL", "SETUSER", "default", "-config")
        async with open_client(Address("127.0.0.1", server.port)) as client:
            with structlog.testing.capture_logs() as logs:
                assert not await check(client, what="ledger", must_keep=True)
            assert "appendfsync" in logs[0]["reason"]


async def test_a_server_on_another_machine_without_tls_is_warned_of_once_for_each_store(redis: Address) -> None:
    async with open_client(replace(redis, host="0.0.0.0")) as client:  # noqa: S104  # leads here, but is no loopback by name
        with structlog.testing.capture_logs() as logs:
            assert await check(client, what="ledger", must_keep=True)
    [log] = logs
    assert (log["log_level"], log["server"]) == ("warning", f"0.0.0.0:{redis.port}")
    assert "write rediss://" in log["event"]


async def test_a_safe_server_is_durable(redis: Address) -> None:
    async with open_client(redis) as client:
        with structlog.testing.capture_logs() as logs:
            assert await check(client, what="ledger", must_keep=True)
        assert logs == []
