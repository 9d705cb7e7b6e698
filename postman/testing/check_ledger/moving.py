"""Checks of a ledger whose letters may move to another one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import trio

from postman.ledger import Claim, Filter
from postman.mail import Id
from postman.movable import MOVABLE, Movable, Stored, UsedKey
from postman.provider import Receipt
from postman.row import BODY_NOT_NEEDED, Policy, Row, State, Verb
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA, LedgerCheck, OpenLedger, Scene, open_scene


@asynccontextmanager
async def _open(open_ledger: OpenLedger, policy: Policy | None = None) -> AsyncGenerator[tuple[Scene, Movable]]:
    async with open_scene(open_ledger, policy) as scene:
        assert isinstance(scene.ledger, Movable)
        yield scene, scene.ledger


async def letters_are_there_until_they_are_needed_no_more(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger) as (scene, ledger):
        letter = scene.letter()
        await scene.accept(letter)
        ids = {state: await scene.bring(state) for state in State}
        found = await ledger.letters([*ids.values(), letter.id, scene.letter().id])
        assert found[letter.id] == letter
        assert found.keys() - {letter.id} == {id for state, id in ids.items() if state not in BODY_NOT_NEEDED}


async def what_is_let_go_is_as_it_was_written_and_in_nobodys_hands(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger) as (scene, ledger):
        ids = {state: await scene.bring(state) for state in State}
        written = [await scene.row(id) for id in ids.values()]
        changed = await scene.queued()
        written.append(await scene.row(changed))
        claim = await scene.claim(changed)
        gone = await ledger.let_go(written, "r1")
        assert gone == {ids[state] for state in MOVABLE}
        for row in written[:-1]:
            now = await scene.row(row.id)
            assert now == row or row.id in gone
            assert (now.state is State.CANCELLED) == (row.id in gone or row.state is State.CANCELLED)
            assert row.id not in gone or "r1" in now.history[-1].reason
        assert (await ledger.finish(claim, ACCEPTED)).state is State.SENT
        assert not (await ledger.letters(list(gone)))


async def letting_go_again_tells_the_same_and_another_removal_finds_nothing(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger) as (scene, ledger):
        written = [await scene.row(await scene.bring(state)) for state in MOVABLE]
        ids = {row.id for row in written}
        assert await ledger.let_go(written, "r1") == ids
        after = [await scene.row(id) for id in ids]
        assert await ledger.let_go(written, "r1") == ids
        assert await ledger.let_go(written, "r2") == frozenset()
        assert await ledger.let_go(after, "r2") == frozenset()
        assert [await scene.row(id) for id in ids] == after
        for id in ids:
            assert not [verb for verb in Verb if await scene.act(id, verb)]


async def a_receipt_for_a_letter_that_is_gone_is_taken_still(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger) as (scene, ledger):
        id = await scene.bring(State.IN_DOUBT)
        written = [await scene.row(id)]
        await ledger.let_go(written, "r1")
        await ledger.settle(id, Receipt("m-1"), "webhook")
        assert await scene.state(id) is State.SENT
        assert await ledger.let_go(written, "r1") == frozenset()


async def of_a_removal_and_a_claim_one_wins(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger) as (scene, ledger):
        winners: list[str] = []

        async def let_go(row: Row) -> None:
            winners.extend(await ledger.let_go([row], "r1"))

        async def claim(id: Id) -> None:
            if isinstance(await ledger.claim(id, [LAMDA]), Claim):
                winners.append(id)

        ids = [await scene.queued() for _ in range(10)]
        for id in ids:
            row = await scene.row(id)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(let_go, row)
                nursery.start_soon(claim, id)
        assert winners == ids


async def a_letter_is_taken_in_as_it_is(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger) as (scene, ledger):
        stored = []
        for state in MOVABLE:
            letter = scene.letter(tags=("a",))
            row = await scene.row(await scene.bring(state))
            stored.append(Stored(msgspec.structs.replace(row, id=letter.id, put=False), letter))
        assert await ledger.take_in(stored) == frozenset()
        for one in stored:
            assert await scene.row(one.row.id) == one.row
        ids = [one.row.id for one in stored]
        assert await ledger.letters(ids) == {one.letter.id: one.letter for one in stored}
        assert {row.id for row in await ledger.find(Filter(tag="a", client="shop"), None, 10)} == set(ids)
        assert (await ledger.statistics()).states == dict.fromkeys(MOVABLE, 2)
        overdue = await ledger.overdue(10)
        assert ids[0] in {row.id for row in overdue.unput}
        assert ids[1] in {row.id for row in overdue.doubtful}
        assert (await scene.claim(ids[0])).letter == stored[0].letter


async def a_letter_that_is_there_stays_as_it_is(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger, Policy(max_queued=2)) as (scene, ledger):
        here, fresh = await scene.bring(State.SENT), scene.letter()
        row = await scene.row(await scene.queued())
        letters = [Stored(msgspec.structs.replace(row, id=id), scene.letter(id=id)) for id in (here, fresh.id)]
        more = [Stored(msgspec.structs.replace(row, id=one.id), one) for one in (scene.letter(), scene.letter())]
        assert await ledger.take_in(letters + more) == {here}, "what was promised has room beyond max-length"
        assert await ledger.take_in(letters) == {here, fresh.id}
        assert await scene.state(here) is State.SENT
        assert (await ledger.statistics()).states == {State.SENT: 1, State.QUEUED: 4}


async def keys_are_told_page_by_page_and_taken_once(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger) as (scene, ledger):
        assert await ledger.keys("", 10) == ([], "")
        letters = [scene.letter() for _ in range(7)]
        for number, letter in enumerate(letters):
            await ledger.accept([letter], "shop" if number % 2 else "stall", f"key-{number}", b"print")
        found: dict[str, UsedKey] = {}
        cursor, pages = "", 0
        while pages == 0 or cursor:
            keys, cursor = await ledger.keys(cursor, 3)
            found |= {key.key: key for key in keys}
            pages += 1
            assert pages < 10
        assert found == {
            f"key-{n}": UsedKey("shop" if n % 2 else "stall", f"key-{n}", b"print", (letter.id,), scene.clock.wall)
            for n, letter in enumerate(letters)
        }
        ids = scene.letter().id, scene.letter().id
        await ledger.take_keys([UsedKey("shop", "new", b"other", ids, scene.clock.wall - 1), found["key-0"]])
        await ledger.take_keys([UsedKey("shop", "new", b"late", (), scene.clock.wall)])
        accepted = await ledger.accept([scene.letter()], "shop", "new", b"other")
        assert (accepted.ids, accepted.replayed) == (ids, True)


async def a_key_that_was_taken_is_forgotten_at_its_time(open_ledger: OpenLedger) -> None:
    async with _open(open_ledger, Policy(key_retention=100)) as (scene, ledger):
        await ledger.take_keys([UsedKey("shop", "key", b"", (), scene.clock.wall - 99)])
        assert await ledger.sweep(10) == 0
        scene.clock.advance(1)
        assert await ledger.sweep(10) == 1
        assert await ledger.keys("", 10) == ([], "")


CHECKS: tuple[LedgerCheck, ...] = (
    letters_are_there_until_they_are_needed_no_more,
    what_is_let_go_is_as_it_was_written_and_in_nobodys_hands,
    letting_go_again_tells_the_same_and_another_removal_finds_nothing,
    a_receipt_for_a_letter_that_is_gone_is_taken_still,
    of_a_removal_and_a_claim_one_wins,
    a_letter_is_taken_in_as_it_is,
    a_letter_that_is_there_stays_as_it_is,
    keys_are_told_page_by_page_and_taken_once,
    a_key_that_was_taken_is_forgotten_at_its_time,
)
