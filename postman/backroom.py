"""The back room: the commands that run the service, or look at what it is made of."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click
import msgspec
import trio

from postman import demo, logs, registry, removal, service, stores
from postman.config import Name, Only, load
from postman.errors import ConfigError, ProviderError
from postman.keyring import new_key
from postman.kind import Surroundings
from postman.options import config_option, json_option, show
from postman.provider import LiveCheck
from postman.registry import ConfiguredProvider
from postman.secret import hide
from postman.wire import ClientFactory

LIVE_LIMIT = 25.0
"""Seconds that a provider may take to answer `check --live`."""


@click.command()
@config_option
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
@click.option("--bind", envvar="POSTMAN_BIND", metavar="HOST:PORT", help="Listen here.  [default: from --config]")
@click.option(
    "--only",
    type=click.Choice(get_args(Only)),
    help="Take mail, or deliver it and see to it; another process on the same ledger and queue does the rest.",
)
def serve(config: Path, log_level: str, bind: str | None, only: Only | None) -> int:
    """Run the service.

    SIGTERM and Ctrl-C stop taking mail and let deliveries in hand end; a second one ends it at once.
    """
    os.umask(0o077)
    logs.configure(log_level, hide=hide)
    trio.run(service.run, load(config, bind=bind, only=only))
    return 0


@click.command("demo")
def demo_command() -> int:
    """Show a failing provider and another one that takes over. Delivers nothing, leaves nothing behind."""
    logs.configure("critical", hide=hide)
    return 0 if trio.run(demo.demonstrate, click.echo) else 1


@click.command()
@config_option
@click.option("--live", is_flag=True, help="Ask each provider its cheapest question; sends no mail.")
@json_option
def check(config: Path, live: bool, as_json: bool) -> int:  # noqa: FBT001  # click passes by name
    """Say what is wrong with the configuration and its plugins. Opens nothing, unless --live."""
    logs.configure("warning", hide=hide)
    setup = registry.set_up(load(config))
    for queue in setup.queues:
        stores.refuse_pair(setup.ledger.kind, queue.kind)
    found: list[dict[str, object]] = []
    for provider in setup.providers:
        good, said = trio.run(_ask, provider) if live else (True, "configured")
        found.append({"provider": provider.table.name, "plugin": provider.origin, "good": good, "said": said})
    well = all(entry["good"] for entry in found)
    lines = [f"{entry['provider']:<16} {'good' if entry['good'] else 'BAD ':<4} {entry['said']}" for entry in found]
    show({"good": well, "providers": found}, lines, as_json=as_json)
    return 0 if well else 1


async def _ask(configured: ConfiguredProvider) -> tuple[bool, str]:
    """Open a provider and ask it whether it is well."""
    surroundings = Surroundings(configured.table.name, 1, LIVE_LIMIT, ClientFactory())
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


def _file(*, exists: bool) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.argument("file", type=click.Path(exists=exists, dir_okay=False, path_type=Path))


@click.command("export")
@_file(exists=False)
@config_option
@json_option
def export_command(file: Path, config: Path, as_json: bool) -> int:  # noqa: FBT001  # click passes by name
    """Move the mails that have not ended from the ledger to FILE; a second time goes on where the first stopped.

    Stop the service before: what it is sending stays. FILE holds mails; only its owner may read it.
    """
    if not file.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no directory {file.parent}", param_hint="FILE")
    logs.configure("warning", hide=hide)
    done = trio.run(removal.export, registry.set_up(load(config)), file)
    lines = [f"moved to {file}: mails {done.mails}, idempotency keys {done.keys}"]
    if done.left:
        left = ", ".join(f"{state} {number}" for state, number in done.left.items())
        lines.append(f"still here: {left}; once no service runs here, export them to another FILE")
    show(done, lines, as_json=as_json)
    return 1 if done.left else 0


@click.command("import")
@_file(exists=True)
@config_option
@json_option
def import_command(file: Path, config: Path, as_json: bool) -> int:  # noqa: FBT001  # click passes by name
    """Take the mails of FILE into the ledger; a second time takes in what is not there yet.

    Import before the service starts here: then no client repeats a mail whose key has not come yet.
    """
    logs.configure("warning", hide=hide)
    done = trio.run(removal.take_in, registry.set_up(load(config)), file)
    lines = [f"taken in: mails {done.mails}, idempotency keys {done.keys}; here already: mails {done.there}"]
    show(done, lines, as_json=as_json)
    return 0


def _name(_context: click.Context, _option: click.Parameter, name: str) -> str:
    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise click.BadParameter("a name is 1 to 64 of A-Z, a-z, 0-9, dot, dash, underscore") from None


@click.group()
def key() -> None:
    """API keys."""


@key.command()
@click.argument("name", callback=_name)
@click.option("--expires", type=click.DateTime(), help="When it is over, in UTC.  [default: never]")
def new(name: str, expires: datetime | None) -> int:
    """Make a key for the client NAME. It is shown once; postman.toml keeps its digest alone."""
    made = new_key(name, expires and expires.replace(tzinfo=UTC))
    click.echo(f"The key, for {name}, shown only now:\n\n  {made.token}\n\nFor postman.toml:\n\n{made.toml}")
    return 0


COMMANDS: tuple[click.Command, ...] = (serve, demo_command, check, plugins, export_command, import_command, key)
