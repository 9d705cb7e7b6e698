"""The parts that a reload touches: a real postman.toml, fleet and postbox; and a plugin of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec
import pytest
import trio

from postman.backends.memory.ledger import MemoryLedger
from postman.config import Loaded, load
from postman.errors import ConfigError
from postman.fleet import Fleet
from postman.http.keyring import Keyring
from postman.kind import Kind, ProviderSettings, Surroundings
from postman.mail import Letter
from postman.provider import Attempt, Receipt
from postman.registry import Configured, ConfiguredProvider, Setup, decode_settings
from postman.reload import Reloader
from postman.secret import Secret
from postman.sending.carrier import Carrier
from postman.sending.postbox import Postbox
from postman.wire import ClientFactory

NOTHING = msgspec.defstruct("Nothing", [], frozen=True)

KEY = f'[[http.key]]\nname = "shop"\nsha256 = "{64 * "0"}"\n'


class Settings(ProviderSettings, frozen=True, kw_only=True):
    """Settings of the plugin of these tests."""

    opens: Literal["well", "never", "raises", "exits", "refuses"] = "well"
    closes: Literal["well", "never", "raises"] = "well"
    connects: int | None = None
    key: Secret = Secret("")


class Account:
    """A provider that knows whether it is open."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.open = True

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        raise AssertionError("nothing is sent in these tests")


class House:
    """The parts that a reload touches.

    Attributes:
        accounts: every provider that was ever opened, in that order.
        version: of the plugin that is installed.
        reads: how often postman.toml was read.
        on_read: called before it is read, in the thread that reads.
        opening: set when a provider opens that never ends to.
    """

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.path = directory / "postman.toml"
        self.accounts: list[Account] = []
        self.version = "1"
        self.reads = 0
        self.opening = trio.Event()
        self.on_read: Callable[[], None] = lambda: None
        self.fleet = Fleet(nursery, ClientFactory())
        self.ledger = MemoryLedger()
        self.keyring = Keyring(())

    async def open(self) -> None:
        """Start with the file as it is."""
        self.setup = self.read(self.path)
        delivery = self.setup.loaded.config.delivery
        carriers = {p.table.name: await self.fleet.open(p, delivery) for p in self.setup.providers}
        self.postbox = Postbox(list(carriers.values()), delivery.workers)
        self.reloader = Reloader(
            self.setup,
            carriers,
            fleet=self.fleet,
            postbox=self.postbox,
            ledger=self.ledger,
            keyring=self.keyring,
            read=lambda loaded: self.read(loaded.path),
            second_look=0,
        )

    def write(self, *providers: str, head: str = "") -> None:
        """Write postman.toml; a provider is its name, or its name and more lines."""
        tables = [provider.partition("\n") for provider in providers]
        text = "".join(f'[[provider]]\nname = "{name}"\nplugin = "tiny"\n{more}\n' for name, _, more in tables)
        self.path.write_text(f"{head}\n{text}")

    def read(self, path: Path) -> Setup:
        self.reads += 1
        self.on_read()
        loaded = load(path)
        kind = Kind("tiny", Settings, self._open)
        store = Configured(kind, NOTHING(), "", "")
        return Setup(loaded, store, (store,), tuple(self._configured(kind, loaded)))

    def _configured(self, kind: Kind[Settings, Account], loaded: Loaded) -> list[ConfiguredProvider]:
        return [
            ConfiguredProvider(
                kind, decode_settings(kind, table.settings, table.name, loaded.directory), "", self.version, table
            )
            for table in loaded.config.provider
        ]

    @asynccontextmanager
    async def _open(self, settings: Settings, surroundings: Surroundings) -> AsyncIterator[Account]:
        match settings.opens:
            case "never":
                self.opening.set()
                await trio.sleep_forever()
            case "raises":
                raise ZeroDivisionError("by zero")
            case "exits":
                raise SystemExit(3)
            case "refuses":
                raise ConfigError("the key is worn out")
        stream = await trio.open_tcp_stream("127.0.0.1", settings.connects) if settings.connects else None
        account = Account(surroundings.name, settings)
        self.accounts.append(account)
        try:
            yield account
            if settings.closes == "never":
                await trio.sleep_forever()
            if settings.closes == "raises":
                raise ZeroDivisionError("by zero")
        finally:
            account.open = False
            if stream:
                await trio.aclose_forcefully(stream)

    def carrier(self, name: str) -> Carrier:
        (carrier,) = [carrier for carrier in self.postbox.carriers if carrier.name == name]
        return carrier

    def names(self) -> list[str]:
        return [carrier.name for carrier in self.postbox.carriers]

    def open_accounts(self) -> list[str]:
        return [account.name for account in self.accounts if account.open]


async def refused(house: House) -> str:
    before = house.postbox.carriers, house.keyring._clients, house.ledger.policy, house.postbox._choices
    with pytest.raises(ConfigError) as caught:
        await house.reloader.reload()
    assert (house.postbox.carriers, house.keyring._clients, house.ledger.policy, house.postbox._choices) == before
    return str(caught.value)
