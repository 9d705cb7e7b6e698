"""The disk is full, read-only, broken, or the file on it damaged: nothing is promised that is not kept."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from postman.testing import sick_disk
from postman.testing.customer import open_customer
from postman.testing.fault_server import Act, FaultServer, Turn
from postman.testing.program import open_program, wait_until
from postman.testing.report import report
from postman.testing.sick_disk import Fault

MAIL = {
    "to": [{"email": "ann@example.com"}],
    "from": {"email": "shop@example.org"},
    "subject": "hello",
    "content": [{"type": "text/plain", "value": "x"}],
}
Accepted = Callable[[], list[str]]
Toml = Callable[..., str]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, that is empty."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(("fault", "cure"), [("full", "disk is full"), ("read-only", "mend its permissions")])
async def test_while_the_disk_cannot_be_written_mails_are_refused_and_afterwards_taken(
    tmp_path: Path, toml: Toml, vendor: FaultServer, accepted: Accepted, fault: Fault, cure: str
) -> None:
    database = tmp_path / "postman.db"

    async def break_and_answer(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = True
        sick_disk.break_(database, fault)
        await turn.stream.send_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        return True

    vendor.script(Act(break_and_answer))
    async with open_program(tmp_path, toml()) as program, open_customer(lambda: program.url) as customer:
        await program.start(before=sick_disk.install)
        await customer.post("before", [MAIL])
        await wait_until(lambda: sick_disk.was_met(database))  # the end of the call cannot be written
        assert await customer.try_post("meanwhile", [MAIL] * 2) is None
        status = await customer.get("/status")
        assert any(cure in sentence for sentence in status["because"]), status["because"]
        sick_disk.heal(database)
        await customer.post("meanwhile", [MAIL] * 2)
        await customer.wait_settled()
        status = await customer.get("/status")
        assert status["because"] == [], "the letter whose end could not be written is sent, and not in doubt"
        assert await program.stop() == 0
        found = report(customer.ids, accepted(), await program.rows(), customer.recovered)
    assert (found.acked, found.accepted, found.told, found.recovered) == (3, 3, 0, 0)
    assert (found.lost, found.unexpected, found.duplicated) == ((), (), {})


async def test_a_disk_without_room_refuses_and_takes_again_when_there_is_room(
    small_disk: Path, toml: Toml, accepted: Accepted
) -> None:
    large = {**MAIL, "content": [{"type": "text/plain", "value": "x" * 500_000}]}
    async with open_program(small_disk, toml()) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        await customer.post("before", [MAIL] * 2)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1_048_576))
        assert await customer.try_post("meanwhile", [large]) is None
        ballast.unlink()
        await customer.post("meanwhile", [large])
        await customer.wait_settled()
        assert await program.stop() == 0
        found = report(customer.ids, accepted(), await program.rows())
    assert (found.acked, found.accepted, found.lost, found.unexpected, found.duplicated) == (3, 3, (), (), {})


async def test_after_a_failed_sync_nothing_is_promised_until_a_restart_which_loses_nothing(
    tmp_path: Path, toml: Toml, accepted: Accepted
) -> None:
    database = tmp_path / "postman.db"
    async with open_program(tmp_path, toml()) as program, open_customer(lambda: program.url) as customer:
        await program.start(before=sick_disk.install)
        await customer.post("before", [MAIL] * 2)
        await customer.wait_settled()
        sick_disk.break_(database, "sync-error")
        assert await customer.try_post("meanwhile", [MAIL]) is None
        sick_disk.heal(database)
        assert await customer.try_post("meanwhile", [MAIL]) is None, "pages may be lost: a second try would lie"
        status = await customer.get("/status")
        assert any("restart on a sound disk" in sentence for sentence in status["because"]), status["because"]
        await program.stop()
        await program.start()
        await customer.post("meanwhile", [MAIL])
        await customer.wait_settled()
        assert await program.stop() == 0
        found = report(customer.ids, accepted(), await program.rows())
    assert (found.acked, found.accepted, found.lost, found.unexpected, found.duplicated) == (3, 3, (), (), {})


async def test_a_damaged_file_is_refused_with_the_cure_and_kept(tmp_path: Path, toml: Toml) -> None:
    database = tmp_path / "postman.db"
    async with open_program(tmp_path, toml()) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        await customer.post("before", [MAIL] * 50)
        await program.stop()
        content = bytearray(database.read_bytes())
        content[4_096:] = bytes(len(content) - 4_096)
        database.write_bytes(content)
        await program.start()
        assert await program.wait_ended() == 1
        assert "the file is damaged and was kept as it is; restore it from a copy" in program.log
    assert database.read_bytes() == content
