from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing

from postman.backends.redis.address import Address
from postman.backends.redis.client import open_client
from postman.backends.redis.ledger import RedisLedger, RedisLedgerSettings, open_both, open_ledger, redis_ledger
from postman.backends.redis.queue import BODY, RedisQueue, RedisQueueSettings, redis_queue
from postman.errors import DamagedRow, IdTaken, KeyReused, StoreFull, StoreUnavailable
from postman.hookspecs import LEDGERS
from postman.kind import Surroundings
from postman.ledger import Call, Claim, Ended, Filter, Ledger, Unclaimable
from postman.mail import Attachment, Id
from postman.provider import Receipt
from postman.queue import Queue
from postman.registry import load_kind
from postman.row import End, EndKind, Now, Policy, State, Verb
from postman.testing.check_ledger import (
    DURABLE_LEDGER_CHECKS,
    LEDGER_CHECKS,
    MOVABLE_LEDGER_CHECKS,
    LedgerCheck,
    OpenLedger,
    Scene,
)
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA, UNAVAILABLE
from postman.testing.redis_server import RedisServer
from postman.testing.standing_clock import StandingClock
from postman.testing.tcp_proxy import open_proxy
from postman.testing.waiting import insist, wait_until
from postman.wire import ClientFactory


@pytest.fixture
def open_redis(redis: Address) -> OpenLedger:
    @asynccontextmanager
    async def open_it(policy: Policy, clock: Callable[[], Now]) -> AsyncGenerator[Ledger]:
        async with redis_ledger(redis, policy, clock) as ledger:
            yield ledger

    return open_it


@asynccontextmanager
async def both(address: Address) -> AsyncGenerator[tuple[RedisLedger, RedisQueue]]:
    async with redis_queue(address, 60.0) as queue, redis_ledger(address, Policy(), queue=queue) as ledger:
        yield ledger, queue


def scene_of(ledger: Ledger) -> Scene:
    """Letters of now: the ledger goes by the server's clock."""
    return Scene(ledger, StandingClock())


@pytest.mark.parametrize(
    "check", LEDGER_CHECKS + DURABLE_LEDGER_CHECKS + MOVABLE_LEDGER_CHECKS, ids=lambda check: check.__name__
)
async def test_the_contract(check: LedgerCheck, open_redis: OpenLedger) -> None:
    await check(open_redis)


async def test_letters_and_notes_are_one_transaction(redis: Address) -> None:
    async with redis_queue(redis, 60.0, trio.current_time) as queue:
        clock = StandingClock()
        async with redis_ledger(redis, Policy(), clock, queue=queue) as ledger:
            scene = Scene(ledger, clock)
            letters = [scene.letter(), scene.letter(send_at=scene.time(60)), scene.letter(send_at=scene.time(10_000))]
            accepted = await ledger.accept(letters, "shop", "key", b"body")
            assert accepted.noted
            replayed = await ledger.accept([scene.letter()], "shop", "key", b"body")
            assert (replayed.replayed, replayed.noted) == (True, True)
            with pytest.raises(KeyReused):
                await ledger.accept([scene.letter()], "shop", "key", b"another")
            with pytest.raises(IdTaken):
                await ledger.accept([scene.letter(), letters[0]], "shop", None, b"")
            statistics = await queue.statistics()
            assert (statistics.ready, statistics.delayed) == ((0, 1, 0), 1), "what is due in hours has no note yet"
            lease = await queue.take()
            assert lease.note is not None
            assert (lease.note.id, lease.note.size > 0) == (letters[0].id, True)


async def test_a_letter_costs_four_round_trips_beside_its_share_of_a_take(mortal_redis: RedisServer) -> None:
    async with both(Address("127.0.0.1", mortal_redis.port)) as (ledger, queue):
        scene = scene_of(ledger)
        for _ in range(2):  # the scripts are known then
            mortal_redis.ask("CONFIG", "RESETSTAT")
            id = await scene.queued()
            lease = await queue.take()
            first = await scene.claim(id)
            second = await scene.claim(id, after=Ended(first, UNAVAILABLE))
            await ledger.finish(second, ACCEPTED)
            await queue.ack(lease)
        calls = calls_of(mortal_redis)
        assert calls["evalsha"] == 5, "accept, take, claim, claim after another call, end"
        # What only scripts do counts as well: two accepts would be two EXISTS, and the take has looked for the claim.
        assert (calls["hmget"], calls["exists"]) == (1, 1)


