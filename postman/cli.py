"""The command line.

What a command ends with: 0 good; 1 not well, or failed: another try may be luckier; 2 wrong use, or a configuration,
port or store that cannot be used: it will fail again until a person has changed something; 3 no service answers.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Sequence
from pathlib import Path

import click

from postman.commands.client import Unreachable
from postman.errors import ConfigError, PostmanError, StoreRefused, leaf
from postman.plugin_directory import add_directory
from postman.table import did_you_mean

GOOD, FAILED, WRONG_USE, NO_SERVICE, INTERRUPTED = 0, 1, 2, 3, 130

MODULES = {
    "serve": "run",
    "demo": "run",
    "check": "check",
    "plugins": "check",
    "key": "check",
    "export": "move",
    "import": "move",
    "status": "ask",
    "send": "ask",
    "mail": "ask",
    "release": "ask",
    "discard": "ask",
    "settle": "ask",
    "replay": "ask",
    "cancel": "ask",
    "pause": "ask",
    "resume": "ask",
    "reload": "ask",
}
"""The commands, each with its module in `postman.commands`."""


class _Commands(click.Group):
    """Imports a command when it is asked for: a question to a service needs no server, and starts in a blink."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's
        return list(MODULES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in MODULES:
            ctx.fail(f"there is no command {name!r}{did_you_mean(name, MODULES)}")
        if name == "serve":  # until it can obey a SIGHUP, which takes half a second, that must not end it
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        module = importlib.import_module(f"postman.commands.{MODULES[name]}")
        commands: tuple[click.Command, ...] = module.COMMANDS
        return next(command for command in commands if command.name == name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="postman-mail", prog_name="postman")
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
        add_directory(plugins)


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
            return {ConfigError: WRONG_USE, StoreRefused: WRONG_USE, Unreachable: NO_SERVICE}.get(type(error), FAILED)
        case _:
            return None
