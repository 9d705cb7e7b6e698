"""One process under load, while its plugins and postman.toml change and break: nothing fails, is lost or doubled."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import trio

from postman.testing.waiting import wait_for, wait_until

BATCH = 5
PACE = BATCH / 200
"""Seconds between two requests: 200 mails a second."""

PATIENCE = 30.0

FAKE = '[[provider]]\nname = "fake"\nplugin = "fake"\nfrom-domains = ["example.org"]\nsettings = {file = "taken"}\n'
TINY = '[[provider]]\nname = "tiny"\nplugin = "tiny"\nsettings = { file = "taken", key = { file = "key" } }\n'

SOURCE = """
import json
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from postman.hookspecs import hookimpl
from postman.kind import Kind, ProviderSettings
from postman.provider import Receipt
from postman.secret import Secret

VERSION = "{version}"


class Settings(ProviderSettings, frozen=True):
    file: Path
    key: Secret


class Tiny:
    def __init__(self, settings):
        self.settings = settings

    async def send(self, letter, attempt):
        attempt.starting()
        attempt.handed_over()
        if letter.mail.subject == "slow":
            self.settings.file.with_name("slow-begun").touch()
            while not self.settings.file.with_name("slow-may-end").exists():
                await trio.sleep(0.01)
        entry = {{"id": letter.id, "version": VERSION, "key": self.settings.key.reveal()}}
        with self.settings.file.open("a") as file:
            file.write(json.dumps(entry) + "\\n")
        return Receipt("tiny " + VERSION)


@asynccontextmanager
async def open_tiny(settings, surroundings):
    await trio.sleep({opens})
    yield Tiny(settings)


@hookimpl
def postman_register():
    return Kind("tiny", Settings, open_tiny, marks=True)
"""


def wheel(directory: Path, name: str, version: str, source: str) -> Path:
    """Build a distribution with one plugin `name`."""
    module, info = f"load_plugin_{name}", f"load_plugin_{name}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"from {module}.provider import postman_register\n",
        f"{module}/provider.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: load-plugin-{name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[postman.providers]\n{name} = {module}\n",
    }
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    record = [f"{path},sha256={digests[path].decode().rstrip('=')},{len(files[path])}\n" for path in files]
    path = directory / f"load_plugin_{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": "".join([*record, f"{info}/RECORD,,\n"])}.items():
            archive.writestr(file, text)
    return path


class Lines:
    """A file that others append JSON to, a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._entries: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """All that is there now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")
            self._offset += len(whole[0] + whole[1])
            self._entries += [json.loads(line) for line in whole[0].splitlines() if line.startswith(b"{")]
        return self._entries


class Service:
    """A running process, its postman.toml, its plugins and what its providers took."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plugins = directory / "plugins"
        self.plugins.mkdir()
        (directory / "key").write_text("one")
        self._log = Lines(directory / "log")
        self._taken = Lines(directory / "taken")

    def configure(self, *tables: str) -> None:
        self.write("".join(tables))

    def write(self, text: str) -> None:
        path = self.directory / "postman.toml"
        path.write_text('[http]\nbind = "127.0.0.1:0"\n[delivery]\ngrace = 20\n' + text)

    async def pip(self, *wheels: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        await trio.run_process([*command, "--upgrade", "--target", str(self.plugins), *map(str, wheels)])

    def unpack(self, path: Path) -> None:
        """What an installer does, in no time."""
        with zipfile.ZipFile(path) as archive:
            archive.extractall(self.plugins)

    def start(self) -> None:
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "postman", "--plugins", str(self.plugins), "serve", "--log-level", "info"],
                stderr=log,
                cwd=self.directory,
            )

    async def wait_ready(self) -> None:
        self.url: str = (await self.told("ready"))["url"]

    def logged(self, *events: str) -> list[dict[str, Any]]:
        return [entry for entry in self._log.read() if entry["event"] in events]

    async def told(self, *events: str, after: int = 0) -> dict[str, Any]:
        """The last of these events, once there are more than `after`."""
        await wait_until(lambda: len(self.logged(*events)) > after or self.process.poll() is not None)
        assert self.process.poll() is None, self._log.read()[-10:]
        return self.logged(*events)[-1]

    async def hang_up(self) -> dict[str, Any]:
        """Send SIGHUP, and wait for what the log says then."""
        before = len(self.logged(*RELOADS))
        self.process.send_signal(signal.SIGHUP)
        return await self.told(*RELOADS, after=before)

    def taken(self) -> list[dict[str, Any]]:
        return self._taken.read()

    async def takes(self, more: int = 100, **like: str) -> None:
        """Wait until the providers have taken `more` mails, or those that are `like` this."""
        before = len(self.taken())
        await wait_until(lambda: sum(like.items() <= entry.items() for entry in self.taken()[before:]) >= more)

    async def exists(self, name: str) -> None:
        await wait_until((self.directory / name).exists)

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        async with httpx.AsyncClient(base_url=self.url) as client:
            answer = await client.request(method, path)
            return answer.status_code, answer.json()

    async def letters(self) -> dict[str, int]:
        """How many letters there are in each state that any is in."""
        letters = (await self.ask("GET", "/status"))[1]["mails"]
        return {state: number for state, number in letters.items() if number}

    async def because(self) -> str:
        return "\n".join((await self.ask("GET", "/status"))[1]["because"])

    async def command(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "postman", *arguments, "--url", self.url]
        return await trio.run_process(command, capture_stdout=True, check=False)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)


RELOADS = ("reloaded", "reload failed; the old configuration goes on")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(tmp_path)
    yield service
    service.process.kill()
    service.process.wait()


def mail(subject: str = "hello", domain: str = "example.org") -> dict[str, Any]:
    return {
        "to": [{"email": "ann@example.com"}],
        "from": {"email": f"shop@{domain}"},
        "subject": subject,
        "content": [{"type": "text/plain", "value": "x"}],
    }


class Load:
    """Posts mails, and remembers which were promised and which requests failed."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=PATIENCE)
        self.ids: list[str] = []
        self.enough = False
        self.failures: list[str] = []

    async def post(self, *mails: dict[str, Any]) -> list[str]:
        answer = await self.client.post("/mail", json=mails)
        if answer.status_code != 202:
            self.failures.append(answer.text)
            return []
        ids: list[str] = answer.json()["tracking-ids"]
        self.ids += ids
        return ids

    async def run(self) -> None:
        due = trio.current_time()
        for _ in range(round(90 / PACE)):
            if self.enough:
                break
            await self.post(*[mail()] * BATCH)
            due = max(due + PACE, trio.current_time())
            await trio.sleep_until(due)


@asynccontextmanager
async def load_on(service: Service) -> AsyncIterator[Load]:
    """Load, and at its end the sum: every mail that was promised was sent, once."""
    await service.wait_ready()
    load = Load(service.url)
    async with load.client, trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        yield load
        load.enough = True
    letters = await wait_for(service.letters, lambda letters: letters.keys() <= {"sent"})
    times = Counter(entry["id"] for entry in service.taken())
    assert load.failures == []
    assert set(load.ids) == times.keys()
    assert set(times.values()) == {1}
    assert letters == {"sent": len(times)}


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