async def test_what_came_along_with_a_note_is_not_taken_for_what_the_ledger_says(
    redis: Address, redis_process: RedisServer
) -> None:
    async with both(redis) as (ledger, queue), redis_ledger(redis, Policy()) as there:
        scene = scene_of(ledger)
        large = scene.letter(attachments=(Attachment(filename="a", type="image/png", content=bytes(BODY)),))
        ids = await scene.accept(*(scene.letter() for _ in range(3)), large, scene.letter())
        for _ in ids:
            await queue.take()
        assert large.id not in ledger._changes._brought, "so much is not fetched for many takers at once"
        cancelled, claimed, damaged, _, _ = ids
        await there.act([cancelled], Verb.CANCEL, "olga")
        assert isinstance(await there.claim(claimed, [LAMDA]), Claim)
        redis_process.ask("HSET", f"{redis.prefix}letter:{damaged}", "v", "x")
        answers = [await ledger.claim(id, [LAMDA]) for id in ids if id != damaged]
        states = [answer.state for answer in answers if isinstance(answer, Unclaimable)]
        assert states == [State.CANCELLED, State.SENDING]
        assert next(answer.letter for answer in answers if isinstance(answer, Claim)) == large
        with pytest.raises(DamagedRow):
            await ledger.claim(damaged, [LAMDA])
        assert ledger._changes._brought.keys() <= {cancelled, claimed, damaged}


async def test_a_key_that_is_no_letter_keeps_no_note_from_its_taker(redis: Address, redis_process: RedisServer) -> None:
    async with both(redis) as (ledger, queue):
        id = await scene_of(ledger).queued()
        redis_process.ask("DEL", f"{redis.prefix}letter:{id}")
        redis_process.ask("SET", f"{redis.prefix}letter:{id}", "x")
        assert (await queue.take()).note is not None


def calls_of(server: RedisServer) -> Mapping[str, int]:
    """How often each command was run."""
    said = server.ask("INFO", "commandstats").decode()
    return {name: int(number) for name, number in re.findall(r"cmdstat_([^:]+):calls=(\d+)", said)}


async def test_what_another_process_did_is_seen_though_the_claim_is_in_hand(redis: Address) -> None:
    clock = StandingClock()
    async with redis_ledger(redis, Policy(), clock) as here, redis_ledger(redis, Policy(), clock) as there:
        scene = Scene(here, clock)
        claim = await scene.claim(await scene.queued())
        clock.advance(LAMDA.lease)
        for verb in (Verb.LAPSE, Verb.DECIDE, Verb.RELEASE):
            [(_, done)] = (await there.act([claim.id], verb, "olga")).values()
            assert done
        assert (await scene.row(claim.id)).state is State.QUEUED
        newer = await there.claim(claim.id, [LAMDA])
        assert isinstance(newer, Claim)
        late = await here.finish(claim, UNAVAILABLE)
        assert (late.state, late.fence) == (State.SENDING, 2), "an old fence changes nothing, and the row is the newest"
        assert isinstance(await here.claim(claim.id, [LAMDA], Ended(claim, UNAVAILABLE)), Unclaimable)
        assert not await scene.act(claim.id, Verb.CANCEL)
        assert (await there.finish(newer, ACCEPTED)).state is State.SENT
        assert (await here.finish(claim, End(EndKind.REJECTED, "wrong"))).state is State.SENT


async def test_what_is_in_hand_is_not_told_for_what_the_ledger_says(redis: Address) -> None:
    clock = StandingClock()
    async with redis_ledger(redis, Policy(), clock) as here, redis_ledger(redis, Policy(), clock) as there:
        scene = Scene(here, clock)
        first = await scene.claim(await scene.queued())
        await scene.claim(first.id, after=Ended(first, UNAVAILABLE))
        await there.settle(first.id, Receipt("m-1"), "webhook")
        assert (await here.finish(first, UNAVAILABLE)).state is State.SENT


