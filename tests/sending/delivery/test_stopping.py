"""The house stops while letters are delivered."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from postman.errors import ProviderUnavailable
from postman.provider import Attempt, Receipt
from postman.row import State
from postman.sending.postbox import Postbox
from tests.sending.delivery.bench import Deed, Scripted, bench, carrier, hang, hang_after_hand_over


@pytest.mark.parametrize(("deed", "state"), [(hang, State.QUEUED), (hang_after_hand_over, State.IN_DOUBT)])
async def test_a_call_cut_by_a_drain_writes_its_end(autojump_clock: MockClock, deed: Deed, state: State) -> None:
    async with bench(a=Scripted(deed)) as b:
        await b.post()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.deliver)
            await trio.sleep(1)
            b.guard.drain(2)
            nursery.cancel_scope.cancel()
        row = await b.row()
        assert row.state is state
        assert trio.current_time() - row.accepted == pytest.approx(3)
        statistics = b.carriers[0].breaker.statistics()
        assert (statistics.faults_in_a_row, row.attempts) == (0, 0 if state is State.QUEUED else 1)


async def test_no_other_provider_is_claimed_while_draining(autojump_clock: MockClock) -> None:
    async def fail_later(_: Attempt) -> Receipt:
        await trio.sleep(5)
        raise ProviderUnavailable("down")

    other = Scripted()
    async with bench(a=Scripted(fail_later)) as b:
        b.postbox = Postbox([*b.carriers, carrier("other", other, weight=0)], 1)
        await b.post()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.deliver)
            await trio.sleep(1)
            b.guard.drain(30)
        assert ((await b.row()).state, other.asked) == (State.QUEUED, 0)


async def test_nothing_is_claimed_for_a_note_that_was_taken_before_a_drain(autojump_clock: MockClock) -> None:
    async with bench(lamda=Scripted()) as b:
        await b.post()
        b.guard.drain(30)
        await b.deliver()
        assert ((await b.row()).state, (await b.row()).fence) == (State.QUEUED, 0)
        assert await b.notes() == 1
