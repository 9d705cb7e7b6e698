"""Reload: postman.toml is read anew, and other providers take the place of those that changed, under load.

Decode and check, open what is new, swap, let what is old finish what it holds, close it. Until the swap nothing has
changed, so any error keeps the old set as it was; the swap itself is sync, so nobody sees half of it. A provider whose
plugin, version and settings are the same is kept, with its connections and its breaker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import msgspec
import structlog
import trio

from postman.config import Config, Loaded
from postman.errors import ConfigError
from postman.fleet import Fleet, terms_of
from postman.http.keyring import Keyring
from postman.ledger import Ledger
from postman.registry import ConfiguredProvider, Setup, set_up
from postman.secret import hide
from postman.sending.carrier import Carrier, Terms
from postman.sending.postbox import Postbox
from postman.stores import policy_of

_log = structlog.get_logger()

READ_LIMIT = 10.0
"""Seconds that reading and importing may take."""

SECOND_LOOK = 1.0

FIXED: Final[Mapping[str, Callable[[Config], object]]] = {
    "node": lambda config: config.node,
    "[http], but for its keys": lambda config: msgspec.structs.replace(config.http, key=()),
    "[ledger] url": lambda config: config.ledger.url,
    "[queue] url": lambda config: config.queue_urls,
    "[queue] visibility-timeout": lambda config: config.queue.visibility_timeout,
    "[delivery] workers": lambda config: config.delivery.workers,
    "[delivery] max-in-flight-bytes": lambda config: config.delivery.max_in_flight_bytes,
}
"""What cannot change without a restart."""


class Report(msgspec.Struct, frozen=True):
    """What a reload did, by names of providers.

    Attributes:
        added: opened; there were none of these names.
        changed: opened anew, or granted other terms (a weight, a rate).
        removed: are closed once their calls have ended.
        kept: are as they were.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]


