"""What the commands say that move the backlog; what they do is in test_removal.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from postman.config import load
from postman.registry import set_up
from postman.stores import open_ledger
from postman.testing.letters import a_letter
from postman.wire import ClientFactory

TOML = '[ledger]\nurl = "sqlite:{}.db"\n[[provider]]\nname = "lamda"\nplugin = "lamda"\n'
SAY = "import sys; from postman.cli import main; print(*(main(line.split()) for line in sys.argv[1:]), file=sys.stderr)"


def say(directory: Path, *lines: str) -> tuple[list[str], str]:
    """What commands say, and the exit codes and what else is on stderr; in one process, for speed, but not in ours."""
    ended = subprocess.run(
        [sys.executable, "-c", SAY, *lines], capture_output=True, text=True, check=True, timeout=60, cwd=directory
    )
    return ended.stdout.splitlines(), ended.stderr.strip()


async def test_a_second_export_or_import_says_that_it_is_one_and_pauses_are_told(tmp_path: Path) -> None:
    for name in ("old", "new"):
        path = tmp_path / f"{name}.toml"
        path.write_text(TOML.format(name))
    async with open_ledger(set_up(load(tmp_path / "old.toml")), ClientFactory()) as ledger:
        await ledger.accept([a_letter(id) for id in (1, 2, 3)], "shop", "order-1", b"print")
        await ledger.pause("lamda", "olga")
        await ledger.pause("*", "olga")
    out, err = say(tmp_path, *2 * ["export file --config old.toml"], *2 * ["import file --config new.toml"])
    assert err == "0 0 0 0"
    paused = "paused here as it was there: lamda, all providers; `postman resume` ends that once the service runs"
    assert out == [
        "moved to file: mails 3, idempotency keys 1",
        "file was exported before, and stays as it is: mails 3, idempotency keys 1",
        "taken in: mails 3; here already: mails 0",
        "idempotency keys of file, all here now: 1",
        paused,
        "taken in: mails 0; here already: mails 3",
        "idempotency keys of file, all here now: 1",
        paused,
    ]
