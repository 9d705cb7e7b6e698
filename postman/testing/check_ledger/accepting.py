"""Checks of the way in: accept is the promise."""

from __future__ import annotations

import trio

from postman.errors import IdTaken, KeyReused, StoreFull
from postman.ledger import Accepted, Filter
from postman.mail import Id, Letter, Priority
from postman.queue import MAX_DELAY
from postman.row import Policy, State
from postman.testing.check_ledger.scene import ACCEPTED, LedgerCheck, OpenLedger, Scene, expect, open_scene


async def an_accepted_letter_is_queued_and_due(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        letter = scene.letter(priority=Priority.HIGH)
        [id] = await scene.accept(letter)
        row = await scene.row(id)
        assert (row.state, row.due, row.put, row.lane) == (State.QUEUED, scene.clock.wall, True, 0)
        assert (row.client, row.sender, row.fence, row.attempts) == ("shop", "example.org", 0, 0)
        assert [entry.state for entry in row.history] == [State.QUEUED]


async def ids_come_back_in_the_order_of_the_letters(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        letters = [scene.letter() for _ in range(5)][::-1]
        assert await scene.accept(*letters) == [letter.id for letter in letters]


async def letters_are_accepted_all_or_none(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        taken, fresh = scene.letter(), scene.letter()
        await scene.accept(taken)
        with expect(IdTaken):
            await scene.ledger.accept([fresh, taken], "shop", "key", b"body")
        assert await scene.ledger.read(fresh.id, None) is None
        # The key was not used either.
        accepted = await scene.ledger.accept([fresh], "shop", "key", b"other")
        assert not accepted.replayed
        assert (await scene.ledger.statistics()).states == {State.QUEUED: 2}


async def an_id_twice_in_one_request_is_taken(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        letter = scene.letter()
        with expect(IdTaken):
            await scene.accept(letter, letter)
        assert await scene.ledger.read(letter.id, None) is None


async def of_concurrent_requests_with_one_id_one_is_accepted(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        letter, accepted = scene.letter(), 0

        async def accept() -> None:
            nonlocal accepted
            try:
                await scene.accept(scene.letter(), letter)
            except IdTaken:
                return
            accepted += 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(accept)
        assert accepted == 1
        assert (await scene.ledger.statistics()).states == {State.QUEUED: 2}


async def fifty_concurrent_requests_of_one_key_get_the_same_ids(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        answers: list[Accepted] = []

        async def accept() -> None:
            answers.append(await scene.ledger.accept([scene.letter(), scene.letter()], "shop", "key", b"body"))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(accept)
        assert len({answer.ids for answer in answers}) == 1
        assert sum(not answer.replayed for answer in answers) == 1
        assert (await scene.ledger.statistics()).states == {State.QUEUED: 2}


async def a_key_with_another_body_is_refused_and_nothing_is_changed(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        await scene.ledger.accept([scene.letter()], "shop", "key", b"body")
        other = scene.letter()
        with expect(KeyReused):
            await scene.ledger.accept([other], "shop", "key", b"another")
        assert await scene.ledger.read(other.id, None) is None


async def a_key_belongs_to_its_client(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        first = await scene.ledger.accept([scene.letter()], "shop", "key", b"body")
        second = await scene.ledger.accept([scene.letter()], "blog", "key", b"another")
        assert not second.replayed
        assert first.ids != second.ids


async def a_full_ledger_refuses_whole_requests_and_goes_on_sending(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(max_queued=3)) as scene:
        first, *_ = await scene.accept(scene.letter(), scene.letter())
        with expect(StoreFull):
            await scene.accept(scene.letter(), scene.letter())
        assert (await scene.ledger.statistics()).states == {State.QUEUED: 2}
        await scene.end(first, ACCEPTED)
        await scene.accept(scene.letter(), scene.letter())


async def a_replay_is_answered_though_the_ledger_is_full(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(max_queued=1)) as scene:
        first = await scene.ledger.accept([scene.letter()], "shop", "key", b"body")
        assert (await scene.ledger.accept([scene.letter()], "shop", "key", b"body")).ids == first.ids


async def a_letter_for_later_waits_without_a_note_when_no_queue_could_hold_it(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        soon = await scene.queued(send_at=scene.time(MAX_DELAY - 1))
        late = await scene.queued(send_at=scene.time(MAX_DELAY + 1))
        assert ((await scene.row(soon)).put, (await scene.row(late)).put) == (True, False)
        assert (await scene.refused(soon)).delay == MAX_DELAY - 1
        scene.clock.advance(MAX_DELAY + 1)
        await scene.claim(soon)
        await scene.claim(late)


async def an_id_above_2_to_the_63_works_and_sorts_last(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        low, high = Id("0x7fffffffffffffff"), Id("0xfffffffffffffffe")
        await scene.accept(scene.letter(id=high), scene.letter(id=low))
        assert [row.id for row in await scene.ledger.find(Filter(), None, 10)] == [high, low]
        assert (await scene.claim(high)).letter.id == high


async def the_letter_that_is_claimed_is_the_one_that_was_accepted(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        letter = scene.letter()
        await scene.accept(letter)
        assert (await scene.claim(letter.id)).letter == letter


async def what_was_accepted_for_a_cancelled_caller_is_whole_or_not_there(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        for turn in range(20):
            letters = [scene.letter() for _ in range(3)]
            answers: list[Accepted] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_accept, scene, letters, answers)
                for _ in range(turn % 4):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            there = {await scene.ledger.read(letter.id, None) is not None for letter in letters}
            assert there == {True} or (there == {False} and not answers)


async def _accept(scene: Scene, letters: list[Letter], answers: list[Accepted]) -> None:
    answers.append(await scene.ledger.accept(letters, "shop", None, b""))


CHECKS: tuple[LedgerCheck, ...] = (
    an_accepted_letter_is_queued_and_due,
    ids_come_back_in_the_order_of_the_letters,
    letters_are_accepted_all_or_none,
    an_id_twice_in_one_request_is_taken,
    of_concurrent_requests_with_one_id_one_is_accepted,
    fifty_concurrent_requests_of_one_key_get_the_same_ids,
    a_key_with_another_body_is_refused_and_nothing_is_changed,
    a_key_belongs_to_its_client,
    a_full_ledger_refuses_whole_requests_and_goes_on_sending,
    a_replay_is_answered_though_the_ledger_is_full,
    a_letter_for_later_waits_without_a_note_when_no_queue_could_hold_it,
    an_id_above_2_to_the_63_works_and_sorts_last,
    the_letter_that_is_claimed_is_the_one_that_was_accepted,
    what_was_accepted_for_a_cancelled_caller_is_whole_or_not_there,
)
