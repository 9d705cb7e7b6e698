"""Attempts at the two promises: to lose a mail that was answered with 202, and to have one accepted twice."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import trio

from postman import service
from postman.backends.memory.ledger import MemoryLedger
from postman.backends.sqlite.database import open_database
from postman.config import load
from postman.errors import StoreRefused, TooLate
from postman.ledger import Call, Claim, Unclaimable
from postman.provider import Attempt, Phase
from postman.row import End, EndKind, Policy
from postman.sending.wall import end_of
from postman.testing.customer import MAIL
from postman.testing.letters import a_letter
from postman.testing.standing_clock import StandingClock
from postman.testing.waiting import wait_for

TOML = """\
[http]
bind = "127.0.0.1:0"
[delivery]
workers = 8
grace = 0.2
timeout = 0.4
[[provider]]
name = "first"
plugin = "fake"
settings = { file = "taken", latency = 0.01, outcomes = ["accept", "unavailable", "unknown", "refuse", "bug", "drop"] }
[[provider]]
name = "second"
plugin = "fake"
settings = { file = "taken", latency = 0.01, outcomes = ["unavailable", "accept", "hang", "accept", "bug-after"] }
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "postman.toml"
    path.write_text(TOML)
    return path


@asynccontextmanager
async def running(toml: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with trio.open_nursery() as nursery:
        url = await nursery.start(service.run, load(toml))
        async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client:
            yield client
        nursery.cancel_scope.cancel()


def second_name(how: str) -> Callable[[Path], Path]:
    def name(path: Path) -> Path:
        other = path.parent / "other.db"
        if how == "lock deleted":
            path.with_name(f"{path.name}.lock").unlink()
            return path
        os.link(path, other) if how == "hard link" else other.symlink_to(path)
        return other

    return name


@pytest.mark.parametrize("how", ["symbolic link", "hard link", "lock deleted"])
async def test_a_database_has_one_user_under_whatever_name(how: str, tmp_path: Path) -> None:
    path = tmp_path / "postman.db"
    async with open_database(path):
        other = second_name(how)(path)
        with pytest.raises(StoreRefused, match="in use by process"):
            async with open_database(other):
                pass
    async with open_database(other):
        pass


@pytest.mark.parametrize("deed", ["moved", "deleted", "log deleted", "replaced"])
async def test_no_mail_is_promised_once_the_database_is_not_where_it_was(deed: str, toml: Path) -> None:
    path = toml.with_name("postman.db")
    aside = path.with_name("aside.db")
    async with running(toml) as client:
        assert (await client.post("/mail", json=[MAIL])).status_code == 202
        match deed:
            case "moved":
                path.rename(aside)
            case "deleted":
                path.unlink()
            case "log deleted":
                path.with_name("postman.db-wal").unlink()
            case _:
                shutil.copy(path, aside)
                aside.rename(path)
        answer = await client.post("/mail", json=[MAIL])
        assert answer.status_code == 503, answer.text
        status = (await client.get("/status")).json()
        assert any("moved or deleted" in sentence for sentence in status["because"])
        if deed == "moved":
            aside.rename(path)
            await wait_for(
                partial(client.post, "/mail", json=[MAIL]), lambda answer: answer.status_code == 202, within=10
            )


def test_a_plugin_that_begins_anew_after_it_had_handed_over_leaves_doubt() -> None:
    now = 0.0
    attempt = Attempt("key", lease_ends=1.0, clock=lambda: now)
    attempt.starting()
    attempt.handed_over()
    now = 2.0
    with pytest.raises(TooLate) as late:
        attempt.starting()
    assert end_of(late.value, attempt.phase).kind is EndKind.UNKNOWN
    assert end_of(late.value, Phase.STARTED).kind is EndKind.UNSENT


async def test_a_wall_clock_that_is_set_back_delays_no_letter_that_was_due() -> None:
    clock = StandingClock()
    ledger = MemoryLedger(Policy(), clock)
    later = a_letter(2, send_at=datetime.fromtimestamp(clock.wall + 600, UTC))
    await ledger.accept([a_letter(1), later], "shop", None, b"")
    clock.wall -= 86_400
    calls = [Call("lamda", "", 30)]
    claim = await ledger.claim(a_letter(1).id, calls)
    assert isinstance(claim, Claim)
    await ledger.finish(claim, End(EndKind.UNAVAILABLE))
    clock.wall -= 86_400
    assert isinstance(await ledger.claim(claim.id, calls), Claim)
    told = await ledger.claim(later.id, calls)
    assert isinstance(told, Unclaimable)
    assert told.delay == 600


async def test_a_request_that_is_repeated_when_its_mails_have_expired_gets_its_first_answer(toml: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    late, key = [{**MAIL, "expires-at": soon}], {"Idempotency-Key": "a"}
    async with running(toml) as client:
        await client.post("/pause", json={})
        first = await client.post("/mail", json=late, headers=key)
        assert first.status_code == 202, first.text
        await trio.sleep_until(trio.current_time() + 0.6)  # the wall clock of a real service cannot be made to jump
        again = await client.post("/mail", json=late, headers=key)
        assert (again.status_code, again.json()) == (202, first.json())
        assert (await client.post("/mail", json=late)).status_code == 400


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_order_of_requests_restarts_and_reloads_loses_a_mail_or_has_it_accepted_twice(
    seed: int, toml: Path
) -> None:
    storm = Storm(random.Random(seed), toml)
    for _ in range(3):
        async with running(toml) as client:
            await client.post("/resume", json={})
            with trio.move_on_after(0.8):
                await storm.blow(client)
    async with running(toml) as client:
        await storm.check(client)


class Storm:
    """Many clients at once that do whatever the wire allows, but `release` and `replay`: a person may want a copy."""

    def __init__(self, chance: random.Random, toml: Path) -> None:
        self.chance = chance
        self.toml = toml
        self.keys: dict[str, Any] = {}
        self.ids: list[str] = []
        self.cancelled: set[str] = set()

    async def blow(self, client: httpx.AsyncClient) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(self._act, client)

    async def _act(self, client: httpx.AsyncClient) -> None:
        deeds: list[Callable[[httpx.AsyncClient], Awaitable[None]]] = [self._post, self._post, self._post, self._verb]
        while True:
            await self.chance.choice([*deeds, self._switch, self._change])(client)
            await trio.sleep(0.03)

    async def _post(self, client: httpx.AsyncClient) -> None:
        key = f"key-{self.chance.randrange(60)}"
        mail = self.keys.setdefault(key, self._mail())
        answer = await client.post("/mail", json=[mail, MAIL], headers={"Idempotency-Key": key})
        if answer.status_code == 202:
            ids = answer.json()["tracking-ids"]
            assert self.keys.setdefault(f"{key}: ids", ids) == ids
            self.ids = list(dict.fromkeys([*self.ids, *ids]))
        else:
            assert answer.status_code == 503, answer.text

    def _mail(self) -> dict[str, Any]:
        soon = (datetime.now(UTC) + timedelta(seconds=self.chance.uniform(0.05, 1))).isoformat()
        return {**MAIL, **self.chance.choice([{}, {"send-at": soon}, {"expires-at": soon}, {"priority": "high"}])}

    async def _verb(self, client: httpx.AsyncClient) -> None:
        if not self.ids:
            return
        ids = self.chance.sample(self.ids, min(len(self.ids), 3))
        match self.chance.randrange(4):
            case 0:
                answer = await client.delete(f"/mail/{ids[0]}")
                assert answer.status_code in {200, 409}, answer.text
                if answer.status_code == 200 and not any(line.get("provider") for line in answer.json()["history"]):
                    self.cancelled.add(ids[0])
            case 1:
                await client.post("/mail/discard", json={"ids": ids[:1]})
            case 2:
                await client.post("/mail/settle", json={"ids": ids})
            case _:
                await client.get("/mail", params={"limit": "100"})

    async def _switch(self, client: httpx.AsyncClient) -> None:
        await client.post("/pause", json={"provider": self.chance.choice(["first", "second", "*"])})
        await trio.sleep(0.02)
        await client.post("/resume", json={})

    async def _change(self, client: httpx.AsyncClient) -> None:
        rate = self.chance.choice(["", "rate = 1000\n", "weight = 0\n", "max-concurrent = 2\n"])
        self.toml.write_text(TOML.replace('name = "second"\n', f'name = "second"\n{rate}'))
        answer = await client.post("/reload")
        assert answer.status_code in {200, 409}, answer.text

    async def check(self, client: httpx.AsyncClient) -> None:
        """When nothing moves any more: compare the ledger with what the providers took."""
        assert (await client.post("/pause", json={})).status_code == 200
        await wait_for(partial(client.get, "/mail?state=sending"), lambda answer: not answer.json()["mails"], within=10)
        taken = Counter(json.loads(line)["id"] for line in self.toml.with_name("taken").read_text().splitlines())
        assert self.ids
        for id in {*self.ids, *taken}:
            row = (await client.get(f"/mail/{id}")).json()
            asked = [line for line in row["history"] if line.get("provider")]
            assert taken[id] <= 1, row
            assert taken[id] == 0 or asked, row
            assert taken[id] == 0 or row["state"] in {"sent", "in-doubt", "held", "cancelled"}, row
            if id in self.cancelled:
                assert (row["state"], taken[id]) == ("cancelled", 0)
            if row["message-id"]:
                assert taken[id] == 1, json.dumps(row, indent=1)
