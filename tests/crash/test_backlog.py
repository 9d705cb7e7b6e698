"""A restart with a backlog: the first letter leaves soon, and memory does not grow with what waits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from postman.backends.sqlite.database import open_database
from postman.backends.sqlite.ledger import ledger_on
from postman.backends.sqlite.queue import queue_on
from postman.mail import Id
from postman.row import Policy
from postman.testing.fault_server import FaultServer
from postman.testing.letters import a_letter
from postman.testing.program import open_program
from postman.testing.waiting import wait_until

BATCH = 1_000
FIRST_SEND = 5.0
MEMORY = 96
"""MiB that a backlog may cost at most, however long it is."""


async def fill(path: Path, letters: int) -> None:
    """Accept so many letters, with their notes."""
    letter = a_letter()
    async with (
        open_database(path) as database,
        queue_on(database, 60) as queue,
        ledger_on(database, Policy(max_queued=letters), queue=queue) as ledger,
    ):
        ledger.reserve = 0
        first = int(time.time() * 1_000) << 22
        for start in range(0, letters, BATCH):
            ids = [Id(f"0x{first + number:016x}") for number in range(start, start + BATCH)]
            await ledger.accept([msgspec.structs.replace(letter, id=id) for id in ids], "shop", None, b"")


def memory_of(pid: int) -> int:
    """The most that a process ever had in memory, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1_024


async def test_after_a_restart_with_a_long_backlog_the_first_letter_leaves_soon_and_memory_stays_flat(
    tmp_path: Path, toml: Callable[..., str], vendor: FaultServer, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    letters, sent = (1_000_000, 5_000) if long else (20_000, 1_000)
    (tmp_path / "empty").mkdir()
    text = toml(workers=64)
    async with open_program(tmp_path / "empty", text) as idle, open_program(tmp_path, text) as program:
        await idle.start()
        await idle.stop()
        await fill(tmp_path / "postman.db", letters)
        await idle.start()
        began = time.monotonic()
        await program.start()
        ready = time.monotonic() - began
        await wait_until(lambda: len(vendor.accepted) >= 1)
        first = time.monotonic() - began
        await wait_until(lambda: len(vendor.accepted) >= sent)
        used, plain = memory_of(program.pid), memory_of(idle.pid)
        rate = sent / (time.monotonic() - began - first)
    if long:
        with capsys.disabled():
            print(  # noqa: T201  # its report
                f"\n{letters:,} letters queued: ready after {ready:.1f} s, first sent after {first:.1f} s, then"
                f" {rate:.0f}/s; {used} MiB, without letters {plain} MiB"
            )
    assert first < FIRST_SEND
    assert used - plain < MEMORY