class Reloader:
    """Reads postman.toml anew, one reload at a time.

    Args:
        setup: what runs now.
        carriers: its providers, in the order of the file.
        fleet: opens and closes them.
        postbox: is given other providers.
        ledger: is given another policy.
        keyring: is given other keys.
        read: how postman.toml becomes a setup, given what runs now; may block.
        second_look: seconds after which it is read once more when it could not be: an installer at work shows neither
            the old version of a plugin nor the new one, an editor half a file.
    """

    def __init__(
        self,
        setup: Setup,
        carriers: Mapping[str, Carrier],
        *,
        fleet: Fleet,
        postbox: Postbox,
        ledger: Ledger,
        keyring: Keyring,
        read: Callable[[Loaded], Setup] = lambda loaded: set_up(loaded.again()),
        second_look: float = SECOND_LOOK,
    ) -> None:
        self._setup = setup
        self._carriers = dict(carriers)
        self._fleet = fleet
        self._postbox = postbox
        self._ledger = ledger
        self._keyring = keyring
        self._read = read
        self._second_look = second_look
        self._lock = trio.Lock()
        self._begun = 0
        self._last: Report | ConfigError | None = None
        self.trouble = ""

    @property
    def config(self) -> Config:
        """What runs now."""
        return self._setup.loaded.config

    async def reload(self) -> Report:
        """Read postman.toml anew and act on it. A storm of calls is at most two reloads.

        Raises:
            ConfigError: the old set goes on unchanged; the text says why.
        """
        asked = self._begun
        async with self._lock:
            if self._begun == asked or self._last is None:  # else one has begun, and ended, since we asked
                self._begun += 1
                self._last = None  # stays so if we are cancelled
                self._last = await self._try()
        if isinstance(self._last, ConfigError):
            raise self._last
        return self._last

    async def _try(self) -> Report | ConfigError:
        failure: ConfigError
        try:
            report = await self._reload()
        except ConfigError as error:
            failure = error
        except Exception as bug:  # noqa: BLE001  # the wall between us and what a plugin does while it is read
            _log.exception("a bug ended a reload")
            failure = ConfigError(hide(f"{type(bug).__name__}: {bug}; the log says more"))
        else:
            self.trouble = ""
            _log.info("reloaded", **msgspec.to_builtins(report))
            return report
        self.trouble = f"The reload at {time.strftime('%H:%M:%S')} failed, the old configuration goes on: {failure}"
        _log.error("reload failed; the old configuration goes on", reason=str(failure))
        return failure

    async def _reload(self) -> Report:
        setup = await self._read_twice()
        config = setup.loaded.config
        refuse_fixed(self.config, config)
        old = {provider.table.name: provider for provider in self._setup.providers}
        terms = {
            name: terms_of(new, config.delivery)
            for new in setup.providers
            if (name := new.table.name) in old and _same(old[name], new, self.config, config)
        }
        opened = await self._open([new for new in setup.providers if new.table.name not in terms], config)
        return self._swap(setup, terms, opened)

    def _swap(self, setup: Setup, terms: Mapping[str, Terms], opened: Mapping[str, Carrier]) -> Report:
        """Put what was opened in the place of what changed, and grant `terms` to what stays; at once."""
        old, names = self._carriers, [provider.table.name for provider in setup.providers]
        kept = {name for name in terms if terms[name] == old[name].terms}
        for name in terms.keys() - kept:
            old[name].retune(terms[name])
        self._carriers = {name: opened.get(name) or old[name] for name in names}
        if list(old) != names or len(kept) < len(names):
            self._postbox.replace(list(self._carriers.values()))
        self._setup = setup
        self._ledger.policy = policy_of(self.config)
        self._keyring.replace(self.config.http.key)
        retired = [carrier for name, carrier in old.items() if name not in terms]
        if retired:
            self._fleet.retire(retired, self._postbox.wait_settled)
        return Report(
            added=tuple(name for name in names if name not in old),
            changed=tuple(name for name in names if name in old and name not in kept),
            removed=tuple(name for name in old if name not in names),
            kept=tuple(name for name in names if name in kept),
        )

    async def _read_twice(self) -> Setup:
        read = partial(self._read, self._setup.loaded)
        try:
            return await in_time(read)
        except Exception:  # noqa: BLE001  # of whatever kind: it may be gone in a moment
            await trio.sleep(self._second_look)
        return await in_time(read)

    async def _open(self, providers: list[ConfiguredProvider], config: Config) -> dict[str, Carrier]:
        """Open all of them, or none."""
        opened: dict[str, Carrier] = {}
        try:
            for provider in providers:
                opened[provider.table.name] = await self._fleet.open(provider, config.delivery)
        except BaseException:
            self._fleet.retire(opened.values(), trio.lowlevel.checkpoint)
            raise
        return opened


def refuse_fixed(old: Config, new: Config) -> None:
    """Refuse changes that need a restart.

    Raises:
        ConfigError: naming them.
    """
    changed = [name for name, part in FIXED.items() if part(old) != part(new)]
    if changed:
        raise ConfigError(f"{', '.join(changed)} changed, which needs a restart; nothing was changed")


def _same(old: ConfiguredProvider, new: ConfiguredProvider, before: Config, after: Config) -> bool:
    """Whether an opened provider serves the new configuration as it is."""
    return (old.table.plugin, old.fingerprint, old.settings, old.table.timeout or before.delivery.timeout) == (
        new.table.plugin,
        new.fingerprint,
        new.settings,
        new.table.timeout or after.delivery.timeout,
    )


async def in_time(read: Callable[[], Setup]) -> Setup:
    """Read the configuration in a thread: the import of a plugin may take long, or for ever.

    Raises:
        ConfigError: a mistake, or it took too long.
    """
    with trio.move_on_after(READ_LIMIT):
        return await trio.to_thread.run_sync(
            read,
            abandon_on_cancel=True,
            limiter=trio.CapacityLimiter(1),  # of its own, so that an import that hangs does not block the next reading
        )
    raise ConfigError(f"reading the configuration and importing its plugins took longer than {READ_LIMIT:g} s")
