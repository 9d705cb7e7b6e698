"""The process is told to stop while deliveries are in hand, at any moment, and while the disk hangs."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from postman.orders import EXIT_MARGIN, SAME_WISH
from postman.row import State
from postman.testing import acts, sick_disk
from postman.testing.customer import Customer, open_customer
from postman.testing.fault_server import Act, FaultServer, Turn, open_fault_server
from postman.testing.program import Program, open_program
from postman.testing.report import report
from postman.testing.waiting import PATIENCE, wait_until

GRACE = 3
SLACK = 1.5
"""Seconds that a busy machine may need to tell us of an end."""


def a_mail(subject: str = "hello", sender: str = "shop@example.org") -> dict[str, Any]:
    return {
        "to": [{"email": "ann@example.com"}],
        "from": {"email": sender},
        "subject": subject,
        "content": [{"type": "text/plain", "value": "x"}],
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_of_100_deliveries_in_hand_each_ends_or_is_cut_and_written_down(
    tmp_path: Path, toml: Callable[..., str], provider: Callable[..., str], vendor: FaultServer, number: signal.Signals
) -> None:
    answers = {"fast": trio.Event(), "slow": trio.Event(), "never": trio.Event()}

    async def play(turn: Turn) -> bool:
        await turn.read_request()
        await answers[json.loads(turn.request.body)["subject"]].wait()
        turn.request.accepted = True
        await turn.stream.send_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        return True

    vendor.otherwise = Act(play)
    stuck = provider("stuck", settings='outcomes = ["hang-before"]', more='from-domains = ["stuck.example"]')
    mails = (
        [a_mail("fast")] * 50 + [a_mail("slow")] * 30 + [a_mail("never")] * 10 + [a_mail("", "a@stuck.example")] * 10
    )
    text = toml(stuck, workers=100, grace=GRACE, more='from-domains = ["example.org"]')
    async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        ids = await customer.post("key", mails)
        await customer.wait_status(lambda status: status["deliveries"]["in-hand"] == 100)
        began = time.monotonic()
        program.signal(number)
        answers["fast"].set()
        await wait_until(lambda: sum(request.accepted for request in vendor.requests) == 50)
        answers["slow"].set()
        assert await program.wait_ended() == 0
        assert GRACE <= time.monotonic() - began < GRACE + 2 + SLACK
        rows = {str(row.id): row for row in await program.rows()}
    of = [rows[id] for id in ids]
    assert [row.state for row in of] == [State.SENT] * 80 + [State.IN_DOUBT] * 10 + [State.QUEUED] * 10
    assert {(row.attempts, row.crashes) for row in of[90:]} == {(0, 0)}, "a stop burns no attempt"
    assert {row.history[-1].reason for row in of[80:]} == {"cut because the process stopped"}
    assert len(vendor.accepted) == 80


async def test_a_disk_that_hangs_does_not_keep_the_process_from_ending(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]]
) -> None:
    database = tmp_path / "postman.db"
    async with (
        open_program(tmp_path, toml(grace=0.5)) as program,
        open_customer(lambda: program.url) as customer,
        trio.open_nursery() as nursery,
    ):
        await program.start(before=sick_disk.install)
        await customer.post("before", [a_mail()])
        await customer.wait_settled()
        sick_disk.break_(database, "sync-hangs")
        nursery.start_soon(customer.post, "hanging", [a_mail()])
        await wait_until(lambda: sick_disk.was_met(database))
        began = time.monotonic()
        assert await program.stop() == 1
        assert time.monotonic() - began < 0.5 + 2 + SLACK
        sick_disk.heal(database)
        await program.start()
        await wait_until(lambda: len(customer.ids) == len(accepted()) == 2)
        await program.stop()
        found = report(customer.ids, accepted(), await program.rows())
    assert (found.accepted, found.lost, found.unexpected, found.duplicated) == (2, (), (), {})


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_disk_that_hangs_before_anything_is_open_does_not_keep_it_from_ending_either(
    tmp_path: Path, toml: Callable[..., str], signals: int
) -> None:
    database = tmp_path / "postman.db"
    async with open_program(tmp_path, toml(grace=20)) as program:
        sick_disk.break_(database, "sync-hangs")
        await program.start(ready=False, before=sick_disk.install)
        await wait_until(lambda: sick_disk.was_met(database))
        began = time.monotonic()
        for _ in range(signals):
            program.signal(signal.SIGTERM)
            await trio.sleep(SAME_WISH * 1.5)
        assert await program.wait_ended() == 1
        took = time.monotonic() - began
        assert took < EXIT_MARGIN + SLACK if signals == 1 else took < EXIT_MARGIN
        assert ("a second signal" if signals == 2 else "something hangs") in program.log


async def test_whenever_a_signal_comes_while_the_house_is_opened_it_is_obeyed(
    tmp_path: Path, toml: Callable[..., str], long: bool
) -> None:
    text = toml(grace=0.5)

    async def open_and_stop(number: int) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        async with open_program(directory, text) as program:
            for _ in range(50 if long else 4):
                seen = len(program.log)
                await program.start(ready=False)
                await wait_until(partial(cares_for_hangups, program.pid))
                await trio.sleep(random.uniform(0, 0.2))
                hangups = random.choice([0, 1, 5])
                for told in [signal.SIGHUP] * hangups + [random.choice([signal.SIGTERM, signal.SIGINT])]:
                    program.signal(told)
                code = await program.wait_ended(EXIT_MARGIN + 0.5 + SLACK)
                # Before it listens to SIGTERM and SIGINT they do to it what they do to any program.
                assert code == 0 or '"stopping"' not in program.log[seen:], program.log[seen:]
                assert code != -signal.SIGHUP
            await program.start(ready=False)
            await wait_until(partial(cares_for_hangups, program.pid))
            program.signal(signal.SIGHUP)
            await wait_until(lambda: '"ready"' in program.log.rpartition('"begun"')[2])
            assert await program.stop() == 0

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(open_and_stop, number)


def cares_for_hangups(pid: int) -> bool:
    """Whether a SIGHUP would not end that process, or it has ended."""
    status = Path(f"/proc/{pid}/status")
    masks = re.findall(r"^Sig(?:Ign|Cgt):\s+([0-9a-f]+)", status.read_text(), re.MULTILINE) if status.exists() else []
    return not masks or any(int(mask, 16) >> (signal.SIGHUP - 1) & 1 for mask in masks)


async def test_whenever_a_signal_comes_the_process_ends_in_time_and_nothing_is_lost(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[FaultServer], list[str]], long: bool
) -> None:
    grace = 0.5

    async def play(turn: Turn) -> bool:
        await trio.sleep(random.expovariate(5))
        return await random.choice([acts.hang(accept=True), *[acts.answer(202)] * 20]).play(turn)

    async def post_until_done(customer: Customer, done: trio.Event) -> None:
        batch = 0
        while not done.is_set():
            batch += 1
            await customer.post(f"batch-{batch}", [a_mail() for _ in range(5)])

    async def stop_often(number: int) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        done = trio.Event()
        async with (
            open_fault_server(otherwise=Act(play)) as vendor,
            open_program(directory, toml(grace=grace, workers=16, base=vendor.url)) as program,
            open_customer(lambda: program.url) as customer,
        ):
            async with trio.open_nursery() as clients:
                clients.start_soon(post_until_done, customer, done)
                for _ in range(50 if long else 4):
                    await start_and_stop(program)
                done.set()
                vendor.otherwise = acts.answer(202)
                await program.start()
            await customer.wait_settled()
            assert await program.stop() == 0
            found = report(customer.ids, accepted(vendor), await program.rows(), customer.recovered)
        assert (found.waiting, found.lost, found.unexpected, found.duplicated) == (0, (), (), {})
        assert found.acked == len(customer.ids) > 0

    async def start_and_stop(program: Program) -> None:
        seen = len(program.log)
        await program.start(ready=random.random() < 0.7)
        await trio.sleep(random.uniform(0, 0.6))
        numbers = random.choices([signal.SIGTERM, signal.SIGINT], k=random.choice([1, 1, 2]))
        for number in [*[signal.SIGHUP] * random.choice([0, 0, 1]), *numbers]:
            program.signal(number)
            await trio.sleep(random.uniform(0, 0.2))
        code = await program.wait_ended(grace + 2 + SLACK)
        # Before the service listens to signals they do to it what they do to any program.
        assert code == 0 or len(numbers) > 1 or '"stopping"' not in program.log[seen:], program.log[seen:]

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(stop_often, number)


async def test_a_signal_at_any_moment_of_the_start_ends_it(tmp_path: Path, toml: Callable[..., str]) -> None:
    """As a program of its own, with all that is imported first."""

    async def end_after(seconds: float) -> None:
        directory = tmp_path / f"{seconds:.2f}"
        directory.mkdir()
        async with open_program(directory, toml(grace=0.5)) as program:
            command = [sys.executable, "-m", "postman", "serve", "--config", str(program.directory / "postman.toml")]
            process = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)
            try:
                await trio.sleep(seconds)
                process.send_signal(random.choice([signal.SIGTERM, signal.SIGINT]))
                with trio.fail_after(PATIENCE):
                    await process.wait()
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started inherits it when it is ignored
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(end_after, 0.3 * number)
