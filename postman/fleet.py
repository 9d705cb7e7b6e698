"""The fleet: opens providers, each in a task of its own, so that one can be closed while the others go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog
import trio

from postman.breaker import Breaker
from postman.config import DeliveryTable
from postman.errors import ConfigError
from postman.kind import Surroundings
from postman.provider import Provider
from postman.registry import ConfiguredProvider
from postman.secret import hide
from postman.sending.carrier import Carrier, Terms, blame
from postman.wire import ClientFactory

_log = structlog.get_logger()

OPEN_LIMIT = 10.0
"""Seconds that a provider may take to open."""

CLOSE_LIMIT = 30.0
"""Seconds that a provider may take to give everything back."""


@dataclass(eq=False)
class _Stay:
    """A provider's stay with us: asked to end, ended, and the means to end it if it will not."""

    closing: trio.Event = field(default_factory=trio.Event)
    closed: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Fleet:
    """Opens and closes providers.

    Args:
        nursery: holds them open.
        client: the factory of HTTP clients that they are given.
        clock: of breakers and limits; seconds, monotonic.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        client: ClientFactory,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._nursery = nursery
        self._client = client
        self._clock = clock
        self._stays: dict[Carrier, _Stay] = {}

    async def open(
        self, configured: ConfiguredProvider, delivery: DeliveryTable, breaker: Breaker | None = None
    ) -> Carrier:
        """Open one provider.

        Args:
            configured: what to open.
            delivery: what it is granted beside its own table.
            breaker: its health so far, by the clock of the fleet; None: nothing is known of it.

        Raises:
            ConfigError: it did not open, or not in time.
        """
        place = f'[[provider]] "{configured.table.name}"'
        terms = terms_of(configured, delivery)
        surroundings = Surroundings(terms.name, delivery.workers, terms.timeout, self._client)
        stay = _Stay()
        with trio.move_on_after(OPEN_LIMIT):
            try:
                provider = await self._nursery.start(_hold_open, configured, surroundings, stay)
            except ConfigError as error:
                raise ConfigError(f"{place}: {hide(str(error))}") from error
            breaker = breaker or Breaker(is_fault=blame, clock=self._clock)
            carrier = Carrier(provider, terms, breaker, clock=self._clock)
            self._stays[carrier] = stay
            return carrier
        raise ConfigError(f"{place}: did not open within {OPEN_LIMIT:g} s")

    async def close(self, carrier: Carrier) -> None:
        """Close one provider, after its calls have ended; bounded. Closing it twice, also at once, does no harm."""
        stay = self._stays.get(carrier)
        if stay is None:
            return
        stay.closing.set()
        with trio.move_on_after(CLOSE_LIMIT) as limit:
            await stay.closed.wait()
        if limit.cancelled_caught:
            stay.scope.cancel()
            _log.warning("a provider did not close in time", provider=carrier.name, seconds=CLOSE_LIMIT)
        self._stays.pop(carrier, None)

    def retire(self, carriers: Iterable[Carrier], settled: Callable[[], Awaitable[None]]) -> None:
        """Close providers in the background, once `settled` has returned."""

        async def close() -> None:
            await settled()
            for carrier in carriers:
                await self.close(carrier)
                _log.info("retired", provider=carrier.name)

        self._nursery.start_soon(close)

    async def close_all(self) -> None:
        """Close every provider, at once."""
        async with trio.open_nursery() as nursery:
            for carrier in list(self._stays):
                nursery.start_soon(self.close, carrier)


def terms_of(configured: ConfiguredProvider, delivery: DeliveryTable) -> Terms:
    """What postman.toml and the plugin grant a provider."""
    kind, table = configured.kind, configured.table
    return Terms(
        name=table.name,
        account=kind.account(configured.settings),
        weight=table.weight,
        timeout=table.timeout or delivery.timeout,
        rate=table.rate,
        max_concurrent=table.max_concurrent,
        from_domains=table.from_domains,
        fail_over_suppressed=table.suppressed == "fail-over",
        marks=kind.marks,
        delivers=kind.delivers,
    )


async def _hold_open(
    configured: ConfiguredProvider,
    surroundings: Surroundings,
    stay: _Stay,
    *,
    task_status: trio.TaskStatus[Provider] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep a provider open until asked to close it. What it does wrong later costs this provider alone."""
    opened = False
    try:
        with stay.scope:
            async with configured.kind.open(configured.settings, surroundings) as provider:
                opened = True
                task_status.started(provider)
                await stay.closing.wait()
    except (trio.Cancelled, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: nothing that a plugin does may end us
        if opened:
            _log.exception("a provider broke while it was open", provider=surroundings.name)
        elif isinstance(error, ConfigError):
            raise
        else:
            raise ConfigError(f"did not open: {type(error).__name__}: {error}") from error
    finally:
        stay.closed.set()
