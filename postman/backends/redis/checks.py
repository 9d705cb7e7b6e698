"""What a server must be so that what it confirmed is not lost; asked at start, and said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog

from postman.backends.redis.client import Client
from postman.errors import StoreError, StoreRefused, StoreUnavailable

OLDEST: Final = (7, 0)
"""Of Redis; Valkey says which one it is compatible with. Older ones know no flags of scripts."""

_log = structlog.get_logger()


class Facts(msgspec.Struct, frozen=True):
    """What a server says of itself; None: it does not tell.

    Attributes:
        version: of Redis.
        maxmemory: bytes; 0: no limit.
        policy: maxmemory-policy.
        appendonly: whether each write goes to a log.
        appendfsync: when that log goes to the disk.
        replicas: how many are connected.
    """

    version: str
    maxmemory: int
    policy: str | None
    appendonly: bool
    appendfsync: str | None
    replicas: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """What follows from the facts.

    Attributes:
        durable: what the server confirmed has survived a power cut.
        risks: what would make it forget what it confirmed though nothing breaks but itself; a sentence each.
        warnings: what a person should know; a sentence each.
    """

    durable: bool
    risks: Sequence[str] = ()
    warnings: Sequence[str] = ()


def judge(facts: Facts, wait: int = 0) -> Verdict:
    """What the facts mean for letters that were answered with 202; `wait` is the URL's."""
    risks, warnings = list[str](), list[str]()
    if facts.maxmemory and facts.policy is not None and facts.policy.startswith("allkeys"):
        risks.append(
            f"maxmemory-policy is {facts.policy}: when the memory is full it deletes mails without a word;"
            " set it to noeviction"
        )
    if not facts.appendonly:
        risks.append(
            "appendonly is off: a restart forgets what came since the last snapshot;"
            " set appendonly yes and appendfsync always"
        )
    elif facts.appendfsync == "no":
        risks.append("appendfsync is no: a power cut loses up to half a minute; set it to always")
    elif facts.appendfsync == "everysec":
        warnings.append("appendfsync is everysec: a power cut loses about the last second; always loses nothing")
    elif facts.appendfsync is None:
        warnings.append("the server does not tell appendfsync; unless it is always, a power cut loses what came last")
    if facts.maxmemory and facts.policy is None:
        warnings.append("the server does not tell maxmemory-policy; unless it is noeviction, it may delete letters")
    if facts.replicas > wait:
        warnings.append(
            f"it has {facts.replicas} replicas, and a write waits for {wait}: one that takes its place forgets what it"
            f" did not have yet; write ?wait={facts.replicas} in the url"
        )
    if facts.replicas < wait:
        warnings.append(
            f"it has {facts.replicas} of the {wait} replicas that a write waits for: nothing can be accepted"
        )
    return Verdict(facts.appendonly and facts.appendfsync == "always", risks, warnings)


async def check(client: Client, *, what: str, must_keep: bool) -> bool:
    """Ask the server, log what is at risk, there and on the way, and tell whether `what` is durable there.

    Args:
        client: connected.
        what: "ledger" or "queue", for the texts.
        must_keep: refuse a server that may forget.

    Raises:
        StoreRefused: it is too old, or may forget and must not.
    """
    facts = await _facts(client)
    if tuple(int(part) for part in facts.version.split(".")[:2]) < OLDEST:
        raise StoreRefused(f"the {what} needs Redis 7.0 or Valkey 7.2 at least; this is {facts.version}")
    verdict = judge(facts, client.wait)
    if verdict.risks and must_keep:
        raise StoreRefused(
            f"the {what} must not be here: {'; '.join(verdict.risks)}. Who can bear the loss adds"
            " ?accept-loss=true to the url"
        )
    for sentence in (*verdict.risks, *verdict.warnings):
        _log.warning("what Redis has may be lost", store=what, reason=sentence)
    if client.connection.address.is_exposed:
        _log.warning(
            "mails and the password travel to Redis unencrypted; write rediss:// in the url, and ?ca-file=FILE for a"
            " certificate of your own",
            store=what,
            server=str(client.connection.address),
        )
    return verdict.durable


async def _facts(client: Client) -> Facts:
    [info] = await client.ask(("INFO",))
    said = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    told: Mapping[bytes, bytes] = {}
    try:
        [told] = await client.ask(("CONFIG", "GET", "appendfsync"))
    except StoreUnavailable:
        raise
    except StoreError:  # many who rent servers out do not tell
        told = {}
    fsync = told.get(b"appendfsync")
    return Facts(
        version=said.get("redis_version", "0"),
        maxmemory=int(said.get("maxmemory", 0)),
        policy=said.get("maxmemory_policy"),
        appendonly=said.get("aof_enabled") == "1",
        appendfsync=None if fsync is None else fsync.decode(),
        replicas=int(said.get("connected_slaves", 0)),
    )
