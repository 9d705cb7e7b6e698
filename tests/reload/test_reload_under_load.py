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

from postman.testing.waiting import wait_for
from tests.reload.running import PATIENCE, RELOADS, Load, Service, load_on, mail
from tests.reload.wheels import SOURCE, wheel

FAKE = '[[provider]]\nname = "fake"\nplugin = "fake"\nfrom-domains = ["example.org"]\nsettings = {file = "taken"}\n'
SLEEPY = '[[provider]]\nname = "sleepy"\nplugin = "sleepy"\nsettings = { file = "taken", key = { file = "key" } }\n'
TINY = '[[provider]]\nname = "tiny"\nplugin = "tiny"\nsettings = { file = "taken", key = { file = "key" } }\n'


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(tmp_path)
    yield service
    service.process.kill()
    service.process.wait()


async def test_one_process_under_load_takes_every_change_and_survives_every_mistake(
    service: Service, tmp_path: Path
) -> None:
    """Each step begins where the one before it ended; nothing fails, is lost or doubled from the start to the end."""
    service.unpack(wheel(tmp_path, "sleepy", "0", SOURCE.format(version="0", opens=0.5).replace('"tiny"', '"sleepy"')))
    service.configure(FAKE, SLEEPY)
    service.start()
    await send_signals_during_the_start(service)
    async with load_on(service) as load:
        assert (await service.told("reloaded"))["changed"] == ["sleepy"]
        await install_and_upgrade_a_plugin_and_retire_another(service, load)
        await break_plugins(service)
        await change_a_weight_and_a_key(service)
        await break_the_file_and_mend_it(service)
        await ask_in_other_ways(service)
        await send_a_hundred_signals(service)
    await send_signals_during_the_drain(service)


async def send_signals_during_the_start(service: Service) -> None:
    await service.exists("postman.db")  # stores open before providers, and those take half a second
    service.configure(FAKE, SLEEPY + "weight = 3\n")
    for _ in range(20):
        service.process.send_signal(signal.SIGHUP)


async def install_and_upgrade_a_plugin_and_retire_another(service: Service, load: Load) -> None:
    first, second = (
        wheel(service.directory, "tiny", version, SOURCE.format(version=version, opens=0)) for version in ("1", "2")
    )
    await service.takes(provider="fake")
    await service.pip(first)
    service.configure(FAKE, SLEEPY, TINY)
    assert (await service.hang_up())["added"] == ["tiny"]
    await service.takes(version="1")

    service.configure(FAKE, TINY)
    assert (await service.hang_up())["removed"] == ["sleepy"]
    await service.told("retired")

    (slow,) = await load.post(mail("slow", "tiny.example"))
    await service.exists("slow-begun")
    await service.pip(second)
    assert (await service.hang_up())["changed"] == ["tiny"]
    await service.takes(version="2")
    assert "1" not in {entry.get("version") for entry in service.taken()[-50:]}
    (service.directory / "slow-may-end").touch()
    await service.takes(1, version="1", id=slow)
    await service.told("retired", after=1)


async def break_plugins(service: Service) -> None:
    build = partial(wheel, service.directory)
    for path in (
        build("tiny", "3", "1 / 0"),
        build("exits", "1", "import sys; sys.exit(3)"),
        build("hangs", "1", "import time; time.sleep(600)"),
    ):
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

    service.unpack(build("tiny", "4", SOURCE.format(version="4", opens=0)))
    service.configure(FAKE, TINY)
    assert (await service.hang_up())["changed"] == ["tiny"]
    await service.takes(version="4")
    assert "reload" not in await service.because()


async def change_a_weight_and_a_key(service: Service) -> None:
    await service.takes(key="one")
    retired = len(service.logged("retired"))
    service.configure(FAKE, TINY + "weight = 0\n")
    assert (await service.hang_up())["changed"] == ["tiny"]
    await service.takes(provider="fake")
    assert {entry.get("provider") for entry in service.taken()[-50:]} == {"fake"}
    assert len(service.logged("retired")) == retired, "the provider was kept"

    (service.directory / "key").write_text("two")
    service.configure(FAKE, TINY)
    assert (await service.hang_up())["changed"] == ["tiny"]
    await service.takes(key="two")
    assert "one" not in {entry.get("key") for entry in service.taken()[-50:]}


BROKEN = {
    "[[provider]\n": "postman.toml: not TOML",
    FAKE + "wieght = 1\n": 'unknown key "wieght"',
    FAKE + TINY.replace('"key"', '"no-key"'): "no-key cannot be read: No such file or directory",
}


async def break_the_file_and_mend_it(service: Service) -> None:
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


async def ask_in_other_ways(service: Service) -> None:
    other = TINY.replace('"tiny"', '"other"', 1)
    service.configure(FAKE + "weight = 2\n", TINY + "weight = 3\n", other)
    report = {"added": ["other"], "changed": ["fake"], "removed": [], "kept": ["tiny"]}
    assert await service.ask("POST", "/reload") == (200, report)
    service.configure(FAKE, TINY + "weight = 3\n")
    done = await service.command("reload", "--json")
    report = {"added": [], "changed": ["fake"], "removed": ["other"], "kept": ["tiny"]}
    assert (done.returncode, json.loads(done.stdout)) == (0, report)


async def send_a_hundred_signals(service: Service) -> None:
    before = len(service.logged("reloaded"))
    for number in range(100):
        service.configure(FAKE + f"weight = {number}\n", TINY)
        service.process.send_signal(signal.SIGHUP)
        await trio.sleep(0.01)
    assert (await service.hang_up())["event"] == "reloaded"

    async def weights() -> list[float]:
        return [provider["weight"] for provider in (await service.ask("GET", "/status"))[1]["providers"]]

    await wait_for(weights, lambda found: found == [99, 1])  # what was told may be a reload that had begun before
    assert len(service.logged("reloaded")) - before < 100
    await service.takes()


async def send_signals_during_the_drain(service: Service) -> None:
    begun, may_end = (service.directory / name for name in ("slow-begun", "slow-may-end"))
    begun.unlink()
    may_end.unlink()
    slow = httpx.post(f"{service.url}/mail", json=[mail("slow", "tiny.example")]).json()["tracking-ids"][0]
    await service.exists("slow-begun")
    service.process.send_signal(signal.SIGTERM)
    await service.told("stopping")
    reloads = len(service.logged(*RELOADS))
    with trio.fail_after(PATIENCE):
        while service.process.poll() is None:
            service.process.send_signal(signal.SIGHUP)
            may_end.touch()
            await trio.sleep(0.001)
    assert service.process.returncode == 0
    assert len(service.logged(*RELOADS)) == reloads
    assert slow in {entry["id"] for entry in service.taken()}
