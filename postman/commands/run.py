"""The commands that run the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import click
import trio

from postman import logs, service
from postman.commands import demo
from postman.commands.options import bind_option, config_option
from postman.config import Only, load
from postman.secret import hide


@click.command()
@config_option
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
@bind_option
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


COMMANDS: tuple[click.Command, ...] = (serve, demo_command)
