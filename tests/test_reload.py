"""Reloading in-process: a real postman.toml, fleet and postbox; a plugin that knows what became of its providers."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from postman.backends.memory.ledger import MemoryLedger
from postman.breaker import State
from postman.carrier import Carrier
from postman.config import Loaded, load
from postman.errors import ConfigError, ProviderMisconfigured
from postman.fleet import CLOSE_LIMIT, OPEN_LIMIT, Fleet
from postman.keyring import Keyring
from postman.kind import Kind, ProviderSettings, Surroundings
from postman.mail import Letter
from postman.postbox import Postbox
from postman.provider import Attempt, Receipt
from postman.registry import Configured, ConfiguredProvider, Setup, decode_settings
from postman.reload import FIXED, Reloader, Report
from postman.secret import Secret
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
        self.path.chmod(0o600)

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


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        house = House(tmp_path, nursery)
        house.write("a", "b")
        await house.open()
        yield house
        nursery.cancel_scope.cancel()


async def refused(house: House) -> str:
    before = house.postbox.carriers, house.keyring._clients, house.ledger.policy, house.postbox._choices
    with pytest.raises(ConfigError) as caught:
        await house.reloader.reload()
    assert (house.postbox.carriers, house.keyring._clients, house.ledger.policy, house.postbox._choices) == before
    return str(caught.value)


# what changes


async def test_a_reload_tells_what_was_added_changed_removed_and_kept(house: House) -> None:
    house.write("c", "b\nweight = 3", "a", "d")
    await house.reloader.reload()
    house.write("d", 'c\nsettings = { closes = "raises" }', "e", "b\nweight = 3")
    report = await house.reloader.reload()
    assert report == Report(added=("e",), changed=("c",), removed=("a",), kept=("d", "b"))
    await wait_all_tasks_blocked()
    assert house.names() == ["d", "c", "e", "b"]
    assert sorted(house.open_accounts()) == ["b", "c", "d", "e"]
    assert house.reloader.trouble == ""


@pytest.mark.parametrize(
    "line",
    ["weight = 7", "rate = 5", "max-concurrent = 2", 'from-domains = ["example.org"]', 'suppressed = "fail-over"'],
)
async def test_other_terms_are_granted_to_the_same_provider(house: House, line: str) -> None:
    provider, breaker, terms = house.carrier("a").provider, house.carrier("a").breaker, house.carrier("a").terms
    house.write(f"a\n{line}", "b")
    assert (await house.reloader.reload()).changed == ("a",)
    assert house.carrier("a").provider is provider
    assert house.carrier("a").breaker is breaker
    assert house.carrier("a").terms != terms
    assert len(house.accounts) == 2


async def test_weights_deal_the_workers_anew(house: House) -> None:
    house.write("a\nweight = 0", "b")
    await house.reloader.reload()
    for worker in range(64):
        with await house.postbox.wait_available(worker) as turn:
            assert turn.calls()[0].provider == "b"


@pytest.mark.parametrize("line", ["timeout = 3", 'settings = { closes = "raises" }'])
async def test_what_a_provider_was_opened_with_opens_it_anew(house: House, line: str) -> None:
    house.write(f"a\n{line}", "b")
    assert (await house.reloader.reload()).changed == ("a",)
    await wait_all_tasks_blocked()
    assert [(account.name, account.open) for account in house.accounts] == [("a", False), ("b", True), ("a", True)]


async def test_a_plugin_that_was_installed_again_is_opened_anew(house: House) -> None:
    house.version = "2"
    assert (await house.reloader.reload()).changed == ("a", "b")


async def test_a_changed_key_in_a_file_opens_the_provider_anew_and_an_unchanged_one_does_not(
    house: House, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    house.write('a\nsettings = { key = { file = "key" } }', "b")
    for text, kept in (("one", ("b",)), ("one", ("a", "b")), ("two", ("b",))):
        key.write_text(text)
        key.chmod(0o600)
        assert (await house.reloader.reload()).kept == kept
        provider = house.carrier("a").provider
        assert isinstance(provider, Account)
        assert provider.settings.key.reveal() == text


async def test_the_breaker_of_an_unchanged_provider_stays_open_and_a_changed_one_gets_a_new_chance(
    house: House,
) -> None:
    for name in ("a", "b"):
        with pytest.raises(ProviderMisconfigured), house.carrier(name).call():
            raise ProviderMisconfigured("401")
    house.write("a", "b\ntimeout = 3")
    await house.reloader.reload()
    assert house.carrier("a").breaker.state is State.OPEN
    assert house.carrier("b").breaker.state is State.CLOSED


async def test_a_provider_that_a_person_paused_stays_paused_when_it_is_opened_anew(house: House) -> None:
    house.postbox.pause(frozenset({"a"}))
    house.write("a\ntimeout = 3", "b")
    await house.reloader.reload()
    assert [carrier.paused for carrier in house.postbox.carriers] == [True, False]
    house.postbox.pause(frozenset("*"))
    house.write("a", "b", "c")
    await house.reloader.reload()
    assert all(carrier.paused for carrier in house.postbox.carriers)


async def test_policy_and_keys_are_those_of_the_new_file(house: House) -> None:
    house.write("a", "b", head=f"[delivery]\nmax-attempts = 3\n[ledger]\nretention = 300000\n{KEY}")
    report = await house.reloader.reload()
    assert report.kept == ("a", "b")
    assert (house.ledger.policy.max_attempts, house.ledger.policy.retention) == (3, 300_000)
    assert not house.keyring.open


async def test_a_reload_that_changes_nothing_moves_no_worker(house: House) -> None:
    choices = house.postbox._choices
    await house.reloader.reload()
    assert house.postbox._choices is choices


# what cannot change

EDITS = {
    "node": "node = 3",
    "[http], but for its keys": "[http]\nmax-batch = 11",
    "[ledger] url": '[ledger]\nurl = "memory:"\n[queue]\nurl = "sqlite:postman.db"',
    "[queue] url": '[queue]\nurl = "memory:"',
    "[queue] visibility-timeout": "[queue]\nvisibility-timeout = 61",
    "[delivery] workers": "[delivery]\nworkers = 65",
    "[delivery] max-in-flight-bytes": "[delivery]\nmax-in-flight-bytes = 1",
}


@pytest.mark.parametrize("name", FIXED)
async def test_what_needs_a_restart_is_refused_by_name_and_the_rest_of_the_file_with_it(
    house: House, name: str
) -> None:
    house.write("a", head=EDITS[name])
    assert await refused(house) == f"{name} changed, which needs a restart; nothing was changed"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[provider]", "postman.toml: not TOML"),
        ('[[provider]]\nname = "a"\nplugin = "ti', "postman.toml: not TOML"),
        ("", "there is no [[provider]]"),
        ('[[provider]]\nname = "a"\nplugin = "tiny"\nwieght = 1', 'unknown key "wieght"; did you mean "weight"?'),
        (
            '[[provider]]\nname = "a"\nplugin = "tiny"\nsettings = { key = { env = "NOBODY_SET_THIS" } }',
            "the environment variable NOBODY_SET_THIS is not set",
        ),
        ('[[provider]]\nname = "a"\nplugin = "tiny"\nsettings = { key = { file = "k" } }', "k cannot be read"),
        (
            f"{KEY}from = ['localhost']\n[[provider]]\nname = 'a'\nplugin = 'tiny'",
            '[[http.key]] #1 "shop": "from": [0] must be a domain in lower case',
        ),
    ],
)
async def test_a_mistake_in_the_file_is_told_and_changes_nothing(house: House, text: str, why: str) -> None:
    house.path.write_text(text)
    assert why in await refused(house)
    assert why in house.reloader.trouble
    house.write("a", "b")
    assert (await house.reloader.reload()).kept == ("a", "b")
    assert house.reloader.trouble == ""


async def test_a_file_that_is_gone_changes_nothing(house: House) -> None:
    house.path.unlink()
    assert "does not exist" in await refused(house)


async def test_a_bug_while_the_file_is_read_is_a_mistake_like_others(house: House) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    house.on_read = fail
    assert await refused(house) == "ZeroDivisionError: by zero; the log says more"


async def test_a_file_or_plugin_that_is_being_written_is_looked_at_twice(house: House) -> None:
    def finish_writing() -> None:
        if house.reads == 3:
            house.write("a", "b", "c")

    house.path.write_text('[[provider]]\nname = "a')
    house.on_read = finish_writing
    assert (await house.reloader.reload()).added == ("c",)
    assert house.reads == 3


# providers that do not open, and those that do not close


@pytest.mark.parametrize(
    ("opens", "why"),
    [
        ("raises", "did not open: ZeroDivisionError: by zero"),
        ("exits", "did not open: SystemExit: 3"),
        ("refuses", "the key is worn out"),
    ],
)
async def test_when_the_second_of_two_new_providers_does_not_open_the_first_is_closed_again(
    house: House, opens: str, why: str
) -> None:
    house.write("b", "c", f'd\nsettings = {{ opens = "{opens}" }}')
    assert await refused(house) == f'[[provider]] "d": {why}'
    await wait_all_tasks_blocked()
    assert [(account.name, account.open) for account in house.accounts] == [("a", True), ("b", True), ("c", False)]


async def test_a_provider_that_never_opens_is_given_up(house: House, mock_clock: MockClock) -> None:
    house.write("a", "b", 'c\nsettings = { opens = "never" }')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, house)
        await house.opening.wait()
        mock_clock.jump(OPEN_LIMIT)
    assert '[[provider]] "c": did not open within 10 s' in house.reloader.trouble
    assert house.open_accounts() == ["a", "b"]


async def test_a_retired_provider_is_closed_only_when_its_call_in_flight_has_ended(house: House) -> None:
    house.write("a", "b\nweight = 0")
    await house.reloader.reload()
    with await house.postbox.wait_available(0) as turn:
        assert turn.calls()[0].provider == "a"
        with turn.call("a") as carrier:
            house.write("a\ntimeout = 3", "b\nweight = 0")
            assert (await house.reloader.reload()).changed == ("a",)
            await wait_all_tasks_blocked()
            assert house.accounts[0].open
            assert carrier.provider is house.accounts[0]
            with await house.postbox.wait_available(1) as another:
                another.calls()
                with another.call("a") as successor:
                    assert successor.provider is house.accounts[2]
        await wait_all_tasks_blocked()
        assert house.accounts[0].open
    await wait_all_tasks_blocked()
    assert not house.accounts[0].open


async def test_a_provider_that_does_not_close_is_ended_and_holds_up_nothing(
    house: House, mock_clock: MockClock
) -> None:
    house.write('a\nsettings = { closes = "never" }')
    await house.reloader.reload()
    await wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    house.write("b")
    assert (await house.reloader.reload()).removed == ("a",)
    await wait_all_tasks_blocked()
    mock_clock.jump(CLOSE_LIMIT)
    await wait_all_tasks_blocked()
    assert house.open_accounts() == ["b"]
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_the_end_of_the_house_and_a_retirement_may_close_one_provider_both(
    house: House, mock_clock: MockClock
) -> None:
    house.write('a\nsettings = { closes = "never" }', 'b\nsettings = { closes = "raises" }')
    await house.reloader.reload()
    house.write("c")
    await house.reloader.reload()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.fleet.close_all)
        await wait_all_tasks_blocked()
        mock_clock.jump(CLOSE_LIMIT)
    await wait_all_tasks_blocked()
    assert house.open_accounts() == []


# many at once


async def test_a_hundred_reloads_at_once_are_at_most_two_and_all_see_the_last_file(house: House) -> None:
    reading, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def wait() -> None:
        token.run_sync_soon(reading.set)
        assert go_on.wait(10)

    house.on_read = wait
    seen: list[bool] = []

    async def reload_and_look() -> None:
        await house.reloader.reload()
        seen.append("c" in house.names())

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(house.reloader.reload)
        await reading.wait()
        for _ in range(50):
            nursery.start_soon(reload_and_look)
        await wait_all_tasks_blocked()
        house.write("a", "b", "c")
        go_on.set()
    assert house.reads <= 1 + 2
    assert seen == [True] * 50


async def test_who_waited_for_a_reload_that_was_cancelled_reloads_in_its_place(house: House) -> None:
    reading, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def wait() -> None:
        token.run_sync_soon(reading.set)
        assert go_on.wait(10)

    await house.reloader.reload()
    house.on_read = wait
    house.write("a", "b", "c")
    scopes: dict[trio.lowlevel.Task | None, trio.CancelScope] = {}
    added: list[tuple[str, ...]] = []

    async def reload() -> None:
        with trio.CancelScope() as scope:
            scopes[trio.lowlevel.current_task()] = scope
            added.append((await house.reloader.reload()).added)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        nursery.start_soon(reload)
        await reading.wait()
        scopes[house.reloader._lock.statistics().owner].cancel()
        go_on.set()
    assert added == [("c",)]


async def test_a_thousand_reloads_leave_tasks_descriptors_connections_and_memory_flat(house: House) -> None:
    connected = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connected
        connected += 1
        with trio.move_on_after(60):
            async for _ in stream:
                pass
        connected -= 1
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        variants: list[Setup] = []
        for providers in (
            ("a", f"b\nsettings = {{ connects = {port} }}", "c"),
            (f"b\nsettings = {{ connects = {port} }}\ntimeout = 3", "c\nweight = 0", "a\nrate = 9"),
            ("a", f"d\nsettings = {{ connects = {port} }}", 'e\nsettings = { opens = "raises" }'),
        ):
            house.write(*providers)
            variants.append(house.read(house.path))
        turns = cycle(variants)
        house.reloader._read = lambda _: next(turns)

        async def reload(times: int) -> tuple[int, ...]:
            for variant in islice(cycle(variants), times):
                try:
                    report = await house.reloader.reload()
                    assert report.changed or report.added
                except ConfigError:
                    assert variant is variants[2]
                house.accounts.clear()
            await wait_all_tasks_blocked(0.01)
            gc.collect()
            return (
                trio.lowlevel.current_statistics().tasks_living,
                len(list(Path("/proc/self/fd").iterdir())),
                threading.active_count(),
                connected,
                len(gc.get_objects()),
            )

        *before, objects = await reload(102)
        *after, objects_after = await reload(900)
        assert after == before
        assert abs(objects_after - objects) < 300
        nursery.cancel_scope.cancel()
