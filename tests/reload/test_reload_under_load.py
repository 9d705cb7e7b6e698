"""One process under load, while its plugins and postman.toml change and break: nothing fails, is lost or doubled."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx2 as httpx
import pytest
import trio

from tests.reload.running import PATIENCE, RELOADS, Service, load_on, mail
from tests.reload.wheels import SOURCE, wheel

FAKE = '[[provider]]\nname = "fake"\nplugin = "fake"\nfrom-domains = ["example.org"]\nsettings = {file = "taken"}\n'
TINY = '[[provider]]\nname = "tiny"\nplugin = "tiny"\nsettings = { file = "taken", key = { file = "key" } }\n'


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(tmp_path)
    yield service
    service.process.kill()
    service.process.wait()


async def test_a_plugin_is_installed_upgraded_broken_and_retired(service: Service, tmp_path: Path) -> None:
    build = partial(wheel, tmp_path)
    first, second = (build("tiny", version, SOURCE.format(version=version, opens=0)) for version in ("1", "2"))
    broken = [
        build("tiny", "3", "1 / 0"),
        build("exits", "1", "import sys; sys.exit(3)"),
        build("hangs", "1", "import time; time.sleep(600)"),
    ]
    service.configure(FAKE)
    service.start()
    async with load_on(service) as load:
        await service.takes(provider="fake")

        await service.pip(first)
        service.configure(FAKE, TINY)
        assert (await service.hang_up())["added"] == ["tiny"]
        await service.takes(version="1")

        (slow,) = await load.post(mail("slow", "tiny.example"))
        await service.exists("slow-begun")
        await service.pip(second)
        assert (await service.hang_up())["changed"] == ["tiny"]
        await service.takes(version="2")
        assert "1" not in {entry.get("version") for entry in service.taken()[-50:]}
        (tmp_path / "slow-may-end").touch()
        await service.takes(1, version="1", id=slow)
        await service.told("retired")

        for path in broken:
            service.unpack(path)
        service.configure(FAKE, TINY, TINY.replace("tiny", "exits"), TINY.replace("tiny", "hangs"))
        logged, told = (await service.hang_up())["reason"], await service.because()
        for why in (
            "plugin 'tiny' (load-plugin-tiny 3) cannot be used: ZeroDivisionError: division by zero",
            "plugin 'exits' (load-plugin-exits 1) cannot be used: SystemExit: 3",
            "plugin 'hangs' (load-plugin-hangs 1) cannot be used: ImportError: its import hangs since",
        ):
            assert why in logged
            assert why in told
        await service.takes(version="2")

        service.configure(FAKE)
        assert (await service.hang_up())["removed"] == ["tiny"]
        await service.told("retired", after=1)
        await service.takes(provider="fake")
        assert "reload" not in await service.because()
    assert service.stop() == 0


BROKEN = {
    "[[provider]\n": "postman.toml: not TOML",
    FAKE + "wieght = 1\n": 'unknown key "wieght"',
    FAKE + TINY.replace('"key"', '"no-key"'): "no-key cannot be read: No such file or directory",
}


async def test_weights_and_keys_change_and_the_file_breaks_and_heals(service: Service, tmp_path: Path) -> None:
    service.unpack(wheel(tmp_path, "tiny", "1", SOURCE.format(version="1", opens=0)))
    service.configure(FAKE, TINY)
    service.start()
    async with load_on(service):
        await service.takes(key="one")

        service.configure(FAKE, TINY + "weight = 0\n")
        assert (await service.hang_up())["changed"] == ["tiny"]
        await service.takes(provider="fake")
        assert {entry.get("provider") for entry in service.taken()[-50:]} == {"fake"}
        assert not service.logged("retired")

        (tmp_path / "key").write_text("two")
        service.configure(FAKE, TINY)
        assert (await service.hang_up())["changed"] == ["tiny"]
        await service.takes(key="two")
        assert "one" not in {entry.get("key") for entry in service.taken()[-50:]}

        for text, why in BROKEN.items():
            service.write(text)
            assert why in (await service.hang_up())["reason"]
            assert why in await service.because()
        status, problem = await service.ask("POST", "/reload")
        assert (status, problem["title"], why in problem["detail"]) == (409, "Conflict", True)
        await service.takes(key="two")

        before = len(service.logged(*RELOADS))
        service.write(FAKE + TINY[:50])
        service.process.send_signal(signal.SIGHUP)
        await trio.sleep(0.3)  # half of the file is there; the other half comes now
        service.configure(FAKE, TINY + "weight = 3\n")
        assert (await service.told(*RELOADS, after=before))["changed"] == ["tiny"]
        assert "reload" not in await service.because()
        report = {"added": [], "changed": [], "removed": [], "kept": ["fake", "tiny"]}
        assert await service.ask("POST", "/reload") == (200, report)
        done = await service.command("reload", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, report)
    assert service.stop() == 0


async def test_a_hundred_signals_in_a_second(service: Service) -> None:
    service.configure(FAKE)
    service.start()
    async with load_on(service):
        await service.takes()
        for number in range(100):
            service.configure(FAKE + f"weight = {number}\n")
            service.process.send_signal(signal.SIGHUP)
            await trio.sleep(0.01)
        assert (await service.hang_up())["event"] == "reloaded"
        status = (await service.ask("GET", "/status"))[1]
        assert [provider["weight"] for provider in status["providers"]] == [99]
        assert len(service.logged("reloaded")) < 100
        await service.takes()
    assert service.stop() == 0


async def test_signals_during_start_and_during_the_drain(service: Service, tmp_path: Path) -> None:
    service.unpack(wheel(tmp_path, "tiny", "1", SOURCE.format(version="1", opens=0.5)))
    service.configure(FAKE, TINY)
    service.start()
    await service.exists("postman.db")  # stores open before providers, and those take half a second
    service.configure(FAKE, TINY + "weight = 3\n")
    for _ in range(20):
        service.process.send_signal(signal.SIGHUP)
    async with load_on(service):
        assert (await service.told("reloaded"))["changed"] == ["tiny"]
        await service.takes(version="1")
    slow = httpx.post(f"{service.url}/mail", json=[mail("slow", "tiny.example")]).json()["tracking-ids"][0]
    await service.exists("slow-begun")
    service.process.send_signal(signal.SIGTERM)
    await service.told("stopping")
    reloads = len(service.logged(*RELOADS))
    with trio.fail_after(PATIENCE):
        while service.process.poll() is None:
            service.process.send_signal(signal.SIGHUP)
            (tmp_path / "slow-may-end").touch()
            await trio.sleep(0.001)
    assert service.process.returncode == 0
    assert len(service.logged(*RELOADS)) == reloads
    assert slow in {entry["id"] for entry in service.taken()}
