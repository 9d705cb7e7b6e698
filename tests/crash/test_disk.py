"""The disk is full, read-only, broken, or the file on it damaged: nothing is promised that is not kept."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from postman.row import State
from postman.testing import sick_disk
from postman.testing.customer import MAIL, open_customer
from postman.testing.fault_server import Act, FaultServer, Turn
from postman.testing.program import open_program
from postman.testing.report import report
from postman.testing.sick_disk import Fault
from postman.testing.waiting import wait_until

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


async def test_after_a_failed_sync_the_process_ends_and_a_restart_on_a_sound_disk_loses_nothing(
    tmp_path: Path, toml: Toml, vendor: FaultServer, accepted: Accepted
) -> None:
    database = tmp_path / "postman.db"
    answered = trio.Event()

    async def answer_late(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = True
        await answered.wait()
        await turn.stream.send_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        return True

    async with open_program(tmp_path, toml()) as program, open_customer(lambda: program.url) as customer:
        await program.start(before=sick_disk.install)
        await customer.post("before", [MAIL] * 2)
        await customer.wait_settled()
        vendor.script(Act(answer_late))
        await customer.post("in-hand", [MAIL])
        await wait_until(lambda: len(vendor.requests) == 3)
        sick_disk.break_(database, "sync-error")
        assert await customer.try_post("meanwhile", [MAIL]) is None
        sick_disk.heal(database)  # pages may be lost: a second try would lie
        await wait_until(lambda: '"stopping"' in program.log)
        assert await customer.try_post("meanwhile", [MAIL]) is None
        answered.set()
        assert await program.wait_ended() == 1
        assert "restart on a sound disk" in program.log.splitlines()[-1]

        sick_disk.break_(database, "sync-error")
        await program.start(before=sick_disk.install)
        assert await program.wait_ended() == 1
        assert "restart on a sound disk" in program.log.splitlines()[-1]

        sick_disk.heal(database)
        await program.start()
        await customer.post("meanwhile", [MAIL])
        await customer.wait_settled()
        assert await program.stop() == 0
        rows = await program.rows()
        found = report(customer.ids, accepted(), rows, customer.recovered)
    assert (found.acked, found.accepted, found.lost, found.unexpected, found.duplicated) == (4, 4, (), (), {})
    assert [row.state for row in rows] == [State.SENT, State.SENT, State.HELD, State.SENT]


async def test_a_disk_that_hangs_is_told_by_those_who_ask(tmp_path: Path, toml: Toml) -> None:
    database = tmp_path / "postman.db"
    async with open_program(tmp_path, toml(grace=0.2)) as program, open_customer(lambda: program.url) as customer:
        await program.start(before=sick_disk.install)
        sick_disk.break_(database, "sync-hangs")
        with trio.move_on_after(0.5):
            await customer.post("hangs", [MAIL])
        status = await customer.get("/status")
        assert any("its disk or its server hangs" in sentence for sentence in status["because"]), status["because"]
        health = [await customer._http.get(f"{program.url}/health/{what}") for what in ("ready", "live")]
        assert [answer.status_code for answer in health] == [503, 200]
        await program.stop()


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
        assert await program.wait_ended() == 2
        assert "the file is damaged and was kept as it is; restore it from a copy" in program.log
    assert database.read_bytes() == content
