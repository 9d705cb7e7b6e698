"""Checks of what must survive: `open_ledger` is called several times, always for the same store."""

from __future__ import annotations

import msgspec

from postman.errors import IdTaken, NewerRow
from postman.ledger import Filter
from postman.movable import Movable, Stored
from postman.provider import Receipt
from postman.row import State, Verb
from postman.testing.check_ledger.scene import LAMDA, LedgerCheck, OpenLedger, expect, open_scene
from postman.testing.standing_clock import StandingClock


async def everything_is_there_after_reopening(open_ledger: OpenLedger) -> None:
    clock = StandingClock()
    async with open_scene(open_ledger, clock=clock) as scene:
        ids = {state: await scene.bring(state) for state in State if state is not State.SENDING}
        rows = [await scene.row(id) for id in ids.values()]
        await scene.ledger.settle(ids[State.SENT], Receipt(), "webhook")
        doubled = await scene.row(ids[State.SENT])
        letter = scene.letter(tags=("a",))
        accepted = await scene.ledger.accept([letter], "shop", "key", b"body")
        await scene.ledger.pause("lamda", "olga")
        statistics = await scene.ledger.statistics()
    async with open_scene(open_ledger, clock=clock) as scene:
        for row in rows:
            assert await scene.row(row.id) == (doubled if row.id == doubled.id else row)
        assert await scene.ledger.statistics() == statistics
        assert (await scene.ledger.accept([scene.letter()], "shop", "key", b"body")).ids == accepted.ids
        assert [row.id for row in await scene.ledger.find(Filter(tag="a"), None, 10)] == [letter.id]
        assert [pause.who for pause in await scene.ledger.pauses()] == ["olga"]
        assert (await scene.claim(letter.id)).letter == letter


async def an_id_stays_taken_after_reopening(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        letter = scene.letter()
        await scene.accept(letter)
    async with open_scene(open_ledger) as scene:
        fresh = scene.letter()
        with expect(IdTaken):
            await scene.accept(fresh, letter)
        assert await scene.ledger.read(fresh.id, None) is None
        assert (await scene.ledger.statistics()).states == {State.QUEUED: 1}


async def what_a_newer_postman_wrote_is_left_alone_and_the_others_go_on(open_ledger: OpenLedger) -> None:
    clock = StandingClock()
    async with open_scene(open_ledger, clock=clock) as scene:
        older = await scene.queued()
        newer, ours = await scene.queued(on_doubt="ask"), await scene.queued()  # a policy that nobody knows yet
        statistics = await scene.ledger.statistics()
    async with open_scene(open_ledger, clock=clock) as scene:
        for refused in (
            lambda: scene.ledger.claim(newer, [LAMDA]),
            lambda: scene.ledger.read(newer, None),
            lambda: scene.ledger.settle(newer, Receipt(), "webhook"),
        ):
            with expect(NewerRow):
                await refused()
        assert set(await scene.ledger.act([newer, ours], Verb.PUT, "clerk")) == {ours}
        for limit in (2, 10):
            assert [row.id for row in await scene.ledger.find(Filter(), None, limit)] == [ours, older]
        clock.advance(scene.ledger.policy.give_up_after)
        assert {row.id for row in (await scene.ledger.overdue(10)).aged} == {ours, older}
        assert (await scene.ledger.statistics()).states == statistics.states
        with expect(IdTaken):
            await scene.accept(scene.letter(id=newer))
        assert (await scene.claim(await scene.queued())).fence == 1


async def what_a_newer_postman_wrote_hides_nothing_from_the_clerk(open_ledger: OpenLedger) -> None:
    clock = StandingClock()
    async with open_scene(open_ledger, clock=clock) as scene:
        for _ in range(5):
            await scene.queued(on_doubt="ask")
        ours = await scene.queued()
    async with open_scene(open_ledger, clock=clock) as scene:
        clock.advance(scene.ledger.policy.give_up_after)
        overdue = await scene.ledger.overdue(2)
        assert [row.id for row in overdue.aged] == [row.id for row in overdue.waiting] == [ours]
        assert not (await scene.ledger.statistics()).troubles, "nothing is damaged"


async def what_a_newer_postman_wrote_does_not_move_and_the_others_do(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        newer, ours = await scene.queued(on_doubt="ask"), await scene.queued()
        row = await scene.row(ours)
    async with open_scene(open_ledger) as scene:
        assert isinstance(scene.ledger, Movable)
        assert set(await scene.ledger.letters([newer, ours])) == {ours}
        assert await scene.ledger.let_go([row, msgspec.structs.replace(row, id=newer)], "r1") == {ours}
        assert await scene.state(ours) is State.CANCELLED
        there = Stored(msgspec.structs.replace(row, id=newer), scene.letter(id=newer))
        assert await scene.ledger.take_in([there]) == {newer}


CHECKS: tuple[LedgerCheck, ...] = (
    everything_is_there_after_reopening,
    an_id_stays_taken_after_reopening,
    what_a_newer_postman_wrote_is_left_alone_and_the_others_go_on,
    what_a_newer_postman_wrote_hides_nothing_from_the_clerk,
    what_a_newer_postman_wrote_does_not_move_and_the_others_do,
)
