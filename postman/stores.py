"""Opens the ledger and the queue that postman.toml names, and refuses pairs that would break the promise together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import msgspec

from postman.config import Config, Only
from postman.errors import ConfigError
from postman.kind import Surroundings
from postman.ledger import Ledger
from postman.queue import Queue
from postman.registry import Configured, Setup
from postman.row import Policy
from postman.shards import open_shards
from postman.wire import ClientFactory


@asynccontextmanager
async def open_stores(setup: Setup, client: ClientFactory) -> AsyncIterator[tuple[Ledger, Queue]]:
    """Open ledger and queue; once, when they are on one URL and their store is both.

    Of several queues none is joined to the ledger: it would put the notes of all letters in its own transaction, and
    the other queues would stay empty.

    Raises:
        ConfigError: a pair that would break the promise.
        StoreError: a store cannot be opened.
    """
    config, open_both = setup.loaded.config, setup.ledger.kind.open_both
    if config.queue_urls == (config.ledger.url,) and open_both is not None:
        queue_settings = _queue_settings(setup, setup.queues[0])
        async with open_both(_ledger_settings(setup), queue_settings, _surroundings(setup, client)) as both:
            yield both
        return
    async with open_ledger(setup, client) as ledger, open_queue(setup, client, ledger) as queue:
        yield ledger, queue


@asynccontextmanager
async def open_queue(setup: Setup, client: ClientFactory, ledger: Ledger) -> AsyncIterator[Queue]:
    """Open the queue alone, or all queues as one, beside a ledger that is open.

    Raises:
        ConfigError: a pair that would break the promise.
        StoreError: it cannot be opened.
    """
    openings = [partial(_open_one, setup, configured, client, ledger) for configured in setup.queues]
    names = map(_public, setup.loaded.config.queue_urls)
    async with openings[0]() if len(openings) == 1 else open_shards(zip(names, openings, strict=True)) as queue:
        yield queue


@asynccontextmanager
async def _open_one(
    setup: Setup, configured: Configured, client: ClientFactory, ledger: Ledger
) -> AsyncIterator[Queue]:
    settings, surroundings = _queue_settings(setup, configured), _surroundings(setup, client)
    async with configured.kind.open(settings, surroundings) as queue:
        refuse_pair(ledger, queue)
        yield queue


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


def _queue_settings(setup: Setup, configured: Configured) -> msgspec.Struct:
    timeout = setup.loaded.config.queue.visibility_timeout
    return msgspec.structs.replace(configured.settings, visibility_timeout=timeout)


def _public(url: str) -> str:
    """What of a URL may be shown: neither who logs in nor the query."""
    scheme, slashes, place = url.partition("?")[0].partition("://")
    return scheme + slashes + place.rpartition("@")[2]


def _ledger_settings(setup: Setup) -> msgspec.Struct:
    return msgspec.structs.replace(setup.ledger.settings, policy=policy_of(setup.loaded.config))


class Store(Protocol):
    """A ledger or a queue, or the kind of one."""

    @property
    def durable(self) -> bool:
        """Whether it outlives the process."""

    @property
    def shared(self) -> bool:
        """Whether several processes may use it."""


def refuse_pair(ledger: Store, queue: Store) -> None:
    """Refuse a ledger and a queue that would break the promise together.

    Raises:
        ConfigError: saying why, and the cure.
    """
    if not ledger.durable and (queue.durable or queue.shared):
        raise ConfigError(
            "[queue] outlives [ledger]: after a restart its notes would name mails that the ledger in memory has"
            " forgotten; give the ledger a durable url, or the queue the url memory:",
        )
    if queue.shared and not ledger.shared:
        raise ConfigError(
            "[queue] is shared between processes, [ledger] is not: another process would find notes of mails that it"
            " cannot read; give both the same shared store, or the queue a url of its own here",
        )


def refuse_part(only: Only | None, ledger: Store, queue: Store) -> None:
    """Refuse to run a part of the service on stores that no other process can use.

    Raises:
        ConfigError: naming them, and the cure.
    """
    alone = [name for name, store in (("[ledger]", ledger), ("[queue]", queue)) if not store.shared]
    if only and alone:
        other = "delivers" if only == "http" else "takes mail"
        raise ConfigError(
            f"--only {only}: {' and '.join(alone)} cannot be shared with the process that {other}; give both a url of"
            " redis: or postgresql:, or the queue one of sqs:, or serve without --only",
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
