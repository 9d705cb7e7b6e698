"""Ledgers beside a small model of them, driven by chance."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.postgres.ledger import ledger_on as postgres_ledger
from postman.backends.postgres.server import Server, open_side, prepare
from postman.backends.redis.address import Address
from postman.backends.redis.ledger import redis_ledger
from postman.backends.sqlite.database import open_database
from postman.backends.sqlite.ledger import ledger_on
from postman.ledger import Call, Claim, Ended, Ledger
from postman.mail import Id, OnDoubt
from postman.provider import Receipt
from postman.row import End, EndKind, Policy, State, Verb
from postman.testing.check_ledger import Scene
from postman.testing.postgres_server import PostgresServer
from postman.testing.redis_server import find_server, redis_server
from postman.testing.standing_clock import StandingClock

POLICY = Policy(max_attempts=3, give_up_after=50_000.0, resend_after=60.0)
NAMES = ("lamda", "delta")
LEASE = 30.0
"""Seconds."""


@dataclass
class Model:
    """A letter as the table of states has it, in other words than the product's."""

    hold: bool
    state: str = "queued"
    fence: int = 0
    attempts: int = 0
    cuts: int = 0
    receipts: int = 0
    due: float = 0.0
    lease: float = 0.0
    decide: float = 0.0
    refusers: set[str] = field(default_factory=set)
    told: int = 0

    def claimable(self, ready: set[str], wall: float) -> str | None:
        """Who would be asked now."""
        if self.state != "queued" or wall < self.due:
            return None
        left = [name for name in NAMES if name not in self.refusers]
        if not left:
            self.state = "rejected"
        return next((name for name in left if name in ready), None)

    def claim(self, steady: float) -> None:
        self.state, self.fence, self.lease = "sending", self.fence + 1, steady + LEASE

    def owned(self, fence: int) -> bool:
        return self.fence == fence and self.state in {"sending", "in-doubt", "held"}

    def end(self, fence: int, name: str, kind: EndKind, wall: float) -> None:
        if self.told == fence and (self.receipts or kind != "accepted"):
            return
        if kind == "accepted" or self.owned(fence):
            self.told = fence
        if kind == "accepted":
            self.receipt()
        elif self.owned(fence):
            self.attempts += kind in {"refused", "rejected", "unknown"}
            if kind == "rejected":
                self.state = "rejected"
            elif kind == "unknown":
                self.doubt(wall)
            else:
                self.refusers |= {name} if kind == "refused" else set()
                gone = kind != "unsent" and self.attempts >= 3
                self.state, self.due = ("failed", self.due) if gone else ("queued", wall)

    def doubt(self, wall: float) -> None:
        if self.state == "sending":
            self.state, self.decide = "in-doubt", wall + (0 if self.hold else 60)

    def receipt(self) -> None:
        self.attempts += self.state == "sending"
        self.state, self.receipts = "sent", self.receipts + 1

    def act(self, verb: Verb, wall: float, steady: float) -> None:
        moves = {
            ("queued", "cancel"): "cancelled", ("queued", "discard"): "cancelled",
            ("held", "cancel"): "cancelled", ("held", "discard"): "cancelled",
            ("held", "release"): "queued", ("held", "settle"): "sent", ("in-doubt", "settle"): "sent",
            ("rejected", "replay"): "queued", ("failed", "replay"): "queued",
        }  # fmt: skip  # a table
        if self.state == "sending" and verb == "lapse" and steady >= self.lease:
            self.cuts += 1
            self.doubt(wall)
        elif self.state == "in-doubt" and verb == "decide" and wall >= self.decide:
            again = "failed" if self.attempts >= 3 else "queued"
            self.state = "failed" if self.cuts >= 3 else "held" if self.hold else again
            self.due = wall
        elif (self.state, verb) in moves:
            self.state = moves[self.state, verb]
            if self.state == "queued":
                self.due = wall
            if verb == "replay":
                self.attempts, self.cuts, self.refusers = 0, 0, set()


