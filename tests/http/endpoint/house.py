"""The way in with everything behind it, on a ledger and a queue in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from quart import Response

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import MemoryQueue, memory_queue
from postman.config import Http
from postman.errors import ConfigError
from postman.flake import Flake
from postman.http.endpoint import create_app
from postman.http.keyring import Keyring, NewKey
from postman.intake import Intake
from postman.ledger import Call, Claim
from postman.mail import Id
from postman.provider import Receipt
from postman.queue import Note
from postman.row import End, EndKind, Row, Verb

MAIL: dict[str, Any] = {
    "to": [{"email": "ann@example.com"}],
    "from": {"email": "shop@example.org"},
    "subject": "Your order",
    "content": [{"type": "text/plain", "value": "It is on its way."}],
}
Headers = Mapping[str, str]
NONE: Headers = {}


class HouseOffice:
    """An office that remembers what it was asked."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.queue = queue
        self.asked: list[tuple[str, str]] = []
        self.woken: list[Id] = []
        self.because: list[str] = []
        self.reason: str | None = None
        self.broken = ""

    async def status(self) -> dict[str, Any]:
        return {"well": not self.because, "because": self.because, "up": 1.0, "mails": {"queued": 1}}

    def unready(self) -> str | None:
        return self.reason

    async def pause(self, provider: str, who: str) -> bool | None:
        self.asked.append((provider, who))
        return {"*": True, "lamda": False}.get(provider)

    async def resume(self, provider: str, who: str) -> bool | None:
        return await self.pause(provider, who)

    async def reload(self) -> dict[str, Any]:
        if self.broken:
            raise ConfigError(self.broken)
        return {"kept": ["lamda"]}

    async def wake(self, rows: Sequence[Row]) -> None:
        self.woken += [row.id for row in rows]
        await self.queue.put([Note(row.id) for row in rows])


class House:
    """The way in with everything behind it."""

    def __init__(self, http: Http, queue: MemoryQueue, ledger: MemoryLedger) -> None:
        self.now = 0.0
        self.ledger = ledger
        self.queue = queue
        self.office = HouseOffice(queue)
        self.keyring = Keyring(http.key, batch=http.max_batch, clock=lambda: self.now)
        self.app = create_app(Intake(ledger, queue, Flake()), ledger, self.office, http, self.keyring)

    async def ask(
        self, method: str, path: str, body: object = None, *, key: NewKey | None = None, headers: Headers = NONE
    ) -> tuple[int, Any, Response]:
        """A request: the status, the document, the whole answer."""
        sent = dict(headers)
        if key:
            sent["Authorization"] = f"Bearer {key.token}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        client = self.app.test_client()
        answer = await client.open(path, method=method, data=data or b"", headers=sent)  # type: ignore[call-arg]  # `json` has a default
        raw = await answer.get_data(as_text=False)
        return answer.status_code, json.loads(raw) if raw and "json" in (answer.mimetype or "") else None, answer

    async def post(
        self, *mails: object, key: NewKey | None = None, headers: Headers = NONE
    ) -> tuple[int, Any, Response]:
        return await self.ask("POST", "/mail", list(mails), key=key, headers=headers)

    async def accepted(self, *mails: object, key: NewKey | None = None) -> list[str]:
        status, document, _ = await self.post(*mails or [MAIL], key=key)
        assert status == HTTPStatus.ACCEPTED, document
        ids: list[str] = document["tracking-ids"]
        return ids

    async def end(self, id: str, kind: EndKind, receipt: Receipt | None = None) -> None:
        """Let a provider call end so."""
        claim = await self.ledger.claim(Id(id), [Call("lamda", "", 30)])
        assert isinstance(claim, Claim)
        await self.ledger.finish(claim, End(kind, "because of the test", receipt=receipt))

    async def held(self) -> str:
        [id] = await self.accepted()
        await self.end(id, EndKind.UNKNOWN)
        overdue = await self.ledger.overdue(10)
        await self.ledger.act([row.id for row in overdue.doubtful], Verb.DECIDE, "clerk")
        return id


@asynccontextmanager
async def open_house(http: Http | None = None, ledger: MemoryLedger | None = None) -> AsyncGenerator[House]:
    async with memory_queue(60) as queue:
        yield House(http or Http(), queue, ledger or MemoryLedger())