async def test_of_three_processes_one_gets_each_claim(redis: Address) -> None:
    clock = StandingClock()
    async with (
        redis_ledger(redis, Policy(), clock) as one,
        redis_ledger(redis, Policy(), clock) as two,
        redis_ledger(redis, Policy(), clock) as three,
    ):
        scene = Scene(one, clock)
        ids = await scene.accept(*(scene.letter() for _ in range(100)))
        won: list[Id] = []

        async def claim(ledger: RedisLedger, id: Id) -> None:
            if isinstance(await ledger.claim(id, [LAMDA]), Claim):
                won.append(id)

        async with trio.open_nursery() as nursery:
            for id in ids:
                for ledger in (one, two, three):
                    nursery.start_soon(claim, ledger, id)
        assert sorted(won) == sorted(ids)
        assert (await three.statistics()).states == {State.SENDING: 100}


async def test_a_claim_whose_answer_was_lost_is_given_again(redis: Address, redis_process: RedisServer) -> None:
    clock = StandingClock()
    async with (
        open_proxy(redis_process.port) as proxy,
        redis_ledger(replace(redis, port=proxy.port), Policy(), clock) as ledger,
    ):
        scene = Scene(ledger, clock)
        id = await scene.queued()
        await scene.end(await scene.queued(), ACCEPTED)  # the scripts are known now
        proxy.swallow = b":2\r\n"  # the new version
        with pytest.raises(StoreUnavailable) as raised:
            await ledger.claim(id, [LAMDA], owner="me")
        assert raised.value.may_have_happened
        claim = await ledger.claim(id, [LAMDA], owner="me")
        assert isinstance(claim, Claim)
        assert claim.fence == 1
        proxy.swallow = b":3\r\n"
        with pytest.raises(StoreUnavailable):
            await ledger.finish(claim, ACCEPTED)
        row = await ledger.finish(claim, ACCEPTED)
        assert (row.state, row.receipts) == (State.SENT, 1)


async def test_an_accept_whose_answer_was_lost_is_found_by_reading(redis: Address, redis_process: RedisServer) -> None:
    async with (
        open_proxy(redis_process.port) as proxy,
        redis_ledger(replace(redis, port=proxy.port), Policy()) as ledger,
    ):
        scene = scene_of(ledger)
        await scene.queued()
        letter = scene.letter()
        proxy.swallow = b"accepted"
        with pytest.raises(StoreUnavailable) as raised:
            await scene.accept(letter)
        assert raised.value.may_have_happened
        assert await scene.state(letter.id) is State.QUEUED


async def test_what_the_network_brings_after_its_client_was_refused_is_not_accepted(mortal_redis: RedisServer) -> None:
    address = Address("127.0.0.1", mortal_redis.port)
    async with (
        open_proxy(mortal_redis.port) as proxy,
        redis_ledger(replace(address, port=proxy.port, timeout=0.3), Policy()) as ledger,
        redis_ledger(address, Policy()) as other,
    ):
        scene = scene_of(ledger)
        await scene.queued()
        letter, before = scene.letter(), calls_of(mortal_redis)["evalsha"]
        proxy.flows = trio.Event()
        with pytest.raises(StoreUnavailable) as raised:
            await scene.accept(letter)
        assert raised.value.may_have_happened
        assert await other.read(letter.id, None) is None, "so its client posts it again, as another one"
        proxy.flows.set()
        await wait_until(lambda: calls_of(mortal_redis)["evalsha"] > before)
        assert await other.read(letter.id, None) is None


