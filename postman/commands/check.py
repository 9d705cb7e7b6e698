"""The commands that look at what the service is made of, and make keys for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click
import msgspec
import trio

from postman import logs, registry, stores
from postman.commands.client import Client, Refused, Unreachable
from postman.commands.options import bind_option, config_option, json_option, show, url_at
from postman.config import USUAL_SCOPES, Loaded, Name, Scope, load
from postman.errors import ConfigError, ProviderError
from postman.http.keyring import new_key
from postman.http.listeners import open_listeners
from postman.kind import ONLY_FAKES, Surroundings
from postman.provider import LiveCheck
from postman.registry import ConfiguredProvider
from postman.secret import hide
from postman.wire import ClientFactory

LIVE_LIMIT = 25.0
"""Seconds that a provider may take to answer `check --live`."""

LIVE_AT_ONCE = 32
"""Providers asked at once."""


@click.command()
@config_option
@bind_option
@click.option("--live", is_flag=True, help="Ask each provider its cheapest question; sends no mail.")
@json_option
def check(config: Path, bind: str | None, live: bool, as_json: bool) -> int:  # noqa: FBT001  # click passes by name
    """Say what is wrong with the configuration.

    A service that runs is not disturbed, and neither are its files. With --live: whether mail would arrive.
    """
    logs.configure("warning", hide=hide)
    loaded = load(config, bind=bind)
    setup = registry.set_up(loaded)
    for queue in setup.queues:
        stores.refuse_pair(setup.ledger.kind, queue.kind)
    running = not trio.run(_is_free, loaded)
    answers = trio.run(_ask_all, setup.providers) if live else [(True, "configured")] * len(setup.providers)
    found = [
        {"provider": provider.table.name, "plugin": provider.origin, "good": good, "said": said}
        for provider, (good, said) in zip(setup.providers, answers, strict=True)
    ]
    lines = [f"{entry['provider']:<16} {'good' if entry['good'] else 'BAD ':<4} {entry['said']}" for entry in found]
    if running:
        lines.append(f"A service is at {url_at(loaded.config.http.bind)} already.")
    delivers = any(provider.kind.delivers for provider in setup.providers)
    if not delivers:
        lines.append(ONLY_FAKES)
    well = all(entry["good"] for entry in found) and (delivers or not live)
    show({"good": well, "delivers": delivers, "running": running, "providers": found}, lines, as_json=as_json)
    return 0 if well else 1


async def _is_free(loaded: Loaded) -> bool:
    """Whether the service could listen where it would; False: one does so already.

    Raises:
        ConfigError: it could not; another program may be there.
    """
    try:
        listeners = await open_listeners(loaded.config.http.bind, loaded.bind_place)
    except ConfigError:
        if not _is_there(url_at(loaded.config.http.bind)):
            raise
        return False
    for listener in listeners:
        await listener.aclose()
    return True


def _is_there(url: str) -> bool:
    """Whether a service of ours answers."""
    try:
        with Client(url, timeout=1.0) as client:
            return bool(client.ask("GET", "/health/live") == {"live": True})
    except (ConfigError, Unreachable, Refused):
        return False


async def _ask_all(providers: Sequence[ConfiguredProvider]) -> list[tuple[bool, str]]:
    """Ask them at once, but for a crowd; what each said, in their order."""
    answers = [(False, "")] * len(providers)
    client, room = ClientFactory(), trio.Semaphore(LIVE_AT_ONCE)

    async def ask(place: int) -> None:
        async with room:
            answers[place] = await _ask(providers[place], client)

    async with trio.open_nursery() as nursery:
        for place in range(len(providers)):
            nursery.start_soon(ask, place)
    return answers


async def _ask(configured: ConfiguredProvider, client: ClientFactory) -> tuple[bool, str]:
    """Open a provider and ask it whether it is well."""
    surroundings = Surroundings(configured.table.name, 1, LIVE_LIMIT, client)
    try:
        with trio.fail_after(LIVE_LIMIT):
            async with configured.kind.open(configured.settings, surroundings) as provider:
                if not isinstance(provider, LiveCheck):
                    return True, "opened; it has no question to ask"
                return True, await provider.check()
    except (ProviderError, ConfigError) as error:
        return False, hide(str(error))
    except trio.TooSlowError:
        return False, f"did not answer within {LIVE_LIMIT:g} s"
    except Exception as error:  # noqa: BLE001  # the wall between us and a plugin
        return False, f"bug in the plugin: {type(error).__name__}: {hide(str(error))}"


@click.command()
@json_option
def plugins(as_json: bool) -> int:  # noqa: FBT001  # click passes by name
    """List the plugins that are installed. Imports none of them."""
    found = [
        {"kind": word, "name": name, "from": [registry.origin(point) for point in points]}
        for group, word in registry.WORDS.items()
        for name, points in registry.discover(group).items()
    ]
    lines = [f"{entry['kind']:<9} {entry['name']:<12} {' AND '.join(entry['from'])}" for entry in found]
    show({"plugins": found}, lines, as_json=as_json)
    return 0


def _name(_context: click.Context, _option: click.Parameter, name: str) -> str:
    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise click.BadParameter("a name is 1 to 64 of A-Z, a-z, 0-9, dot, dash, underscore") from None


@click.group()
def key() -> None:
    """Make API keys."""


@key.command()
@click.argument("name", callback=_name)
@click.option("--expires", type=click.DateTime(), help="When it is over, in UTC.  [default: never]")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(get_args(Scope)),
    default=USUAL_SCOPES,
    show_default=True,
    help="What it may do; may be repeated.",
)
def new(name: str, expires: datetime | None, scopes: Sequence[str]) -> int:
    """Make a key for the client NAME. It is shown once; postman.toml keeps its digest alone."""
    made = new_key(name, expires and expires.replace(tzinfo=UTC), scopes)
    click.echo(f"The key, for {name}, shown only now:\n\n  {made.token}\n\nFor postman.toml:\n\n{made.toml}")
    return 0


COMMANDS: tuple[click.Command, ...] = (check, plugins, key)
