"""A way in that listens, and a person at the command line who asks it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import memory_queue
from postman.cli import main
from postman.config import Http
from postman.errors import ConfigError
from postman.flake import Flake
from postman.http.endpoint import create_app
from postman.http.keyring import Keyring
from postman.http.listeners import open_listeners
from postman.http.server import Server
from postman.intake import Intake
from postman.ledger import Call, Claim
from postman.mail import Id
from postman.row import End, EndKind, Row, Verb
from postman.testing.letters import a_letter

POST = "send --from shop@example.com --to ann@example.org --subject Hello --text Body"


@dataclass
class Office:
    """An office that does as it is told."""

    well: bool = True
    durable: bool = True
    reason: str | None = None
    broken: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def status(self) -> dict[str, Any]:
        because = [] if self.well else ["Provider lamda is paused by ann; `postman resume lamda` ends that."]
        queue = {"ready": [0, 4, 1], "delayed": 2, "leased": 3, "buried": 0}
        calls = {"accepted": 3, "not-accepted": 7, "unknown": 1}
        lamda = {"name": "lamda", "paused": not self.well, "breaker": {"state": "open"}, "last-fault": "503", **calls}
        return {
            "well": self.well,
            "because": because,
            "durable": self.durable,
            "mails": {"sent": 3, "held": 0},
            "queue": queue,
            "providers": [lamda],
        }

    def unready(self) -> str | None:
        return self.reason

    async def pause(self, provider: str, who: str) -> bool | None:
        changed = (provider, who) not in self.asked
        self.asked.append((provider, who))
        return changed if provider in {"*", "lamda"} else None

    async def resume(self, provider: str, who: str) -> bool | None:
        return await self.pause(provider, who)

    async def reload(self) -> dict[str, Any]:
        if self.broken:
            raise ConfigError(self.broken)
        return {"added": [], "changed": ["delta"], "removed": [], "kept": ["lamda", "fake"]}

    async def wake(self, rows: Sequence[Row]) -> None:
        pass


@dataclass
class Said:
    """What a command said and ended with."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:  # noqa: ANN401  # JSON
        return json.loads(self.out)


class House:
    """A way in that listens, and a person at the command line."""

    def __init__(self, url: str, ledger: MemoryLedger, office: Office, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self.ledger = ledger
        self.office = office
        self._capsys = capsys

    async def say(self, line: str, *more: str) -> Said:
        arguments = [*shlex.split(line), *more]
        with trio.fail_after(30):
            code = await trio.to_thread.run_sync(main, [arguments[0], "--url", self.url, *arguments[1:]])
        captured = self._capsys.readouterr()
        return Said(code, captured.out, captured.err)

    async def sent(self, line: str = POST) -> str:
        said = await self.say(line)
        assert said.code == 0, said.err
        return said.out.strip()

    async def fill(self, count: int) -> list[str]:
        """So many mails that came another way."""
        accepted = await self.ledger.accept([a_letter(id) for id in range(1, count + 1)], "shop", None, b"")
        return list(accepted.ids)

    async def end(self, id: str, kind: EndKind) -> None:
        claim = await self.ledger.claim(Id(id), [Call("lamda", "", 30)])
        assert isinstance(claim, Claim)
        await self.ledger.finish(claim, End(kind, "because of the test"))

    async def held(self) -> str:
        id = await self.sent()
        await self.end(id, EndKind.UNKNOWN)
        await self.ledger.act([Id(id)], Verb.DECIDE, "clerk")
        return id


async def keep_house(
    http: Http, ledger: MemoryLedger, office: Office, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    async with memory_queue(60) as queue:
        server = Server(await open_listeners(http.bind), http)
        app = create_app(Intake(ledger, queue, Flake()), ledger, office, http, Keyring(http.key))
        task_status.started(server.url)  # it listens
        await server.serve(app)
