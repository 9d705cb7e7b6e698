"""The wall clock jumps: leases, breakers and back-off do not notice."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import memory_queue
from postman.breaker import Breaker
from postman.clerk import Clerk
from postman.errors import ProviderUnavailable
from postman.guard import Guard
from postman.mail import Letter
from postman.provider import Attempt, Receipt
from postman.queue import Note
from postman.row import Now, Policy, State
from postman.sending.carrier import Carrier, Terms, blame
from postman.sending.delivery import Delivery
from postman.sending.postbox import Postbox
from postman.sending.room import Room
from postman.sending.worker import work
from postman.testing.letters import a_letter

HOUR, DAY = 3_600.0, 86_400.0
JUMPS = [-DAY, -HOUR, -1.0, 1.0, HOUR, DAY]


class Provider:
    """Refuses six calls, which opens its breaker; then takes what it is given, after 20 s."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        attempt.starting()
        self.calls.append(trio.current_time())
        if len(self.calls) <= 6:
            raise ProviderUnavailable("503")
        await trio.sleep(20)
        attempt.handed_over()
        return Receipt()


class Watch:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.ahead = 1_800_000_000.0

    def wall(self) -> float:
        return trio.current_time() + self.ahead

    def now(self) -> Now:
        return Now(self.wall(), trio.current_time())


async def calls(jump: float, at: float, *, clerk: bool) -> list[float]:
    """When a letter's calls began, and when it was sent; the wall clock jumps at `at`."""
    began, watch, provider, letter = trio.current_time(), Watch(), Provider(), a_letter()
    clock = trio.current_time
    carrier = Carrier(
        provider, Terms(name="a", account="", marks=True), Breaker(is_fault=blame, clock=clock), clock=clock
    )
    ledger = MemoryLedger(Policy(), watch.now)
    postbox = Postbox([carrier], 1)
    async with memory_queue(60) as queue, trio.open_nursery() as nursery:
        delivery = Delivery(ledger, queue, Guard(), steady=clock, wall=watch.wall)
        nursery.start_soon(work, 0, postbox, queue, delivery, Guard(), Room(1_000_000))
        if clerk:
            accounts = frozenset({""})
            run = Clerk(ledger, queue, accounts=lambda: accounts, delivering=lambda: True, wall=watch.wall).run
            nursery.start_soon(run)
        await ledger.accept([letter], "shop", None, b"")
        await queue.put([Note(letter.id)])
        await trio.sleep(at)
        watch.ahead += jump
        with trio.fail_after(HOUR):
            while (row := await ledger.read(letter.id, None)) and row.state is not State.SENT:  # noqa: ASYNC110  # a poll
                await trio.sleep(0.25)
        nursery.cancel_scope.cancel()
    assert row is not None
    assert (row.crashes, row.attempts) == (0, 1), "no lease ended early"
    return [time - began for time in (*provider.calls, clock())]


@pytest.mark.parametrize("jump", JUMPS)
async def test_calls_begin_when_they_would_have_begun_without_the_jump(jump: float, autojump_clock: MockClock) -> None:
    undisturbed = await calls(0, 0, clerk=False)
    moments = [0.1, *(round((a + b) / 2, 2) for a, b in pairwise(undisturbed))]
    for moment in moments:
        assert await calls(jump, moment, clerk=False) == pytest.approx(undisturbed, abs=2.5)


@pytest.mark.parametrize("jump", JUMPS)
async def test_no_jump_lets_the_clerk_take_a_call_for_dead(jump: float, autojump_clock: MockClock) -> None:
    undisturbed = await calls(0, 0, clerk=True)
    disturbed = await calls(jump, undisturbed[-1] - 10, clerk=True)
    assert disturbed == pytest.approx(undisturbed, abs=2.5)
