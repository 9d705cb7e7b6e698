"""The command line. Exit codes: 0 good, 1 not well or failed, 2 wrong use or configuration, 3 no service answers."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click

from postman import registry
from postman.client import Unreachable
from postman.errors import ConfigError, PostmanError, leaf

GOOD, FAILED, WRONG_USE, NO_SERVICE, INTERRUPTED = 0, 1, 2, 3, 130

BACKROOM = ("serve", "demo", "check", "plugins", "export", "import", "key")
COUNTER = (
    "status",
    "send",
    "mail",
    "release",
    "discard",
    "settle",
    "replay",
    "cancel",
    "pause",
    "resume",
    "reload",
)


class _Commands(click.Group):
    """Imports the commands when one is asked for: a question to a service needs no server, and starts in a blink."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's
        return [*BACKROOM, *COUNTER]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002  # click's
        if name not in BACKROOM + COUNTER:
            return None
        if name == "serve":  # until it can obey a SIGHUP, which takes half a second, that must not end it
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        module = importlib.import_module(f"postman.{'counter' if name in COUNTER else 'backroom'}")
        commands: tuple[click.Command, ...] = module.COMMANDS
        return next(command for command in commands if command.name == name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("postman-mail"), prog_name="postman")
@click.option(
    "--plugins",
    envvar="POSTMAN_PLUGINS",
    type=click.Path(path_type=Path),
    help="A directory of further plugins, as `pip install --target DIR` fills it.",
)
def postman(plugins: Path | None) -> None:
    """Take mails over HTTP, and deliver each through one of several providers.

    The API key of commands that ask a running service is taken from POSTMAN_KEY.
    """
    if plugins:
        registry.add_directory(plugins)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; no mistake of a user ends in a traceback."""
    try:
        code = postman.main(arguments, prog_name="postman", standalone_mode=False)
    except BaseException as error:
        told = _tell(leaf(error))
        if told is None:
            raise
        return told
    return code if isinstance(code, int) else GOOD


def _tell(error: BaseException) -> int | None:
    """Tell a person what went wrong; the exit code, or None for a bug of ours."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
        case click.ClickException():
            error.show()
            return WRONG_USE if isinstance(error, click.UsageError) else FAILED
        case PostmanError():
            click.echo(str(error), err=True)
            return {ConfigError: WRONG_USE, Unreachable: NO_SERVICE}.get(type(error), FAILED)
        case _:
            return None
