"""Opens the ledger and the queue that postman.toml names, and refuses pairs that would break the promise together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from postman.config import Config
from postman.errors import ConfigError
from postman.kind import Surroundings
from postman.ledger import Ledger
from postman.queue import Queue
from postman.registry import Setup
from postman.row import Policy
from postman.wire import ClientFactory


@asynccontextmanager
async def open_stores(setup: Setup, client: ClientFactory) -> AsyncIterator[tuple[Ledger, Queue]]:
    """Open ledger and queue; once, when they are on one URL and their store is both.

    Raises:
        ConfigError: a pair that would break the promise.
        StoreError: a store cannot be opened.
    """
    config, open_both = setup.loaded.config, setup.ledger.kind.open_both
    surroundings = _surroundings(setup, client)
    timeout = config.queue.visibility_timeout
    queue_settings = msgspec.structs.replace(setup.queue.settings, visibility_timeout=timeout)
    if config.ledger.url == config.queue.url and open_both is not None:
        async with open_both(_ledger_settings(setup), queue_settings, surroundings) as both:
            yield both
        return
    async with (
        open_ledger(setup, client) as ledger,
        setup.queue.kind.open(queue_settings, surroundings) as queue,
    ):
        refuse_pair(ledger, queue)
        yield ledger, queue


@asynccontextmanager
async def open_ledger(setup: Setup, client: ClientFactory) -> AsyncIterator[Ledger]:
    """Open the ledger alone.

    Raises:
        StoreError: it cannot be opened.
    """
    async with setup.ledger.kind.open(_ledger_settings(setup), _surroundings(setup, client)) as ledger:
        yield ledger


def _surroundings(setup: Setup, client: ClientFactory) -> Surroundings:
    delivery = setup.loaded.config.delivery
    return Surroundings("store", delivery.workers, delivery.timeout, client)


def _ledger_settings(setup: Setup) -> msgspec.Struct:
    return msgspec.structs.replace(setup.ledger.settings, policy=policy_of(setup.loaded.config))


def refuse_pair(ledger: Ledger, queue: Queue) -> None:
    """Refuse a ledger and a queue that would break the promise together.

    Raises:
        ConfigError: saying why, and the cure.
    """
    if not ledger.durable and (queue.durable or queue.shared):
        raise ConfigError(
            "[queue] outlives [ledger]: after a restart its notes would name letters that the ledger in memory has"
            " forgotten; give the ledger a durable url, or the queue the url memory:",
        )
    if queue.shared and not ledger.shared:
        raise ConfigError(
            "[queue] is shared between processes, [ledger] is not: another process would find notes of letters that it"
            " cannot read; give both the same shared store, or the queue a url of its own here",
        )


def policy_of(config: Config) -> Policy:
    """What postman.toml says about the life of letters."""
    delivery = config.delivery
    return Policy(
        max_attempts=delivery.max_attempts,
        give_up_after=delivery.give_up_after,
        on_doubt=delivery.on_doubt,
        resend_after=delivery.resend_after,
        doubt_patience=delivery.doubt_patience,
        retention=config.ledger.retention,
        key_retention=config.ledger.key_retention,
        max_queued=config.queue.max_length,
    )
