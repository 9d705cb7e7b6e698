"""The composition root: opens everything, runs it in one nursery, ends it in the right order. No behaviour of its own.

The end, by SIGTERM, SIGINT, cancellation or an error: nothing new is taken or claimed, health says 503, requests in
hand are answered, deliveries in hand get `grace` seconds and then 1.5 s to write what came of them, providers close,
stores close.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog
import trio
from quart_trio import QuartTrio

from postman.allowance import Allowances
from postman.clerk import Clerk
from postman.config import Loaded
from postman.errors import ConfigError
from postman.flake import Flake
from postman.fleet import Fleet
from postman.guard import Guard
from postman.http.endpoint import create_app
from postman.http.keyring import Keyring
from postman.http.listeners import open_listeners
from postman.http.server import Server
from postman.intake import Intake
from postman.ledger import Ledger
from postman.lookups import Lookups
from postman.office import Office
from postman.orders import Orders
from postman.pulse import Pulse
from postman.queue import Queue
from postman.registry import Setup, set_up
from postman.reload import Reloader, in_time
from postman.roster import Roster
from postman.sending.carrier import Carrier
from postman.sending.delivery import Called, Delivery
from postman.sending.postbox import Postbox
from postman.sending.room import Room
from postman.sending.wall import work_of
from postman.sending.worker import work
from postman.stores import open_stores, refuse_part
from postman.wire import ClientFactory

_log = structlog.get_logger()

LAST_ANSWERS = 0.3
"""Seconds at least for requests in hand once the last delivery has ended."""


@dataclass(frozen=True)
class House:
    """The parts of a running service, put together; the office has most of them."""

    office: Office
    app: QuartTrio
    workers: int
    work: Callable[[int], Awaitable[None]]
    """Of one worker, by its number."""

    @property
    def grace(self) -> float:
        """Seconds that deliveries in hand may take at the end; a reload may change it."""
        return self.office.reloader.config.delivery.grace


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
        BaseExceptionGroup: of one ConfigError: something in the configuration is wrong; or of one StoreError: a store
            cannot be opened. Nothing was accepted.
        StoreBroken: a store cannot be written any more, and only a restart can help.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes too late to be obeyed must not kill us while we stop
    orders = Orders()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as listening:
            listening.start_soon(orders.obey, signals)
            with orders.opening:
                await _keep_house(loaded, orders, on_call, task_status)
            listening.cancel_scope.cancel()
    if orders.failure:
        raise orders.failure
    _log.info("stopped")


async def _keep_house(
    loaded: Loaded, orders: Orders, on_call: Callable[[Called], None], task_status: trio.TaskStatus[str]
) -> None:
    """Open everything, live, and close everything."""
    trio.socket.set_custom_hostname_resolver(Lookups())
    setup = await in_time(partial(set_up, loaded))
    listeners = await open_listeners(loaded.config.http.bind, loaded.bind_place)
    client = ClientFactory()
    async with open_stores(setup, client) as (ledger, queue), trio.open_nursery() as providers:
        refuse_part(loaded.only, ledger, queue)
        fleet = Fleet(providers, client)
        carriers = {p.table.name: await fleet.open(p, loaded.config.delivery) for p in setup.providers}
        server = Server(listeners, loaded.config.http)
        house = _assemble(setup, carriers, ledger, queue, server=server, fleet=fleet, orders=orders, on_call=on_call)
        try:
            await house.office.look()
            await _live(house, orders, task_status)
        finally:
            with trio.CancelScope(shield=True):
                house.office.guard.drain(house.grace)
                await house.office.guard.wait_idle()
                await fleet.close_all()
                await house.office.leave()
            providers.cancel_scope.cancel()


def _assemble(
    setup: Setup,
    carriers: Mapping[str, Carrier],
    ledger: Ledger,
    queue: Queue,
    *,
    server: Server,
    fleet: Fleet,
    orders: Orders,
    on_call: Callable[[Called], None],
) -> House:
    config, only = setup.loaded.config, setup.loaded.only
    workers = 0 if only == "http" else config.delivery.workers
    postbox = Postbox(list(carriers.values()), workers)
    guard = Guard()
    room = Room(config.delivery.max_in_flight_bytes)
    clerk = Clerk(ledger, queue, accounts=postbox.accounts, delivering=postbox.available)
    keyring = Keyring(config.http.key, batch=config.http.max_batch)
    reloader = Reloader(setup, carriers, fleet=fleet, postbox=postbox, ledger=ledger, keyring=keyring)
    allowances = Allowances(config.http.fair_burst, config.http.fair_rate, several=lambda: keyring.several)
    intake = Intake(ledger, queue, Flake(config.node), allowances=allowances)
    pulse = Pulse(work_of)
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
        keyring=keyring,
        pulse=pulse,
        roster=Roster(ledger, postbox, workers=workers, only=only or ""),
        on_broken=orders.fail,
    )
    app = create_app(intake, ledger, office, config.http, keyring, takes_mail=only != "workers")
    delivery = Delivery(ledger, queue, guard, on_call=on_call)
    return House(
        office, app, workers, partial(work, postbox=postbox, queue=queue, delivery=delivery, guard=guard, room=room)
    )


async def _live(house: House, orders: Orders, task_status: trio.TaskStatus[str]) -> None:
    """Serve and deliver until told to stop, and until what is in hand has ended."""
    office = house.office
    async with trio.open_nursery() as beside:
        async with trio.open_nursery() as parts:
            await parts.start(office.server.serve, house.app)
            working = trio.CancelScope()
            beside.start_soon(_end, house, orders, working)
            beside.start_soon(office.pulse.run)
            orders.opened(lambda: house.grace, partial(beside.start_soon, _reload, office))
            parts.start_soon(_work, house, working)  # last: what is in hand when the end is asked for has its grace
            names = [carrier.name for carrier in office.postbox.carriers]
            _log.info("ready", url=office.server.url, providers=names)
            task_status.started(office.server.url)
        beside.cancel_scope.cancel()


async def _work(house: House, until: trio.CancelScope) -> None:
    """Workers, clerk and watch, until the scope is cancelled and the last delivery has ended."""
    with until:
        async with trio.open_nursery() as nursery:
            for number in range(house.workers):
                nursery.start_soon(house.work, number)
            if house.workers:  # who only takes mail has less to hold, and less to do, than who delivers it
                nursery.start_soon(house.office.clerk.run)
            nursery.start_soon(house.office.watch)


async def _end(house: House, orders: Orders, working: trio.CancelScope) -> None:
    """Drain when told to. While deliveries end, whoever asks is told that we stop; then the listeners close."""
    office = house.office
    try:
        await orders.end.wait()
    finally:
        office.guard.drain(house.grace)
    working.cancel()
    closes_at = trio.current_time() + house.grace
    await office.guard.wait_idle()
    office.server.close(max(LAST_ANSWERS, closes_at - trio.current_time()))


async def _reload(office: Office) -> None:
    if not office.guard.draining:
        with suppress(ConfigError):  # it is in the log, and in the status
            await office.reloader.reload()
