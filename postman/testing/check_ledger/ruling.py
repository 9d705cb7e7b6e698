"""Checks of what a person or the clerk may do to a letter, from each state."""

from __future__ import annotations

import random

import trio

from postman.ledger import Claim
from postman.mail import Id
from postman.provider import Receipt
from postman.row import State, Verb
from postman.testing.check_ledger.scene import (
    ACCEPTED,
    DELTA,
    LAMDA,
    REFUSED,
    REJECTED,
    UNAVAILABLE,
    UNKNOWN,
    UNSENT,
    LedgerCheck,
    OpenLedger,
    Scene,
    open_scene,
)

ENDS = (ACCEPTED, REJECTED, REFUSED, UNAVAILABLE, UNKNOWN, UNSENT)

AFTER: dict[Verb, dict[State, State]] = {
    Verb.CANCEL: {State.QUEUED: State.CANCELLED, State.HELD: State.CANCELLED},
    Verb.DISCARD: {State.QUEUED: State.CANCELLED, State.HELD: State.CANCELLED},
    Verb.RELEASE: {State.HELD: State.QUEUED},
    Verb.SETTLE: {State.HELD: State.SENT, State.IN_DOUBT: State.SENT},
    Verb.REPLAY: {State.REJECTED: State.QUEUED, State.FAILED: State.QUEUED},
    Verb.LAPSE: {},
    Verb.DECIDE: {State.IN_DOUBT: State.HELD},
    Verb.AGE: {},
    Verb.PUT: {},
}
"""What each verb does to each state at once; all else it leaves alone."""


async def each_verb_does_to_each_state_what_the_table_says(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        for verb, after in AFTER.items():
            for state in State:
                id = await scene.bring(state)
                before = await scene.row(id)
                row, done = (await scene.ledger.act([id], verb, "olga"))[id]
                assert row == await scene.row(id)
                assert (row.state, done) == (after.get(state, state), state in after), (verb, state)
                assert done or row == before


async def a_verb_tells_of_the_letters_that_exist_and_does_what_it_can(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        queued, sent, absent = await scene.bring(State.QUEUED), await scene.bring(State.SENT), scene.letter().id
        acted = await scene.ledger.act([queued, sent, absent, queued], Verb.CANCEL, "olga")
        assert {id: done for id, (_, done) in acted.items()} == {queued: True, sent: False}


async def the_history_says_who_did_it(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.bring(State.HELD)
        await scene.act(id, Verb.DISCARD)
        assert "olga" in (await scene.row(id)).history[-1].reason


async def a_replay_counts_everything_anew(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.queued()
        await scene.end(id, REFUSED)
        assert (await scene.refused(id)).delay > 0
        scene.clock.advance(10)
        assert (await scene.refused(id)).state is State.REJECTED
        scene.clock.advance(scene.ledger.policy.give_up_after)
        assert await scene.act(id, Verb.REPLAY)
        row = await scene.row(id)
        assert (row.attempts, row.tries, row.refusals, row.put) == (0, 0, {}, False)
        assert row.fence == 1, "only grows"
        await scene.claim(id)


async def an_expired_letter_is_not_replayed(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.queued(expires_at=scene.time(10))
        await scene.claim(id)
        scene.clock.advance(LAMDA.lease)
        assert await scene.act(id, Verb.LAPSE)
        assert await scene.act(id, Verb.DECIDE)
        assert await scene.act(id, Verb.RELEASE)
        assert (await scene.refused(id)).state is State.EXPIRED
        assert not await scene.act(id, Verb.REPLAY)


async def of_cancel_and_claim_one_wins(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        for _ in range(10):
            id = await scene.queued()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scene.ledger.claim, id, [LAMDA])
                nursery.start_soon(scene.act, id, Verb.CANCEL)
            assert await scene.state(id) in {State.SENDING, State.CANCELLED}


async def a_letter_made_queued_waits_for_its_note_until_it_is_put(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.bring(State.HELD)
        await scene.act(id, Verb.RELEASE)
        assert [row.id for row in (await scene.ledger.overdue(10)).unput] == [id]
        assert await scene.act(id, Verb.PUT)
        assert not await scene.act(id, Verb.PUT)
        assert (await scene.ledger.overdue(10)).unput == ()


async def a_long_history_keeps_its_first_and_last_entries(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.bring(State.SENT)
        for number in range(50):
            await scene.ledger.settle(id, Receipt(), f"source {number}")
        row = await scene.row(id)
        assert (len(row.history), row.omitted) == (40, 13)
        assert (row.history[0].reason, row.history[-1].provider) == ("accepted", "source 49")


async def statistics_are_what_a_recount_says_after_anything(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        chance = random.Random(7)
        ids = await scene.accept(*(scene.letter() for _ in range(30)))
        for _ in range(300):
            await _anything(scene, chance, ids)
        rows = [row for id in ids if (row := await scene.ledger.read(id, None)) is not None]
        statistics = await scene.ledger.statistics()
        assert sum(statistics.states.values()) == len(rows)
        for state in State:
            assert statistics.states.get(state, 0) == sum(row.state is state for row in rows), state
        dues = [row.due for row in rows if row.state is State.QUEUED and row.due <= scene.clock.wall]
        assert statistics.oldest_due == min(dues, default=None)
        assert statistics.doubled == sum(row.receipts > 1 for row in rows)


async def _anything(scene: Scene, chance: random.Random, ids: list[Id]) -> None:
    id = chance.choice(ids)
    match chance.randrange(6):
        case 0:
            await scene.ledger.act([id], chance.choice(list(Verb)), "olga")
        case 1:
            scene.clock.advance(chance.choice([0, 10, 60]))
        case 2 if chance.random() < 0.3:
            await scene.ledger.settle(id, Receipt(), "webhook")
        case 3 if chance.random() < 0.3:
            ids += await scene.accept(scene.letter())
        case _:
            claim = await scene.ledger.claim(id, [LAMDA, DELTA])
            if isinstance(claim, Claim) and chance.random() < 0.8:
                await scene.ledger.finish(claim, chance.choice(ENDS))


CHECKS: tuple[LedgerCheck, ...] = (
    each_verb_does_to_each_state_what_the_table_says,
    a_verb_tells_of_the_letters_that_exist_and_does_what_it_can,
    the_history_says_who_did_it,
    a_replay_counts_everything_anew,
    an_expired_letter_is_not_replayed,
    of_cancel_and_claim_one_wins,
    a_letter_made_queued_waits_for_its_note_until_it_is_put,
    a_long_history_keeps_its_first_and_last_entries,
    statistics_are_what_a_recount_says_after_anything,
)
