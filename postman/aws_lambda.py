"""The way out in AWS Lambda: SQS brings notes as events, a schedule calls the clerk. Mail is taken in elsewhere.

`handler` is for an event source mapping of the queue, with ReportBatchItemFailures; `clerk` for a schedule of one
minute. POSTMAN_CONFIG names postman.toml (./postman.toml without it), which must name a ledger that processes share and
a queue in SQS. deploy/aws-lambda.yaml is a template of the whole.

Letters go the way that they go in a service: claimed before the first byte, each end written before its note is done
with. A record that we do not name as failed is deleted by Lambda, so that is how a note is acked. One that must come
again later is put as a new note with its delay, and acked: as a failed record it would stay away for the whole
visibility timeout, and count towards a redrive policy. What cannot be put, or was not come to, is named as failed. So
whatever happens to an invocation, a note is shown again or not needed.

A run of trio lasts for one invocation, and so do all connections: Lambda freezes us between two, for minutes, and what
was left open would be found dead at the next. The configuration, plugins, authorities of TLS and what breakers have
learned are kept.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from postman import logs
from postman.backends.sqs.address import SqsQueueSettings, address_of
from postman.breaker import Breaker
from postman.clerk import Clerk
from postman.config import load
from postman.errors import ConfigError, StoreError, StoreUnavailable, leaf
from postman.fleet import Fleet, terms_of
from postman.guard import WRITE_TIME, Guard
from postman.ledger import ALL, Ledger
from postman.lookups import Lookups
from postman.provider import boottime
from postman.registry import Setup, set_up
from postman.secret import hide
from postman.sending.carrier import Terms, blame
from postman.sending.crew import Crew
from postman.sending.delivery import UNREADY_DELAY, Delivery
from postman.sending.postbox import Postbox
from postman.sending.room import Room
from postman.sqs_event import Records, read_event
from postman.stores import open_ledger, open_queue, open_stores
from postman.wire import ClientFactory

OPENING = 5.0
"""Seconds that a function should have for its stores and providers, before the first call."""

CLOSING = 3.0
"""Seconds left for notes that must come again, and for the answer, when the last end has been written."""

REST = 60.0
"""Seconds until a note is shown again that no provider could be asked for."""

_log = structlog.get_logger()


class Context(Protocol):
    """As much as we need of what Lambda gives a function."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Until the invocation is ended by force."""
        ...


def handler(event: Any, context: Context) -> dict[str, Any]:  # noqa: ANN401  # any JSON
    """Deliver the letters of an event of SQS.

    Returns:
        `{"batchItemFailures": [{"itemIdentifier": ...}]}`: the records that must be shown again as they are.

    Raises:
        ConfigError: the configuration, the function's timeout or the event is wrong; all records are shown again.
        StoreError: the ledger cannot be opened; all records are shown again.
    """
    return _run(partial(_deliver, event), context)


def clerk(event: Any, context: Context) -> dict[str, Any]:  # noqa: ANN401  # any JSON
    """Do the clerk's rounds until nothing is left to do; for a schedule of one minute.

    Returns:
        `{"rounds": ...}`, how many.

    Raises:
        ConfigError: the configuration is wrong, or the event is one for `handler`.
        StoreError: a store does not answer, or not in time for one round.
    """
    if isinstance(event, dict) and "Records" in event:
        raise ConfigError("this is an event of a queue, and postman.aws_lambda.clerk is for a schedule; use handler")
    return _run(_round, context)


@dataclass
class Kept:
    """What outlives an invocation.

    Attributes:
        setup: postman.toml.
        terms: of each provider.
        client: makes HTTP clients; holds no connection.
        breakers: of each provider.
        queues: REGION:NAME of each that [queue] names.
        thin_looks: see `Clerk`.
    """

    setup: Setup
    terms: Sequence[Terms]
    client: ClientFactory
    breakers: Mapping[str, Breaker]
    queues: frozenset[str]
    thin_looks: int = 0

    @property
    def longest(self) -> float:
        """Seconds that a provider call may take."""
        return max(terms.timeout for terms in self.terms)


@cache
def keep(path: Path) -> Kept:
    """Read postman.toml; a mistake is not kept.

    Raises:
        ConfigError: something in it is wrong.
    """
    setup = set_up(load(path))
    queues: set[str] = set()
    for configured in setup.queues:
        if not isinstance(configured.settings, SqsQueueSettings):
            raise ConfigError(
                f"{path.name}: [queue]: in AWS Lambda the url must be of a queue that brings the events:"
                " sqs://REGION/NAME"
            )
        address = address_of(configured.settings)
        queues |= {f"{address.region}:{name}" for name in address.names}
    terms = [terms_of(provider, setup.loaded.config.delivery) for provider in setup.providers]
    breakers = {each.name: Breaker(is_fault=blame, clock=boottime) for each in terms}
    return Kept(setup, terms, ClientFactory(), breakers, frozenset(queues))


