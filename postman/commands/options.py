"""What the commands of the command line share: their options, and how they answer."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from postman.commands.client import Client
from postman.config import bind_of
from postman.errors import ConfigError
from postman.host import http_url, split_port

USUAL = Path("postman.toml")

config_option = click.option(
    "--config",
    envvar="POSTMAN_CONFIG",
    default=USUAL,
    show_default=True,
    type=click.Path(path_type=Path, readable=False),  # who gives --url need not be able to read it
    help="The configuration.",
)
bind_option = click.option(
    "--bind", envvar="POSTMAN_BIND", metavar="HOST:PORT", help="Listen here.  [default: from --config]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def asks_service(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the client of a service, and the options that say where it is."""

    @functools.wraps(command)
    def asked(*, url: str | None, config: Path, **given: Any) -> int:  # noqa: ANN401  # the command's own options
        with Client(url or url_of(config), os.environ.get("POSTMAN_KEY")) as client:
            return command(client, **given)

    url_option = click.option("--url", envvar="POSTMAN_URL", help="Where the service is.  [default: from --config]")
    return url_option(config_option(json_option(asked)))


def url_of(config: Path) -> str:
    """Where the service of this postman.toml listens, seen from this machine.

    Raises:
        ConfigError: the file was named and is not there, or does not tell.
    """
    if config == USUAL and not config.exists():
        return "http://127.0.0.1:8901"
    try:
        place, bind = f"{config}: [http]: bind", bind_of(config)
        if given := os.environ.get("POSTMAN_BIND"):
            place, bind = "POSTMAN_BIND", given
        return url_at(bind)
    except ConfigError as error:
        mistake = f"{error}"
    except ValueError as error:
        mistake = f'{place} = "{bind}" {error}'
    raise ConfigError(f"{mistake}\n--url URL asks a service that runs all the same.")


def url_at(bind: str) -> str:
    """Where a service that listens at `bind` is asked from this machine."""
    host, port = split_port(bind)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # nothing is bound
    return http_url(host, port)


def show(document: Any, lines: Sequence[str], *, as_json: bool) -> None:  # noqa: ANN401  # a JSON document
    """Print the document, or the lines for a person."""
    if as_json:
        lines = [msgspec.json.format(msgspec.json.encode(document)).decode()]
    for line in lines:
        click.echo(line)
