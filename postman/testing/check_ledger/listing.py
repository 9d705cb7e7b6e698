"""Checks of the clerk's lists, of finding, sweeping and pausing."""

from __future__ import annotations

import msgspec

from postman.ledger import HEARD, Filter, Instance, Overdue
from postman.mail import Address, Id, OnDoubt
from postman.queue import MAX_DELAY
from postman.row import Policy, State, Verb
from postman.testing.check_ledger.scene import (
    ACCEPTED,
    LAMDA,
    UNAVAILABLE,
    UNKNOWN,
    LedgerCheck,
    OpenLedger,
    open_scene,
)


async def nothing_is_overdue_at_first(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        for state in State:
            if state is not State.IN_DOUBT:  # its time has come at once, with hold
                await scene.bring(state)
        assert await scene.ledger.overdue(10) == Overdue()


async def the_clerk_finds_each_letter_on_its_list(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(on_doubt=OnDoubt.RESEND, resend_after=60)) as scene:
        lapsed = await scene.bring(State.SENDING)
        doubtful = (await scene.end(await scene.queued(), UNKNOWN)).id
        expiring = await scene.queued(expires_at=scene.time(60))
        unput = await scene.queued(send_at=scene.time(MAX_DELAY + 60))
        waiting = await scene.queued()
        await scene.queued(send_at=scene.time(2 * MAX_DELAY))
        await scene.queued(send_at=scene.time(60))
        scene.clock.advance(59.9)
        assert _ids(await scene.ledger.overdue(10)) == {"lapsed": [lapsed]}
        scene.clock.advance(0.2)
        found = _ids(await scene.ledger.overdue(10))
        assert found["waiting"].count(waiting) == 1
        found["waiting"].remove(expiring)
        assert found == {
            "lapsed": [lapsed],
            "doubtful": [doubtful],
            "aged": [expiring],
            "unput": [unput],
            "waiting": [waiting],
        }


async def a_letter_too_old_is_on_the_list_and_fails(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(give_up_after=100)) as scene:
        id = (await scene.end(await scene.queued(), UNAVAILABLE)).id
        scene.clock.advance(100)
        assert [row.id for row in (await scene.ledger.overdue(10)).aged] == [id]
        assert await scene.act(id, Verb.AGE)
        assert "503" in (await scene.row(id)).history[-1].reason
        assert (await scene.ledger.overdue(10)).aged == ()


async def a_longer_patience_takes_letters_off_the_list(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(give_up_after=100)) as scene:
        id = await scene.queued()
        scene.change(give_up_after=200.0)
        scene.clock.advance(100)
        await scene.ledger.act([row.id for row in (await scene.ledger.overdue(10)).aged], Verb.AGE, "clerk")
        assert await scene.state(id) is State.QUEUED
        assert (await scene.ledger.overdue(10)).aged == ()


async def leases_end_by_the_steady_clock_alone(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.bring(State.SENDING)
        scene.clock.wall += 86_400
        assert (await scene.ledger.overdue(10)).lapsed == ()
        scene.clock.wall -= 2 * 86_400
        scene.clock.steady += LAMDA.lease
        assert [row.id for row in (await scene.ledger.overdue(10)).lapsed] == [id]


async def lists_are_bounded_and_show_the_oldest_first(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        ids = []
        for _ in range(5):
            ids.append(await scene.queued())
            scene.clock.advance(1)
        scene.clock.advance(60)
        assert [row.id for row in (await scene.ledger.overdue(3)).waiting] == ids[:3]


async def ended_letters_are_swept_after_their_retention_and_others_never(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(retention=1_000, key_retention=1_000)) as scene:
        ids = {state: await scene.bring(state) for state in State}
        scene.clock.advance(999)
        assert await scene.ledger.sweep(100) == 0
        scene.clock.advance(1)
        assert await scene.ledger.sweep(100) == sum(state.ended for state in State)
        for state, id in ids.items():
            assert (await scene.ledger.read(id, None) is None) is state.ended
        assert all(not state.ended for state in (await scene.ledger.statistics()).states)
        assert await scene.ledger.sweep(100) == 0


async def retention_counts_from_the_end(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(retention=1_000)) as scene:
        claim = await scene.claim(await scene.queued())
        scene.clock.advance(900)
        await scene.ledger.finish(claim, ACCEPTED)
        scene.clock.advance(900)
        assert await scene.ledger.sweep(100) == 0


async def a_sweep_takes_no_more_than_its_limit_and_frees_ids_labels_and_keys(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(retention=10, key_retention=10)) as scene:
        letters = [scene.letter(tags=("a",)) for _ in range(3)]
        for number, letter in enumerate(letters):
            await scene.ledger.accept([letter], "shop", f"key-{number}", b"body")
            await scene.end(letter.id, ACCEPTED)
        scene.clock.advance(10)
        assert [await scene.ledger.sweep(4), await scene.ledger.sweep(4), await scene.ledger.sweep(4)] == [4, 2, 0]
        assert await scene.ledger.find(Filter(tag="a"), None, 10) == await scene.ledger.find(Filter(), None, 10)
        assert not (await scene.ledger.accept([letters[0]], "shop", "key-0", b"another")).replayed


async def a_letter_is_found_by_every_filter_and_by_all_at_once(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        await scene.accept(scene.letter(), client="blog")
        scene.clock.advance(10)
        letter = scene.letter(to="Bob@example.com", cc=(Address(email="carl@example.com"),), tags=("news", "may"))
        await scene.accept(letter)
        await scene.end(letter.id, ACCEPTED)
        filters = (
            Filter(client="shop"),
            Filter(state=State.SENT),
            Filter(since=scene.clock.wall),
            Filter(recipient="bob@Example.com"),
            Filter(recipient="carl@example.com"),
            Filter(tag="may"),
            Filter(client="shop", state=State.SENT, since=scene.clock.wall, recipient="bob@example.com", tag="news"),
        )
        for filter in filters:
            assert [row.id for row in await scene.ledger.find(filter, None, 10)] == [letter.id], filter
        others = (
            Filter(client="nobody"),
            Filter(state=State.HELD),
            Filter(since=scene.clock.wall + 1),
            Filter(recipient="may"),
            Filter(tag="bob@example.com"),
            Filter(tag="news", recipient="ann@example.com"),
            Filter(client="blog", state=State.SENT),
        )
        for filter in others:
            assert list(await scene.ledger.find(filter, None, 10)) == [], filter


async def what_is_found_comes_newest_first_in_pages(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        ids = await scene.accept(*(scene.letter(tags=("all",)) for _ in range(7)))
        for filter in (Filter(), Filter(tag="all"), Filter(state=State.QUEUED), Filter(client="shop")):
            found, after = list[Id](), None
            while page := await scene.ledger.find(filter, after, 3):
                assert len(page) <= 3
                found += [row.id for row in page]
                after = found[-1]
            assert found == ids[::-1]


async def another_clients_letter_is_not_there(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.queued()
        assert await scene.ledger.read(id, "blog") is None
        assert await scene.ledger.read(id, "shop") == await scene.ledger.read(id, None) != None  # noqa: E711  # a chain


async def pauses_are_remembered_until_they_end(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        assert list(await scene.ledger.pauses()) == []
        await scene.ledger.pause("lamda", "olga")
        await scene.ledger.pause("*", "otto")
        await scene.ledger.pause("lamda", "oscar")
        assert {pause.provider: pause.who for pause in await scene.ledger.pauses()} == {"lamda": "oscar", "*": "otto"}
        await scene.ledger.pause("*", None)
        await scene.ledger.pause("nobody", None)
        assert [pause.provider for pause in await scene.ledger.pauses()] == ["lamda"]


def _ids(overdue: Overdue) -> dict[str, list[Id]]:
    lists = {name: [row.id for row in getattr(overdue, name)] for name in overdue.__struct_fields__}
    return {name: ids for name, ids in lists.items() if ids}


async def instances_that_were_heard_of_lately_are_listed_as_they_were_last(open_ledger: OpenLedger) -> None:
    first, second = Instance(id="1", name="web-1", pid=17, workers=64), Instance(id="2", name="web-2", pid=18)
    async with open_scene(open_ledger) as scene:
        began = scene.clock.wall
        assert list(await scene.ledger.enrol(first)) == [msgspec.structs.replace(first, at=began)]
        scene.clock.advance(HEARD)
        busy = msgspec.structs.replace(first, delivered=5, at=began + HEARD)
        assert list(await scene.ledger.enrol(busy)) == [busy]
        if scene.ledger.shared:
            scene.clock.advance(HEARD)
            there = msgspec.structs.replace(second, at=scene.clock.wall)
            assert list(await scene.ledger.enrol(second)) == [busy, there]
            scene.clock.advance(1)
            assert [found.id for found in await scene.ledger.enrol(second)] == ["2"]
            assert len(await scene.ledger.enrol(first)) == 2
            assert [found.id for found in await scene.ledger.enrol(msgspec.structs.replace(first, left=True))] == ["2"]
            assert [found.id for found in await scene.ledger.enrol(second)] == ["2"]


CHECKS: tuple[LedgerCheck, ...] = (
    instances_that_were_heard_of_lately_are_listed_as_they_were_last,
    nothing_is_overdue_at_first,
    the_clerk_finds_each_letter_on_its_list,
    a_letter_too_old_is_on_the_list_and_fails,
    a_longer_patience_takes_letters_off_the_list,
    leases_end_by_the_steady_clock_alone,
    lists_are_bounded_and_show_the_oldest_first,
    ended_letters_are_swept_after_their_retention_and_others_never,
    retention_counts_from_the_end,
    a_sweep_takes_no_more_than_its_limit_and_frees_ids_labels_and_keys,
    a_letter_is_found_by_every_filter_and_by_all_at_once,
    what_is_found_comes_newest_first_in_pages,
    another_clients_letter_is_not_there,
    pauses_are_remembered_until_they_end,
)