@cache
def _begin_logs() -> None:
    logs.configure("info", pretty=False, hide=hide)


def _run(work: Callable[[Kept, float], Awaitable[dict[str, Any]]], context: Context) -> dict[str, Any]:
    """Do the work of an invocation, within its time."""
    _begin_logs()
    with structlog.contextvars.bound_contextvars(request=context.aws_request_id):
        try:
            kept = keep(Path(os.environ.get("POSTMAN_CONFIG", "postman.toml")).absolute())
            return trio.run(work, kept, context.get_remaining_time_in_millis() / 1_000)
        except Exception as error:  # noqa: BLE001  # raised again: Lambda counts it
            one = leaf(error)
            _log.error("the invocation failed; what it was to do is done by another", reason=str(one))
            raise one from None
        finally:
            logs.wait_written()  # we may be frozen as soon as we have answered


async def _deliver(event: object, kept: Kept, seconds: float) -> dict[str, Any]:
    ends = trio.current_time() + seconds
    records = Records(read_event(event, kept.queues))
    if records.waiting:
        needed = OPENING + kept.longest + WRITE_TIME + CLOSING
        if seconds < needed:
            raise ConfigError(
                f"{seconds:.0f} s are left to this invocation, and a provider may take {kept.longest:g} s: give the"
                f" function a timeout of {needed + 1:.0f} s or more, or shorten `timeout` in postman.toml"
            )
        trio.socket.set_custom_hostname_resolver(Lookups())
        async with open_ledger(kept.setup, kept.client) as ledger:
            refuse_ledger(ledger)
            await _deliver_all(records, kept, ledger, ends)
            with trio.move_on_at(ends - CLOSING / 3):
                await _put_again(records, kept, ledger)
    return {"batchItemFailures": [{"itemIdentifier": id} for id in records.failed()]}


async def _deliver_all(records: Records, kept: Kept, ledger: Ledger, ends: float) -> None:
    """Deliver what time allows; on return no call is under way, and no provider is open."""
    config = kept.setup.loaded.config.delivery
    cut = ends - CLOSING - WRITE_TIME
    async with trio.open_nursery() as providers:
        fleet = Fleet(providers, kept.client, clock=boottime)
        carriers = [await fleet.open(p, config, kept.breakers[p.table.name]) for p in kept.setup.providers]
        postbox = Postbox(carriers, config.workers)
        postbox.pause(frozenset(pause.provider for pause in await ledger.pauses()))
        guard = Guard()
        crew = Crew(records, postbox, Delivery(ledger, records, guard), guard, Room(config.max_in_flight_bytes))
        if postbox.available():
            await crew.work(min(config.workers, len(records.waiting)), cut - kept.longest, kept.longest)
        with trio.move_on_at(ends - CLOSING / 2):
            await fleet.close_all()
        providers.cancel_scope.cancel()
    if not crew.failed:
        records.leave(UNREADY_DELAY if postbox.available() else REST)


async def _put_again(records: Records, kept: Kept, ledger: Ledger) -> None:
    """Put notes for the records that come again later. If that fails, the records themselves do."""
    if not (again := records.again()):
        return
    try:
        async with open_queue(kept.setup, kept.client, ledger) as queue:
            for delay, notes in again.items():
                await queue.put(notes, delay)
                records.was_put(delay)
    except* (StoreError, ConfigError) as errors:  # what is raised in a block of an open queue comes in groups
        _log.warning("notes were not put again; their records are shown again instead", reason=str(leaf(errors)))


async def _round(kept: Kept, seconds: float) -> dict[str, Any]:
    """The clerk's rounds."""
    trio.socket.set_custom_hostname_resolver(Lookups())
    rounds, more = 0, True
    with trio.move_on_after(max(0.0, seconds - CLOSING)):
        async with open_stores(kept.setup, kept.client) as (ledger, queue):
            refuse_ledger(ledger)
            paused = {pause.provider for pause in await ledger.pauses()}
            delivering = ALL not in paused and not {terms.name for terms in kept.terms} <= paused
            accounts = frozenset(terms.account for terms in kept.terms)
            desk = Clerk(ledger, queue, accounts=lambda: accounts, delivering=lambda: delivering)
            desk.thin_looks = kept.thin_looks
            while more:
                more = await desk.round()
                kept.thin_looks = desk.thin_looks
                rounds += 1
    if not rounds:
        raise StoreUnavailable(f"no round of the clerk ended in {seconds:.0f} s; give the function a longer timeout")
    return {"rounds": rounds}


def refuse_ledger(ledger: Ledger) -> None:
    """Refuse a ledger that is gone with this process, or that no other process sees.

    Raises:
        ConfigError: saying so, and the cure.
    """
    if not (ledger.shared and ledger.durable):
        raise ConfigError(
            "[ledger]: in AWS Lambda the url must be of a store that keeps what it was told and that all functions"
            " share: postgresql://..., or redis://... with appendonly"
        )
