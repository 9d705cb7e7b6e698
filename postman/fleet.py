"""The fleet: opens providers, each in a task of its own, so that one can be closed while the others go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from postman.breaker import Breaker
from postman.carrier import Carrier, Terms, blame
from postman.config import Delivery
from postman.errors import ConfigError
from postman.kind import Surroundings
from postman.provider import Provider
from postman.registry import ConfiguredProvider
from postman.wire import ClientFactory

_log = structlog.get_logger()

OPEN_LIMIT = 10.0
"""Seconds that a provider may take to open."""

CLOSE_LIMIT = 30.0
"""Seconds that a provider may take to give everything back."""


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
        self._closing: dict[Carrier, tuple[trio.Event, trio.Event]] = {}

    async def open(self, configured: ConfiguredProvider, delivery: Delivery) -> Carrier:
        """Open one provider.

        Raises:
            ConfigError: it did not open, or not in time.
        """
        place = f'[[provider]] "{configured.table.name}"'
        terms = terms_of(configured, delivery)
        surroundings = Surroundings(terms.name, delivery.workers, terms.timeout, self._client)
        closing, closed = trio.Event(), trio.Event()
        try:
            with trio.fail_after(OPEN_LIMIT):
                provider = await self._nursery.start(_hold_open, configured, surroundings, closing, closed)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
        except trio.TooSlowError as error:
            raise ConfigError(f"{place}: did not open within {OPEN_LIMIT:g} s") from error
        except Exception as error:
            raise ConfigError(f"{place}: did not open: {type(error).__name__}: {error}") from error
        carrier = Carrier(provider, terms, Breaker(is_fault=blame, clock=self._clock), clock=self._clock)
        self._closing[carrier] = closing, closed
        return carrier

    async def close(self, carrier: Carrier) -> None:
        """Close one provider, after its calls have ended; bounded."""
        closing, closed = self._closing.pop(carrier)
        closing.set()
        with trio.move_on_after(CLOSE_LIMIT) as scope:
            await closed.wait()
        if scope.cancelled_caught:
            _log.warning("a provider did not close in time", provider=carrier.name, seconds=CLOSE_LIMIT)

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
            for carrier in list(self._closing):
                nursery.start_soon(self.close, carrier)


def terms_of(configured: ConfiguredProvider, delivery: Delivery) -> Terms:
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
    closing: trio.Event,
    closed: trio.Event,
    *,
    task_status: trio.TaskStatus[Provider] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep a provider open until asked to close it. What it does wrong later costs this provider alone."""
    opened = False
    try:
        async with configured.kind.open(configured.settings, surroundings) as provider:
            opened = True
            task_status.started(provider)
            await closing.wait()
    except Exception:
        if not opened:
            raise
        _log.exception("a provider broke while it was open", provider=surroundings.name)
    finally:
        closed.set()
