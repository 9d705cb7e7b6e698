"""Somebody else wrote where our keys are, or deleted them: it is said, and what is whole goes on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
import structlog.testing
import trio

from postman.backends.redis.address import Address
from postman.backends.redis.ledger import RedisLedger, redis_ledger
from postman.backends.redis.queue import redis_queue
from postman.clerk import Clerk
from postman.errors import DamagedRow, StoreRefused
from postman.ledger import ALL, Filter, Instance, Pause
from postman.mail import Id
from postman.queue import Note
from postman.row import Policy, State, Verb
from postman.testing.check_ledger import Scene
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.redis_server import RedisServer
from postman.testing.standing_clock import StandingClock

type Damage = Callable[[RedisServer, str], object]
"""Of a letter, by its key."""

DAMAGES: dict[str, Damage] = {
    "of another type": lambda server, key: (server.ask("DEL", key), server.ask("SET", key, "x")),
    "without a version": lambda server, key: server.ask("HDEL", key, "v"),
    "with a version that is none": lambda server, key: server.ask("HSET", key, "v", "x"),
    "without a row": lambda server, key: server.ask("HDEL", key, "r"),
    "with half a row": lambda server, key: server.ask("HSET", key, "r", server.ask("HGET", key, "r")[:50]),
}


class Place:
    """A ledger on a server where somebody else writes."""

    def __init__(self, ledger: RedisLedger, server: RedisServer, prefix: str, clock: StandingClock) -> None:
        self.ledger = ledger
        self.server = server
        self.scene = Scene(ledger, clock)
        self.clock = clock
        self._prefix = prefix

    def key(self, name: str) -> str:
        return self._prefix + name

    def letter(self, id: Id) -> str:
        return self.key(f"letter:{id}")


@pytest.fixture
async def place(redis: Address, redis_process: RedisServer) -> AsyncIterator[Place]:
    clock = StandingClock()
    async with redis_ledger(redis, Policy(), clock) as ledger:
        yield Place(ledger, redis_process, redis.prefix, clock)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_letter_is_told_and_stops_no_other(place: Place, damage: Damage) -> None:
    ledger, scene = place.ledger, place.scene
    before, bad, after = [(await scene.claim(await scene.queued())).id for _ in range(3)]
    damage(place.server, place.letter(bad))
    with structlog.testing.capture_logs() as logs:
        for ask in (partial(ledger.read, bad, None), partial(ledger.claim, bad, [LAMDA])):
            with pytest.raises(DamagedRow, match=bad):
                await ask()
    assert {(log["log_level"], log["id"]) for log in logs} == {("error", bad)}
    assert [row.id for row in await ledger.find(Filter(), None, 10)] == [after, before]
    place.clock.advance(LAMDA.lease)
    assert [row.id for row in (await ledger.overdue(10)).lapsed] == [before, after]
    assert set(await ledger.act([before, bad, after], Verb.LAPSE, "clerk")) == {before, after}
    assert await ledger.letters([bad]) == {}


async def test_damaged_letters_that_the_clerk_comes_across_are_told_once_and_in_the_status_until_they_are_whole(
    place: Place,
) -> None:
    ids = [(await place.scene.claim(await place.scene.queued())).id for _ in range(6)]
    whole = {id: place.server.ask("HGET", place.letter(id), "r") for id in ids[:5]}
    for id in whole:
        place.server.ask("HSET", place.letter(id), "r", "x")
    place.clock.advance(LAMDA.lease)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            assert [row.id for row in (await place.ledger.overdue(2)).lapsed] == ids[5:]
    assert [log["id"] for log in logs] == ids[:5]
    [sentence] = (await place.ledger.statistics()).troubles
    assert sentence.startswith("5 mails are damaged in the ledger")
    assert f"{', '.join(ids[:3])} and 2 more" in sentence
    for id, row in whole.items():
        place.server.ask("HSET", place.letter(id), "r", row)
    await place.ledger.overdue(2)
    await place.ledger.overdue(10)
    assert (await place.ledger.statistics()).troubles == ()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_what_is_damaged_is_swept_with_what_ended_beside_it(place: Place, damage: Damage) -> None:
    ids = [await place.scene.queued() for _ in range(3)]
    for id in ids:
        await place.scene.end(id, ACCEPTED)
    damage(place.server, place.letter(ids[1]))
    place.clock.advance(Policy().retention)
    assert await place.ledger.sweep(10) == 3
    assert place.server.ask("EXISTS", *map(place.letter, ids)) == 0
    assert (await place.ledger.statistics()).states == {}


@pytest.mark.parametrize("damage", ["of another type", "without a version"])
async def test_the_end_of_a_call_is_not_tried_for_ever_when_its_letter_was_damaged_meanwhile(
    place: Place, damage: str
) -> None:
    claim = await place.scene.claim(await place.scene.queued())
    DAMAGES[damage](place.server, place.letter(claim.id))
    with pytest.raises(DamagedRow):  # a delivery insists on what is unavailable or refused
        await place.ledger.finish(claim, ACCEPTED)


async def test_letters_that_somebody_deleted_are_told_and_do_not_stand_in_the_way_of_others(place: Place) -> None:
    ledger, scene = place.ledger, place.scene
    *deleted, left = [(await scene.claim(await scene.queued())).id for _ in range(4)]
    place.server.ask("DEL", *map(place.letter, deleted))
    place.server.ask("ZADD", place.key("wake:sending"), 0, b"\xff no id")
    place.clock.advance(LAMDA.lease)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            await ledger.overdue(3)
        assert [row.id for row in (await ledger.overdue(2)).lapsed] == [left]
    assert set(deleted) < {id for log in logs for id in log["mails"]}
    assert (await ledger.statistics()).states == {State.SENDING: 1}


@pytest.mark.parametrize(
    "name", ["client:shop", "due:put", "wake:queued", "state:queued", "keyed", "queue:lane:1", "queue:serial"]
)
async def test_a_request_is_not_half_accepted_where_somebody_else_wrote_to_a_key(
    redis: Address, redis_process: RedisServer, name: str
) -> None:
    clock = StandingClock()
    async with redis_queue(redis, 60.0) as queue, redis_ledger(redis, Policy(), clock, queue=queue) as ledger:
        letters = [Scene(ledger, clock).letter() for _ in range(2)]
        redis_process.ask("SET", redis.prefix + name, "x")
        with pytest.raises(Exception, match=r"WRONGTYPE|not an integer"):
            await ledger.accept(letters, "shop", "key", b"body")
        redis_process.ask("DEL", redis.prefix + name)
        assert [await ledger.read(letter.id, None) for letter in letters] == [None, None]
        clock.advance(61)
        await ledger.overdue(10)
        assert (await ledger.statistics()).states == {}, "no index names them for long"
        accepted = await ledger.accept(letters, "shop", "key", b"body")
        assert (accepted.ids, accepted.replayed) == (tuple(letter.id for letter in letters), False)
        assert len(await ledger.find(Filter(client="shop", state=State.QUEUED), None, 10)) == 2
        taken = [await queue.take() for _ in letters]
        assert {lease.note.id for lease in taken if lease.note} == set(accepted.ids)


async def test_a_claim_that_cannot_be_written_to_every_index_is_not_written_at_all(place: Place) -> None:
    id = await place.scene.queued()
    place.server.ask("SET", place.key("wake:sending"), "x")
    with pytest.raises(StoreRefused):
        await place.ledger.claim(id, [LAMDA])
    assert await place.scene.state(id) is State.QUEUED
    place.server.ask("DEL", place.key("wake:sending"))
    assert (await place.scene.claim(id)).fence == 1
    place.clock.advance(LAMDA.lease)
    assert [row.id for row in (await place.ledger.overdue(10)).lapsed] == [id]


@pytest.mark.parametrize("name", ["state:sent", "wake:in-doubt", "due:unput", "keys", "keyed", "doubled"])
async def test_a_key_of_another_type_is_named_in_the_status_and_at_the_next_start(
    place: Place, redis: Address, name: str
) -> None:
    place.server.ask("DEL", place.key(name))
    place.server.ask("SET", place.key(name), "x")
    named = re.escape(f"somebody else wrote to {redis.prefix}{name}; restore it")
    with pytest.raises(StoreRefused, match=named):
        await place.ledger.statistics()
    with pytest.raises(StoreRefused, match=named):
        async with redis_ledger(redis, Policy()):
            pass


async def test_a_queue_of_another_type_is_told_to_takers_and_at_the_next_start(
    redis: Address, redis_process: RedisServer
) -> None:
    async with redis_queue(redis, 60.0) as queue:
        redis_process.ask("SET", queue.keys[1], "x")
        with pytest.raises(StoreRefused, match="somebody else wrote to a key that begins with"):
            await queue.take()
        with pytest.raises(StoreRefused):
            async with redis_queue(redis, 60.0):
                pass
        redis_process.ask("DEL", queue.keys[1])
        await queue.put([Note(Id("0x01"))])
        assert (await queue.take()).note == Note(Id("0x01"))


@pytest.mark.parametrize("lease", [b"\xff", b"1:9:5:note", b"1:1:never:note"])
async def test_what_is_no_lease_of_ours_stops_no_taker(
    redis: Address, redis_process: RedisServer, lease: bytes
) -> None:
    async with redis_queue(redis, 60.0) as queue:
        redis_process.ask("ZADD", queue.keys[3], 1, lease)
        await queue.put([Note(Id("0x01"))])
        assert (await queue.take()).note == Note(Id("0x01"))
        assert (await queue.statistics()).leased == 1


async def test_a_pause_that_cannot_be_read_still_holds_and_an_instance_is_passed_over(place: Place) -> None:
    await place.ledger.pause(ALL, "olga")
    me = Instance(id="me", name="here", pid=1)
    await place.ledger.enrol(me)
    place.server.ask("HSET", place.key("pauses"), "lamda", b"\xc1")
    place.server.ask("HSET", place.key("instances"), "other", b"\xc1")
    first, second = await place.ledger.pauses()
    assert (first, second.provider) == (Pause("lamda", 0.0, "somebody"), ALL)
    assert [instance.id for instance in await place.ledger.enrol(me)] == ["me"]
    await place.ledger.pause("lamda", None)
    assert len(await place.ledger.pauses()) == 1


async def test_a_key_that_cannot_be_read_accepts_nothing_and_is_left_out_of_an_export(place: Place) -> None:
    scene = place.scene
    for key in ("good", "bad"):
        await place.ledger.accept([scene.letter()], "shop", key, b"body")
    place.server.ask("HSET", place.key("keys"), b"shop\0bad", b"\xc1")
    letter = scene.letter()
    with pytest.raises(DamagedRow, match="Idempotency-Key"):
        await place.ledger.accept([letter], "shop", "bad", b"body")
    assert await place.ledger.read(letter.id, None) is None
    keys, _ = await place.ledger.keys("", 10)
    assert [key.key for key in keys] == ["good"]


async def test_the_clerk_sees_to_the_others_beside_damaged_letters_of_every_kind(
    redis: Address, redis_process: RedisServer
) -> None:
    clock = StandingClock()
    async with redis_queue(redis, 60.0) as queue, redis_ledger(redis, Policy(), clock) as ledger:
        scene, bad = Scene(ledger, clock), []
        for damage in DAMAGES.values():
            for state in (State.QUEUED, State.SENDING, State.IN_DOUBT, State.SENT):
                bad.append(await scene.bring(state))
                damage(redis_process, f"{redis.prefix}letter:{bad[-1]}")
        expiring = await scene.queued(expires_at=scene.time(60))
        lapsed = (await scene.claim(await scene.queued())).id
        clock.advance(Policy().retention)
        clerk = Clerk(ledger, queue, accounts=frozenset, delivering=lambda: True, wall=lambda: clock.wall)
        await clerk.round()
        assert await scene.state(expiring) is State.EXPIRED
        assert await scene.state(lapsed) is State.IN_DOUBT


async def test_a_command_that_cannot_be_sent_is_its_callers_mistake_and_breaks_nothing(place: Place) -> None:
    client = place.ledger._client
    with pytest.raises(TypeError):
        await client.ask(("ECHO", None))
    with trio.fail_after(5):
        assert await client.ask(("ECHO", "x")) == [b"x"]


async def test_what_is_no_id_in_an_index_does_not_keep_a_list_from_its_end(place: Place) -> None:
    place.server.ask("ZADD", place.key("state:held"), 0, b"\x80")
    with trio.fail_after(5):
        assert await place.ledger.find(Filter(state=State.HELD), None, 10) == []


async def test_a_note_is_kept_when_its_copy_or_its_old_place_cannot_be_written(
    redis: Address, redis_process: RedisServer
) -> None:
    async with redis_queue(redis, 60.0) as queue:
        await queue.put([Note(Id("0x01"))])
        lease = await queue.take()
        for key, end in (
            (queue.keys[5], partial(queue.bury, lease, "no row")),
            (queue.keys[1], partial(queue.release, lease)),
        ):
            redis_process.ask("SET", key, "x")
            with pytest.raises(StoreRefused, match="somebody else wrote"):
                await end()
            redis_process.ask("DEL", key)
        assert (await queue.statistics()).leased == 1
        await queue.ack(lease)