@pytest.mark.parametrize("comes", [True, False])
async def test_what_is_under_way_when_its_connection_is_cut_is_waited_for_by_who_looks_for_it(
    redis: Address, redis_process: RedisServer, comes: bool
) -> None:
    async with (
        open_proxy(redis_process.port) as proxy,
        redis_ledger(replace(redis, port=proxy.port, timeout=0.5), Policy()) as ledger,
        trio.open_nursery() as nursery,
    ):
        scene = scene_of(ledger)
        letter, found = scene.letter(), list[bool]()
        await scene.queued()

        async def accept_and_look() -> None:
            with pytest.raises(StoreUnavailable) as raised:
                await scene.accept(letter)
            assert raised.value.may_have_happened
            found.append(await insist(partial(ledger.read, letter.id, None)) is not None)

        flows, held = proxy.flows, trio.Event()
        proxy.flows = held
        nursery.start_soon(accept_and_look)
        await trio.testing.wait_all_tasks_blocked(0.05)
        proxy.flows = flows  # of the next connection
        wire = ledger._client.connection._wire
        assert wire is not None
        wire.break_off("cut")
        await trio.testing.wait_all_tasks_blocked(0.05)
        if comes:
            held.set()
        await wait_until(lambda: found)
        held.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert [await ledger.read(letter.id, None) is not None] == found == [comes]


async def test_a_server_whose_clock_was_set_takes_letters_all_the_same(redis: Address) -> None:
    async with redis_ledger(redis, Policy()) as ledger:
        scene = scene_of(ledger)
        for ahead in (-3_600.0, 3_600.0):
            ledger._lists._server._ahead += ahead
            await scene.queued()


async def test_when_the_memory_is_full_letters_are_refused_and_sending_goes_on(mortal_redis: RedisServer) -> None:
    async with both(Address("127.0.0.1", mortal_redis.port)) as (ledger, queue):
        scene = scene_of(ledger)
        id, other = await scene.accept(scene.letter(), scene.letter())
        mortal_redis.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreFull):
            await scene.queued()
        assert (await scene.end(id, ACCEPTED)).state is State.SENT
        assert await scene.act(other, Verb.CANCEL)
        await queue.ack(await queue.take())
        mortal_redis.ask("CONFIG", "SET", "maxmemory", "0")
        await scene.queued()


async def test_bodies_and_addresses_are_gone_when_they_are_not_needed(mortal_redis: RedisServer) -> None:
    async with redis_ledger(Address("127.0.0.1", mortal_redis.port), Policy(), StandingClock()) as ledger:
        scene = scene_of(ledger)
        kept = {
            state
            for state in State
            if mortal_redis.ask("HEXISTS", f"{{postman}}:letter:{await scene.bring(state)}", "b")
        }
        assert kept == {State.QUEUED, State.SENDING, State.IN_DOUBT, State.HELD, State.REJECTED, State.FAILED}
        id = await scene.queued(to="zoe@example.com")
        await scene.end(id, ACCEPTED)
        for key in mortal_redis.ask("KEYS", "*"):
            assert b"zoe" not in mortal_redis.ask("DUMP", key)
        assert len(await ledger.find(Filter(recipient="zoe@example.com"), None, 10)) == 1


async def test_sweeping_leaves_nothing_behind(mortal_redis: RedisServer) -> None:
    clock = StandingClock()
    async with redis_ledger(Address("127.0.0.1", mortal_redis.port), Policy(), clock) as ledger:
        scene = Scene(ledger, clock)
        await ledger.accept([scene.letter(id=Id("0x01"), tags=("a", "b"))], "shop", "key", b"")
        await scene.end(Id("0x01"), ACCEPTED)
        clock.advance(Policy().retention)
        assert await ledger.sweep(10) == 2
        assert mortal_redis.ask("KEYS", "*") == []


async def test_a_damaged_row_is_passed_over_and_swept_and_a_damaged_body_is_told(
    redis: Address, redis_process: RedisServer
) -> None:
    clock = StandingClock()
    async with redis_ledger(redis, Policy(), clock) as ledger:
        scene = Scene(ledger, clock)
        damaged, whole, bodiless = [await scene.queued() for _ in range(3)]
        await scene.end(damaged, ACCEPTED)
        redis_process.ask("HSET", f"{redis.prefix}letter:{damaged}", "r", "\xff\x00")
        redis_process.ask("HSET", f"{redis.prefix}letter:{bodiless}", "b", "\x01")
        assert [row.id for row in await ledger.find(Filter(), None, 10)] == [bodiless, whole]
        with pytest.raises(DamagedRow):
            await ledger.read(damaged, None)
        answer = await ledger.claim(bodiless, [LAMDA])
        assert isinstance(answer, Unclaimable)
        assert answer.state is State.FAILED
        clock.advance(Policy().retention)
        assert await ledger.sweep(10) == 2
        assert (await ledger.statistics()).states == {State.QUEUED: 1}


