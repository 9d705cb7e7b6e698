"""The composition root: opens everything, runs it in one nursery, ends it in the right order. No behaviour of its own.

The end, by SIGTERM, SIGINT, cancellation or an error: nothing new is taken or claimed, health says 503, requests in
hand are answered, deliveries in hand get `grace` seconds and then 1.5 s to write what came of them, providers close,
stores close.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import structlog
import trio
from quart_trio import QuartTrio

from postman.carrier import Carrier
from postman.clerk import Clerk
from postman.config import Config, Loaded
from postman.delivery import Called, Delivery
from postman.endpoint import create_app
from postman.errors import ConfigError
from postman.flake import Flake
from postman.fleet import Fleet
from postman.guard import Guard
from postman.intake import Intake
from postman.keyring import Keyring
from postman.kind import Surroundings
from postman.ledger import Ledger, Policy
from postman.office import Office
from postman.postbox import Postbox
from postman.queue import Queue
from postman.registry import Setup, set_up
from postman.room import Room
from postman.server import Server, open_listeners
from postman.wire import ClientFactory
from postman.worker import work

_log = structlog.get_logger()

EXIT_MARGIN = 2.0
"""Seconds after `grace` by which the process has ended, whatever hangs."""


@dataclass(frozen=True)
class House:
    """The parts of a running service, put together."""

    config: Config
    queue: Queue
    postbox: Postbox
    delivery: Delivery
    guard: Guard
    room: Room
    clerk: Clerk
    office: Office
    server: Server
    app: QuartTrio


async def run(
    loaded: Loaded,
    *,
    on_call: Callable[[Called], None] = lambda _: None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the service until SIGTERM, SIGINT or cancellation; then drain it.

    Args:
        loaded: the configuration.
        on_call: told of each provider call after its end.
        task_status: started with the URL once mail is taken.

    Raises:
        ConfigError: something in the configuration is wrong; nothing was accepted.
        StoreError: a store cannot be opened.
    """
    setup = set_up(loaded)
    config = loaded.config
    listeners = await open_listeners(config.http.bind)
    client = ClientFactory()
    async with open_stores(setup, client) as (ledger, queue), trio.open_nursery() as providers:
        fleet = Fleet(providers, client)
        carriers = [await fleet.open(configured, config.delivery) for configured in setup.providers]
        house = _assemble(config, ledger, queue, carriers, Server(listeners, config.http), on_call)
        try:
            await house.office.look()
            await _live(house, task_status)
        finally:
            with trio.CancelScope(shield=True):
                house.guard.drain(config.delivery.grace)
                await house.guard.wait_idle()
                await fleet.close_all()
            providers.cancel_scope.cancel()
    _log.info("stopped")


@asynccontextmanager
async def open_stores(setup: Setup, client: ClientFactory) -> AsyncIterator[tuple[Ledger, Queue]]:
    """Open ledger and queue; once, when they are on one URL and their store is both.

    Raises:
        ConfigError: a pair that would break the promise.
        StoreError: a store cannot be opened.
    """
    config = setup.loaded.config
    surroundings = Surroundings("store", config.delivery.workers, config.delivery.timeout, client)
    ledger_kind, queue_kind = setup.ledger.kind, setup.queue.kind
    ledger_settings = msgspec.structs.replace(setup.ledger.settings, policy=policy_of(config))
    queue_settings = setup.queue.settings
    if config.ledger.url == config.queue.url and ledger_kind.open_both is not None:
        async with ledger_kind.open_both(ledger_settings, queue_settings, surroundings) as both:
            yield both
        return
    async with (
        ledger_kind.open(ledger_settings, surroundings) as ledger,
        queue_kind.open(queue_settings, surroundings) as queue,
    ):
        refuse_pair(ledger, queue)
        yield ledger, queue


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


def _assemble(
    config: Config,
    ledger: Ledger,
    queue: Queue,
    carriers: Sequence[Carrier],
    server: Server,
    on_call: Callable[[Called], None],
) -> House:
    postbox = Postbox(carriers, config.delivery.workers)
    guard = Guard()
    room = Room(config.delivery.max_in_flight_bytes)
    clerk = Clerk(ledger, queue, accounts=postbox.accounts, delivering=postbox.available)
    office = Office(
        ledger=ledger,
        queue=queue,
        postbox=postbox,
        clerk=clerk,
        guard=guard,
        room=room,
        server=server,
    )
    intake = Intake(ledger, queue, Flake(config.node))
    return House(
        config=config,
        queue=queue,
        postbox=postbox,
        delivery=Delivery(ledger, queue, guard, on_call=on_call),
        guard=guard,
        room=room,
        clerk=clerk,
        office=office,
        server=server,
        app=create_app(intake, ledger, office, config.http, Keyring(config.http.key)),
    )


async def _live(house: House, task_status: trio.TaskStatus[str]) -> None:
    """Serve and deliver until told to stop, and until what is in hand has ended."""
    async with trio.open_nursery() as waiting_for_signals:
        async with trio.open_nursery() as parts:
            working = await parts.start(_work, house)
            await waiting_for_signals.start(_stop_on_signal, house, working)
            await parts.start(house.server.serve, house.app)
            names = [carrier.name for carrier in house.postbox.carriers]
            _log.info("ready", url=house.server.url, providers=names)
            task_status.started(house.server.url)
        waiting_for_signals.cancel_scope.cancel()


async def _work(
    house: House,
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Workers, clerk and watch, until the scope that is handed out is cancelled and the last delivery has ended."""
    async with trio.open_nursery() as nursery:
        for number in range(house.config.delivery.workers):
            nursery.start_soon(work, number, house.postbox, house.queue, house.delivery, house.guard, house.room)
        nursery.start_soon(house.clerk.run)
        nursery.start_soon(house.office.watch)
        task_status.started(nursery.cancel_scope)


async def _stop_on_signal(
    house: House,
    working: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The first SIGTERM or SIGINT drains; a second ends the process at once, and so does a drain that hangs."""
    grace = house.config.delivery.grace
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            number = await anext(signals)
            _log.info("stopping", signal=signal.Signals(number).name, grace=grace, in_hand=house.guard.held)
            _end_by(grace + EXIT_MARGIN)
            house.guard.drain(grace)
            house.server.close(grace)
            working.cancel()
            await anext(signals)
            os._exit(1)
    finally:
        house.guard.drain(grace)


def _end_by(seconds: float) -> None:
    """A thread of its own, so that it ends the process also when the loop or an fsync hangs."""
    watchdog = threading.Timer(seconds, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
