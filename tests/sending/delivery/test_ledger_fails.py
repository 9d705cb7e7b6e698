"""The ledger does not answer, or its answer is lost."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import memory_queue
from postman.errors import ProviderUnavailable, StoreFull, StoreUnavailable
from postman.ledger import Claim
from postman.row import End, Row, State
from postman.sending.postbox import Postbox
from tests.sending.delivery.bench import LETTER, Bench, Scripted, carrier, fail, trio_now


class Flaky(MemoryLedger):
    """Does not answer so many times."""

    failures = 0

    async def finish(self, claim: Claim, end: End) -> Row:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("no answer")
        return await super().finish(claim, end)


async def test_an_end_is_written_once_the_ledger_answers_again(autojump_clock: MockClock) -> None:
    provider = Scripted()
    async with memory_queue(60.0) as queue:
        ledger = Flaky(None, trio_now)
        ledger.failures = 10
        b = Bench(queue, ledger, {"a": provider})
        await b.post()
        await b.deliver()
        assert ((await b.row()).state, provider.asked) == (State.SENT, 1)


async def test_without_a_ledger_nothing_is_sent_and_the_note_is_left(autojump_clock: MockClock) -> None:
    class Down(MemoryLedger):
        async def claim(self, *_: object, **named: object) -> object:  # type: ignore[override]  # never answers
            raise StoreUnavailable("no answer")

    provider = Scripted()
    async with memory_queue(60.0) as queue:
        b = Bench(queue, Down(None, trio_now), {"a": provider})
        await b.post()
        with pytest.raises(StoreUnavailable):
            await b.deliver()
        assert (provider.asked, await b.notes()) == (0, 1)


class Forgetful(MemoryLedger):
    """Does what it is asked, but the answer to every other claim is lost."""

    claims = 0

    async def claim(self, *args: object, **named: object) -> object:  # type: ignore[override]  # only watched
        answer = await super().claim(*args, **named)  # type: ignore[arg-type]  # passed on
        self.claims += 1
        if self.claims % 2:
            raise StoreUnavailable("no answer", may_have_happened=True)
        return answer


async def test_a_claim_whose_answer_was_lost_is_no_doubt(autojump_clock: MockClock) -> None:
    down, other = Scripted(fail(ProviderUnavailable("down"), handed_over=False)), Scripted()
    async with memory_queue(60.0) as queue:
        b = Bench(queue, Forgetful(None, trio_now), {"down": down})
        b.postbox = Postbox([*b.carriers, carrier("other", other, weight=0)], 1)
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.fence, down.asked, other.accepted) == (State.SENT, 2, 1, [LETTER])


async def test_an_end_is_written_when_the_disk_has_room_again(autojump_clock: MockClock) -> None:
    class Full(MemoryLedger):
        failures = 3

        async def finish(self, claim: Claim, end: End) -> Row:
            if self.failures:
                self.failures -= 1
                raise StoreFull("the disk is full")
            return await super().finish(claim, end)

    async with memory_queue(60.0) as queue:
        b = Bench(queue, Full(None, trio_now), {"a": Scripted()})
        await b.post()
        await b.deliver()
        assert (await b.row()).state is State.SENT