class Load:
    """Clients that post and workers that deliver, and what was confirmed to them."""

    def __init__(self, ledger: RedisLedger, queue: RedisQueue) -> None:
        self.asked = 0
        self.accepted: list[Id] = []
        self.sent: set[Id] = set()
        self.scene = scene_of(ledger)
        self._queue = queue

    async def post(self) -> None:
        async def accept() -> Sequence[Id]:
            self.asked += 2
            return await self.scene.accept(self.scene.letter(), self.scene.letter())

        while True:
            self.accepted += await insist(accept)

    async def deliver(self) -> None:
        while True:
            lease = await insist(self._queue.take)
            assert lease.note is not None
            claim = partial(self.scene.ledger.claim, lease.note.id, [LAMDA], owner=secrets.token_hex(4))
            claimed = await insist(claim)
            if isinstance(claimed, Claim):
                row = await insist(partial(self.scene.ledger.finish, claimed, ACCEPTED))
                assert (row.state, row.receipts) == (State.SENT, 1)
                self.sent.add(row.id)

    async def wait_for_more(self) -> None:
        accepted, sent = len(self.accepted) + 200, len(self.sent) + 100
        while len(self.accepted) < accepted or len(self.sent) < sent:
            await trio.lowlevel.checkpoint()


async def test_what_was_acknowledged_is_there_after_three_kills_under_load(mortal_redis: RedisServer) -> None:
    address = Address("127.0.0.1", mortal_redis.port)
    async with both(address) as stores:
        load = Load(*stores)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(load.post)
                nursery.start_soon(load.deliver)
            for _ in range(3):
                with trio.fail_after(20):
                    await load.wait_for_more()
                mortal_redis.kill()
                await trio.to_thread.run_sync(mortal_redis.start)
            nursery.cancel_scope.cancel()
    async with both(address) as (ledger, _):
        states = {id: row.state for id in load.accepted if (row := await ledger.read(id, None)) is not None}
        assert len(states) == len(load.accepted) >= 600
        assert {states[id] for id in load.sent & states.keys()} == {State.SENT}
        total = sum((await ledger.statistics()).states.values())
        assert (total <= load.asked, total % 2) == (True, 0), "no half of a request"


async def test_the_clock_of_the_server_decides_and_not_that_of_a_process(redis: Address) -> None:
    async with redis_ledger(redis, Policy()) as ledger, open_client(redis) as client:
        scene = scene_of(ledger)
        scene.clock.wall = 4_000_000_000.0  # a process that lives in 2096
        id = await scene.queued()
        claim = await ledger.claim(id, [Call("lamda", "", 0.0)])
        assert isinstance(claim, Claim)
        [[seconds, _]] = await client.ask(("TIME",))
        assert abs(claim.lease_ends - int(seconds)) < 5
        assert [row.id for row in (await ledger.overdue(10)).lapsed] == [id]
        assert await scene.act(id, Verb.LAPSE)


@pytest.mark.parametrize("name", ["redis", "rediss", "valkey"])
def test_the_kind_is_found_by_each_scheme(name: str) -> None:
    assert load_kind(LEDGERS, name).open_both is open_both


async def test_the_kind_opens_the_ledger_alone_or_with_its_queue(mortal_redis: RedisServer) -> None:
    surroundings = Surroundings("store", 1, 1.0, ClientFactory())
    settings = RedisLedgerSettings(url=mortal_redis.url, policy=Policy(max_queued=1))
    async with open_ledger(settings, surroundings) as alone:
        assert (alone.durable, alone.shared, alone.policy.max_queued) == (True, True, 1)
        await scene_of(alone).queued()
    together: AbstractAsyncContextManager[tuple[Ledger, Queue]] = open_both(
        settings, RedisQueueSettings(url=mortal_redis.url), surroundings
    )
    async with together as (ledger, queue):
        assert (await ledger.statistics()).states == {State.QUEUED: 1}
        assert (queue.durable, queue.shared) == (True, True)
