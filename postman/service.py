"""The composition root: opens everything, runs it in one nursery, ends it in the right order. No behaviour of its own.

The end, by SIGTERM, SIGINT, cancellation or an error: nothing new is taken or claimed, health says 503, requests in
hand are answered, deliveries in hand get `grace` seconds and then 1.5 s to write what came of them, providers close,
stores close.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog
import trio
from quart_trio import QuartTrio

from postman import logs
from postman.allowance import Allowances
from postman.carrier import Carrier
from postman.clerk import Clerk
from postman.config import Loaded
from postman.delivery import Called, Delivery
from postman.endpoint import create_app
from postman.errors import ConfigError
from postman.flake import Flake
from postman.fleet import Fleet
from postman.guard import Guard
from postman.intake import Intake
from postman.keyring import Keyring
from postman.ledger import Ledger
from postman.lookups import Lookups
from postman.office import Office
from postman.postbox import Postbox
from postman.queue import Queue
from postman.registry import Setup, set_up
from postman.reload import Reloader, in_time
from postman.room import Room
from postman.server import Server, open_listeners
from postman.stores import open_stores
from postman.wire import ClientFactory
from postman.worker import work

_log = structlog.get_logger()

EXIT_MARGIN = 2.0
"""Seconds after `grace` by which the process has ended, whatever hangs."""

SAME_WISH = 0.2
"""Seconds in which a second signal is the first once more: some supervisors tell the process and its group."""

LAST_ANSWERS = 0.3
"""Seconds at least for requests in hand once the last delivery has ended."""


@dataclass(frozen=True)
class House:
    """The parts of a running service, put together."""

    workers: int
    queue: Queue
    postbox: Postbox
    delivery: Delivery
    guard: Guard
    room: Room
    clerk: Clerk
    reloader: Reloader
    office: Office
    server: Server
    app: QuartTrio

    @property
    def grace(self) -> float:
        """Seconds that deliveries in hand may take at the end; a reload may change it."""
        return self.reloader.config.delivery.grace


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
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes too late to be obeyed must not kill us while we stop
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        trio.socket.set_custom_hostname_resolver(Lookups())
        setup = await in_time(partial(set_up, loaded))
        listeners = await open_listeners(loaded.config.http.bind)
        client = ClientFactory()
        async with open_stores(setup, client) as (ledger, queue), trio.open_nursery() as providers:
            fleet = Fleet(providers, client)
            carriers = {p.table.name: await fleet.open(p, loaded.config.delivery) for p in setup.providers}
            server = Server(listeners, loaded.config.http)
            house = _assemble(setup, carriers, ledger, queue, server=server, fleet=fleet, on_call=on_call)
            try:
                await house.office.look()
                await _live(house, signals, task_status)
            finally:
                with trio.CancelScope(shield=True):
                    house.guard.drain(house.grace)
                    await house.guard.wait_idle()
                    await fleet.close_all()
                providers.cancel_scope.cancel()
    _log.info("stopped")


def _assemble(
    setup: Setup,
    carriers: Mapping[str, Carrier],
    ledger: Ledger,
    queue: Queue,
    *,
    server: Server,
    fleet: Fleet,
    on_call: Callable[[Called], None],
) -> House:
    config = setup.loaded.config
    postbox = Postbox(list(carriers.values()), config.delivery.workers)
    guard = Guard()
    room = Room(config.delivery.max_in_flight_bytes)
    clerk = Clerk(ledger, queue, accounts=postbox.accounts, delivering=postbox.available)
    keyring = Keyring(config.http.key, batch=config.http.max_batch)
    reloader = Reloader(setup, carriers, fleet=fleet, postbox=postbox, ledger=ledger, keyring=keyring)
    allowances = Allowances(config.http.fair_burst, config.http.fair_rate, several=lambda: keyring.several)
    intake = Intake(ledger, queue, Flake(config.node), allowances=allowances)
    office = Office(
        intake=intake,
        ledger=ledger,
        queue=queue,
        postbox=postbox,
        clerk=clerk,
        guard=guard,
        room=room,
        server=server,
        reloader=reloader,
    )
    return House(
        workers=config.delivery.workers,
        queue=queue,
        postbox=postbox,
        delivery=Delivery(ledger, queue, guard, on_call=on_call),
        guard=guard,
        room=room,
        clerk=clerk,
        reloader=reloader,
        office=office,
        server=server,
        app=create_app(intake, ledger, office, config.http, keyring),
    )


async def _live(house: House, signals: AsyncIterator[int], task_status: trio.TaskStatus[str]) -> None:
    """Serve and deliver until told to stop, and until what is in hand has ended."""
    async with trio.open_nursery() as listening:
        async with trio.open_nursery() as parts:
            working = await parts.start(_work, house)
            await parts.start(house.server.serve, house.app)
            listening.start_soon(_obey, signals, house, working, listening)
            names = [carrier.name for carrier in house.postbox.carriers]
            _log.info("ready", url=house.server.url, providers=names)
            task_status.started(house.server.url)
        listening.cancel_scope.cancel()


async def _work(
    house: House,
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Workers, clerk and watch, until the scope that is handed out is cancelled and the last delivery has ended."""
    async with trio.open_nursery() as nursery:
        for number in range(house.workers):
            nursery.start_soon(work, number, house.postbox, house.queue, house.delivery, house.guard, house.room)
        nursery.start_soon(house.clerk.run)
        nursery.start_soon(house.office.watch)
        task_status.started(nursery.cancel_scope)


async def _obey(
    signals: AsyncIterator[int],
    house: House,
    working: trio.CancelScope,
    nursery: trio.Nursery,
) -> None:
    """SIGHUP reloads. The first SIGTERM or SIGINT drains; a second ends at once, and so does a drain that hangs."""
    stopped = 0.0
    try:
        async for number in signals:
            if number == signal.SIGHUP:
                nursery.start_soon(_reload, house)
            elif house.guard.draining:
                if trio.current_time() > stopped + SAME_WISH:
                    _end_now("a second signal")
            else:
                stopped = trio.current_time()
                _stop(house, working, signal.Signals(number).name)
                nursery.start_soon(_close_door, house, trio.current_time() + house.grace)
    finally:
        house.guard.drain(house.grace)


def _stop(house: House, working: trio.CancelScope, why: str) -> None:
    _log.info("stopping", signal=why, grace=house.grace, in_hand=house.guard.held)
    _end_by(house.grace + EXIT_MARGIN)
    house.guard.drain(house.grace)
    working.cancel()


async def _close_door(house: House, at: float) -> None:
    """While deliveries end, whoever asks is told that the service is stopping; then the listeners close."""
    await house.guard.wait_idle()
    house.server.close(max(LAST_ANSWERS, at - trio.current_time()))


async def _reload(house: House) -> None:
    if not house.guard.draining:
        with suppress(ConfigError):  # it is in the log, and in the status
            await house.reloader.reload()


def _end_by(seconds: float) -> None:
    """A thread of its own, so that it ends the process also when the loop or an fsync hangs."""
    watchdog = threading.Timer(seconds, _end_now, ("something hangs",))
    watchdog.daemon = True
    watchdog.start()


def _end_now(why: str) -> None:
    _log.error("ended by force; what was in hand is found in the ledger at the next start", why=why)
    logs.write_out()
    os._exit(1)
