"""The whole house: started as a program, asked over HTTP, stopped by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import trio

from postman import service
from postman.backends.memory.ledger import MemoryLedger
from postman.config import load
from postman.errors import ConfigError
from postman.orders import SAME_WISH
from postman.queue import Queue
from postman.sending.delivery import Called
from postman.stores import refuse_pair
from postman.testing.customer import MAIL

GRACE = 1


def configure(directory: Path, *providers: str, ledger: str = "sqlite:postman.db", more: str = "") -> Path:
    tables = "\n".join(f"[[provider]]\n{provider}\n" for provider in providers)
    path = directory / "postman.toml"
    path.write_text(
        f'[http]\nbind = "127.0.0.1:0"\n[ledger]\nurl = "{ledger}"\n'
        f"[delivery]\ngrace = {GRACE}\nworkers = 8\n{more}\n{tables}",
    )
    path.chmod(0o600)
    return path


FAKE = 'name = "fake"\nplugin = "fake"\nsettings = { file = "sent.jsonl" }'


@asynccontextmanager
async def running(path: Path, calls: list[Called] | None = None) -> AsyncGenerator[httpx.AsyncClient]:
    on_call = (calls if calls is not None else []).append
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(service.run, load(path), on_call=on_call))
        async with httpx.AsyncClient(base_url=url) as client:
            yield client
        nursery.cancel_scope.cancel()


async def ended(client: httpx.AsyncClient, id: str, *states: str) -> dict[str, Any]:
    with trio.fail_after(10):
        while True:
            told: dict[str, Any] = (await client.get(f"/mail/{id}")).json()
            if told["state"] in states:
                return told


async def test_a_mail_that_was_posted_is_sent_and_its_history_tells_how(tmp_path: Path) -> None:
    calls: list[Called] = []
    async with running(configure(tmp_path, FAKE), calls) as client:
        answer = await client.post("/mail", json=[MAIL, MAIL])
        assert answer.status_code == 202
        ids = answer.json()["tracking-ids"]
        for id in ids:
            told = await ended(client, id, "sent")
            assert told["provider"] == "fake"
    accepted = [json.loads(line)["id"] for line in (tmp_path / "sent.jsonl").read_text().splitlines()]
    assert sorted(accepted) == sorted(ids) == sorted(call.id for call in calls)


async def test_several_queues_carry_the_mails_of_one_service(tmp_path: Path) -> None:
    queues = '[queue]\nurl = ["sqlite:a.db", "sqlite:b.db", "memory:"]'
    async with running(configure(tmp_path, FAKE, more=queues)) as client:
        for _ in range(5):
            for id in (await client.post("/mail", json=[MAIL] * 4)).json()["tracking-ids"]:
                await ended(client, id, "sent")
        assert (await client.get("/status")).json()["queue"] == {
            "ready": [0, 0, 0],
            "delayed": 0,
            "leased": 0,
            "buried": 0,
        }


async def test_a_mail_accepted_while_everything_is_paused_survives_a_restart(tmp_path: Path) -> None:
    path = configure(tmp_path, FAKE)
    async with running(path) as client:
        for changed in (True, False):
            assert (await client.post("/pause", json={})).json()["changed"] is changed
        assert not (await client.post("/resume", json={"provider": "fake"})).json()["changed"], "it has none of its own"
        (id,) = (await client.post("/mail", json=[MAIL])).json()["tracking-ids"]
    async with running(path) as client:
        status = (await client.get("/status")).json()
        assert any("paused" in sentence for sentence in status["because"])
        assert status["mails"]["queued"] == 1
        for changed in (True, False):
            assert (await client.post("/resume", json={})).json()["changed"] is changed
        await ended(client, id, "sent")


async def test_a_pause_outlives_its_provider_and_can_be_ended(tmp_path: Path) -> None:
    for provider in ("fake", "*"):
        async with running(configure(tmp_path, FAKE)) as client:
            assert (await client.post("/pause", json={"provider": "fake"})).status_code == 200
        async with running(configure(tmp_path, FAKE.replace('name = "fake"', 'name = "other"'))) as client:
            assert (await client.post("/pause", json={"provider": "fake"})).status_code == 404
            assert (await client.post("/resume", json={"provider": provider})).status_code == 200
            assert (await client.get("/status")).json()["pauses"] == []


async def test_a_provider_whose_key_was_mended_is_asked_at_once_when_a_person_resumes_it(tmp_path: Path) -> None:
    mended = 'name = "fake"\nplugin = "fake"\nsettings = { outcomes = ["misconfigured", "accept"] }'
    async with running(configure(tmp_path, mended)) as client:
        (id,) = (await client.post("/mail", json=[MAIL])).json()["tracking-ids"]
        await ended(client, id, "queued")
        with trio.fail_after(10):
            while not any("not asked" in told for told in (await client.get("/status")).json()["because"]):
                pass
        assert (await client.post("/resume", json={"provider": "fake"})).status_code == 200
        await ended(client, id, "sent")


async def test_only_fakes_are_not_well(tmp_path: Path) -> None:
    async with running(configure(tmp_path, FAKE)) as client:
        status = (await client.get("/status")).json()
        assert status["well"] is False
        assert "nothing is delivered" in status["because"][0]
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_letter_in_doubt_is_not_sent_again_until_a_person_settles_or_releases_it(tmp_path: Path) -> None:
    doubtful = 'name = "fake"\nplugin = "fake"\nsettings = { outcomes = ["unknown"], file = "sent.jsonl" }'
    async with running(configure(tmp_path, doubtful)) as client:
        (id,) = (await client.post("/mail", json=[MAIL])).json()["tracking-ids"]
        await ended(client, id, "in-doubt")
        assert (await client.post(f"/mail/{id}/settle")).status_code == 200
        assert (await ended(client, id, "sent"))["history"][-1]["reason"].startswith("settled as sent by")
    assert len((tmp_path / "sent.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(("durable", "shared"), [(True, False), (False, True)])
def test_a_queue_that_outlives_a_ledger_in_memory_is_refused(durable: bool, shared: bool) -> None:
    queue = type("Queue", (), {"durable": durable, "shared": shared})()
    with pytest.raises(ConfigError, match="outlives"):
        refuse_pair(MemoryLedger(), queue)


def test_a_shared_queue_with_a_ledger_of_one_s_own_is_refused() -> None:
    ledger: Any = type("Ledger", (), {"durable": True, "shared": False})()
    queue: Queue = type("Queue", (), {"durable": True, "shared": True})()
    with pytest.raises(ConfigError, match="shared"):
        refuse_pair(ledger, queue)


async def test_a_provider_that_does_not_open_is_a_configuration_error(tmp_path: Path) -> None:
    path = configure(tmp_path, 'name = "a"\nplugin = "sendgrid"\nsettings = { api-key = "in the open" }')
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="secret")):
        await service.run(load(path))


# as a program


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for program in started:
        program.kill()
        program.communicate()


def start(programs: list[subprocess.Popen[str]], path: Path) -> tuple[subprocess.Popen[str], str]:
    program = subprocess.Popen(
        [sys.executable, "-m", "postman", "serve", "--config", str(path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=path.parent,
        env={**os.environ, "NO_COLOR": "1"},
    )
    programs.append(program)
    assert program.stderr
    for line in program.stderr:
        if '"ready"' in line:
            return program, json.loads(line)["url"]
    raise AssertionError(f"ended with {program.wait()} before it was ready")


def hanging(phase: str) -> str:
    return f'name = "fake"\nplugin = "fake"\nsettings = {{ outcomes = ["{phase}"], file = "sent.jsonl" }}'


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_service_at_once_with_0(
    tmp_path: Path, programs: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    program, _ = start(programs, configure(tmp_path, FAKE))
    began = time.monotonic()
    program.send_signal(number)
    assert program.wait(timeout=GRACE + 2) == 0
    assert time.monotonic() - began < GRACE + 2


def test_hanging_calls_are_cut_at_grace_and_written_down(tmp_path: Path, programs: list[subprocess.Popen[str]]) -> None:
    path = configure(tmp_path, hanging("hang"))
    program, url = start(programs, path)
    ids = httpx.post(f"{url}/mail", json=[MAIL] * 5).json()["tracking-ids"]
    deadline = time.monotonic() + 10
    while httpx.get(f"{url}/status").json()["deliveries"]["in-hand"] < 5:
        assert time.monotonic() < deadline
    began = time.monotonic()
    program.send_signal(signal.SIGTERM)
    assert program.wait(timeout=GRACE + 3) == 0
    assert GRACE <= time.monotonic() - began < GRACE + 2
    _, url = start(programs, path)
    states = {httpx.get(f"{url}/mail/{id}").json()["state"] for id in ids}
    assert states <= {"in-doubt", "held"}


def test_while_deliveries_end_whoever_asks_is_told_that_the_service_is_stopping(
    tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    program, url = start(programs, configure(tmp_path, hanging("hang")))
    httpx.post(f"{url}/mail", json=[MAIL])
    deadline = time.monotonic() + 10
    while httpx.get(f"{url}/status").json()["deliveries"]["in-hand"] < 1:
        assert time.monotonic() < deadline
    program.send_signal(signal.SIGTERM)
    assert program.stderr
    assert any("stopping" in line for line in program.stderr)
    ready = httpx.get(f"{url}/health/ready")
    refused = httpx.post(f"{url}/mail", json=[MAIL])
    assert (ready.status_code, refused.status_code) == (503, 503)
    assert refused.headers["retry-after"]
    assert program.wait(timeout=GRACE + 3) == 0


def test_a_second_signal_ends_at_once_unless_it_comes_with_the_first(
    tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    program, url = start(programs, configure(tmp_path, hanging("hang"), more="timeout = 60"))
    httpx.post(f"{url}/mail", json=[MAIL])
    deadline = time.monotonic() + 10
    while httpx.get(f"{url}/status").json()["deliveries"]["in-hand"] < 1:
        assert time.monotonic() < deadline
    for _ in range(3):  # as timeout(1) does it: to the process and to its group
        program.send_signal(signal.SIGTERM)
    assert program.stderr
    assert any("stopping" in line for line in program.stderr)
    assert httpx.get(f"{url}/status").json()["deliveries"]["in-hand"] == 1
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(timeout=SAME_WISH)
    program.send_signal(signal.SIGTERM)
    assert program.wait(timeout=GRACE / 2) == 1
    assert "a second signal" in program.stderr.read()


def test_a_second_service_on_one_file_is_refused_with_the_other_s_pid(
    tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    path = configure(tmp_path, FAKE)
    program, _ = start(programs, path)
    second = subprocess.run(
        [sys.executable, "-m", "postman", "serve", "--config", str(path)], capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert str(program.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_files_are_readable_by_their_owner_alone(tmp_path: Path, programs: list[subprocess.Popen[str]]) -> None:
    _, url = start(programs, configure(tmp_path, FAKE))
    httpx.post(f"{url}/mail", json=[MAIL])
    assert {
        path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir() if path.stat().st_mode & 0o077
    } == {}
