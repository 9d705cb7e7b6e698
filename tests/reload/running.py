"""A service that runs with plugins of its own, and load on it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import trio

from postman.testing.waiting import wait_for, wait_until

BATCH = 5
PACE = BATCH / 200
"""Seconds between two requests: 200 mails a second."""

PATIENCE = 30.0

RELOADS = ("reloaded", "reload failed; the old configuration goes on")


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
        for _ in range(round(180 / PACE)):
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
