"""The commands that move the backlog from one ledger to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import trio

from postman import logs, registry, removal
from postman.commands.options import config_option, json_option, show
from postman.config import load
from postman.ledger import ALL
from postman.secret import hide


def _file(*, exists: bool) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.argument("file", type=click.Path(exists=exists, dir_okay=False, path_type=Path))


@click.command("export")
@_file(exists=False)
@config_option
@json_option
def export_command(file: Path, config: Path, as_json: bool) -> int:  # noqa: FBT001  # click passes by name
    """Move mails that have not ended to FILE.

    They leave the ledger. A second time goes on where the first stopped. Stop the service before: what it is sending
    stays. FILE holds mails; only its owner may read it.
    """
    if not file.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no directory {file.parent}", param_hint="FILE")
    logs.configure("warning", hide=hide)
    done = trio.run(removal.export, registry.set_up(load(config)), file)
    what = f"{file} was exported before, and stays as it is" if done.before else f"moved to {file}"
    lines = [f"{what}: mails {done.mails}, idempotency keys {done.keys}"]
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
    """Take the mails of FILE into the ledger.

    A second time takes in what is not there yet. Import before the service starts here: then no client repeats a mail
    whose key has not come yet.
    """
    logs.configure("warning", hide=hide)
    done = trio.run(removal.take_in, registry.set_up(load(config)), file)
    lines = [
        f"taken in: mails {done.mails}; here already: mails {done.there}",
        f"idempotency keys of {file}, all here now: {done.keys}",
    ]
    if done.paused:
        paused = ", ".join("all providers" if name == ALL else name for name in done.paused)
        lines.append(f"paused here as it was there: {paused}; `postman resume` ends that once the service runs")
    show(done, lines, as_json=as_json)
    return 0


COMMANDS: tuple[click.Command, ...] = (export_command, import_command)