class LedgerBesideModel(RuleBasedStateMachine):
    """Does the same to both, and compares."""

    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.clock = StandingClock()
        self.models: dict[Id, Model] = {}
        self._opened, self._close = threading.Event(), trio.Event()
        self._thread = threading.Thread(target=trio.run, args=[self._serve])
        self._thread.start()
        assert self._opened.wait(10)

    def open(self) -> AbstractAsyncContextManager[Ledger]:
        raise NotImplementedError

    async def _serve(self) -> None:
        async with self.open() as ledger:
            self.scene = Scene(ledger, self.clock)
            self._token = trio.lowlevel.current_trio_token()
            self._opened.set()
            await self._close.wait()

    def do[T](self, act: Callable[..., Awaitable[T]], *args: object) -> T:
        return trio.from_thread.run(act, *args, trio_token=self._token)

    def teardown(self) -> None:
        trio.from_thread.run_sync(self._close.set, trio_token=self._token)
        self._thread.join(10)

    def compare(self, id: Id) -> None:
        row, model = self.do(self.scene.row, id), self.models[id]
        assert (row.state, row.fence, row.attempts) == (model.state, model.fence, model.attempts)
        assert (row.crashes, row.receipts, set(row.refusals)) == (model.cuts, model.receipts, model.refusers)
        if row.state is State.QUEUED:
            assert model.due <= row.due <= model.due + 3_600
            model.due = row.due

    @initialize(target=ids, doubts=st.lists(st.sampled_from(OnDoubt), min_size=1, max_size=4))
    def accept(self, doubts: list[OnDoubt]) -> object:
        letters = [self.scene.letter(on_doubt=doubt) for doubt in doubts]
        ids = self.do(self.scene.accept, *letters)
        self.models.update(
            {id: Model(doubt == "hold", due=self.clock.wall) for id, doubt in zip(ids, doubts, strict=True)}
        )
        return multiple(*ids)

    @rule(target=claims, id=ids, ready=st.sets(st.sampled_from(NAMES)))
    def claim(self, id: Id, ready: set[str]) -> object:
        return self._claim(id, ready, None)

    @rule(target=claims, claim=consumes(claims), ready=st.sets(st.sampled_from(NAMES)), kind=st.sampled_from(EndKind))
    def ask_another(self, claim: Claim, ready: set[str], kind: EndKind) -> object:
        return self._claim(claim.id, ready, Ended(claim, End(kind, receipt=Receipt())))

    def _claim(self, id: Id, ready: set[str], after: Ended | None) -> object:
        calls = [Call(name, "", LEASE, ready=name in ready) for name in NAMES]
        answer = self.do(self.scene.ledger.claim, id, calls, after)
        model = self.models[id]
        counts = after is None or model.owned(after.claim.fence)
        if after is not None:
            model.end(after.claim.fence, after.claim.call.provider, after.end.kind, self.clock.wall)
        name = model.claimable(ready, self.clock.wall) if counts else None
        if name is not None:
            model.claim(self.clock.steady)
        assert name == (answer.call.provider if isinstance(answer, Claim) else None)
        self.compare(id)
        return answer if isinstance(answer, Claim) else multiple()

    @rule(claim=claims, kind=st.sampled_from(EndKind))
    def finish(self, claim: Claim, kind: EndKind) -> None:
        self.do(self.scene.ledger.finish, claim, End(kind, receipt=Receipt()))
        self.models[claim.id].end(claim.fence, claim.call.provider, kind, self.clock.wall)
        self.compare(claim.id)

    @rule(id=ids)
    def settle(self, id: Id) -> None:
        self.do(self.scene.ledger.settle, id, Receipt(), "webhook")
        self.models[id].receipt()
        self.compare(id)

    @rule(id=ids, verb=st.sampled_from(sorted(set(Verb) - {Verb.AGE, Verb.PUT})))
    def act(self, id: Id, verb: Verb) -> None:
        self.do(self.scene.act, id, verb)
        self.models[id].act(verb, self.clock.wall, self.clock.steady)
        self.compare(id)

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0, 600.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def counts_agree(self) -> None:
        states = self.do(self.scene.ledger.statistics).states
        assert dict(states) == Counter(model.state for model in self.models.values())


class MemoryBesideModel(LedgerBesideModel):
    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Ledger]:
        yield MemoryLedger(POLICY, self.clock)


class SqliteBesideModel(LedgerBesideModel):
    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Ledger]:
        with TemporaryDirectory() as directory:
            async with (
                open_database(Path(directory, "postman.db")) as database,
                ledger_on(database, POLICY, self.clock) as ledger,
            ):
                yield ledger


class RedisBesideModel(LedgerBesideModel):
    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Ledger]:
        with TemporaryDirectory() as directory, redis_server(Path(directory)) as server:
            async with redis_ledger(Address("127.0.0.1", server.port), POLICY, self.clock) as ledger:
                yield ledger


class PostgresBesideModel(LedgerBesideModel):
    url: ClassVar[str]

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Ledger]:
        server = Server(self.url, f"model_{secrets.token_hex(8)}")
        await prepare(server, durable=True)
        async with open_side(server) as side, postgres_ledger(server, side, POLICY, self.clock) as ledger:
            yield ledger


@pytest.fixture
def beside_postgres(postgres_process: PostgresServer) -> None:
    PostgresBesideModel.url = postgres_process.url


TestMemory = MemoryBesideModel.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSqlite = SqliteBesideModel.TestCase
TestSqlite.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestRedis = pytest.mark.skipif(find_server() is None, reason="no Redis here")(RedisBesideModel.TestCase)
TestRedis.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestPostgres = pytest.mark.usefixtures("beside_postgres")(PostgresBesideModel.TestCase)
TestPostgres.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
