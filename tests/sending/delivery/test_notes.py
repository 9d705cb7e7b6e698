"""What becomes of a note follows from what became of its letter."""

from __future__ import annotations

import contextlib

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import memory_queue
from postman.breaker import State as BreakerState
from postman.errors import DamagedRow, NewerRow, ProviderUnavailable
from postman.ledger import Claim, Filter
from postman.mail import Id, OnDoubt
from postman.queue import VERSION, Note
from postman.row import Policy, State
from postman.sending.delivery import NEWER_DELAY
from postman.sending.postbox import Postbox
from tests.sending.delivery.bench import LETTER, Bench, Scripted, bench, carrier, hang_after_hand_over, trio_now


async def test_a_note_without_a_letter_is_buried(autojump_clock: MockClock) -> None:
    async with bench(a=Scripted()) as b:
        await b.queue.put([Note(Id("0x0000000000000001"))])
        await b.deliver()
        assert (await b.queue.statistics()).buried == 1


async def test_a_note_whose_letter_is_damaged_is_buried_with_the_reason_and_the_letter_stays(
    autojump_clock: MockClock,
) -> None:
    class Damaged(MemoryLedger):
        async def claim(self, id: Id, *_: object, **__: object) -> Claim:
            raise DamagedRow(f"what the ledger has of {id} is damaged")

    async with bench(a=Scripted()) as b:
        await b.post()
        b.delivery._ledger = Damaged()
        with capture_logs() as logs:
            await b.deliver()
        assert [log["reason"] for log in logs] == [f"what the ledger has of {LETTER} is damaged"]
        assert (await b.notes(), (await b.queue.statistics()).buried) == (0, 1)


async def test_a_note_of_a_newer_version_is_given_back_untouched_without_spinning_and_told_once(
    autojump_clock: MockClock,
) -> None:
    provider = Scripted()
    async with bench(a=provider) as b:
        note = Note(LETTER, version=VERSION + 1)
        await b.queue.put([note])
        began = trio.current_time()
        with capture_logs() as logs:
            for _ in range(3):
                await b.deliver()
        assert trio.current_time() >= began + 2 * NEWER_DELAY
        assert [log["log_level"] for log in logs if "newer" in log["event"]] == ["warning"]
        assert (provider.asked, (await b.queue.statistics()).buried) == (0, 0)
        await trio.sleep(NEWER_DELAY)
        assert (await b.queue.take()).note == note


async def test_a_letter_of_a_newer_postman_is_left_on_the_queue(autojump_clock: MockClock) -> None:
    class Newer(MemoryLedger):
        async def claim(self, id: Id, *_: object, **__: object) -> Claim:
            raise NewerRow(id)

    async with bench(a=Scripted()) as b:
        await b.post()
        b.delivery._ledger = Newer()
        await b.deliver()
        assert (await b.notes(), (await b.queue.statistics()).buried) == (1, 0)


async def test_a_doubled_note_is_acked_and_the_letter_sent_once(autojump_clock: MockClock) -> None:
    provider = Scripted()
    async with bench(a=provider) as b:
        await b.post()
        await b.queue.put([Note(LETTER), Note(LETTER)])
        for _ in range(3):
            await b.deliver()
        assert (provider.accepted, await b.notes()) == ([LETTER], 0)


async def test_a_letter_that_can_be_asked_of_nobody_now_stays_put_and_burns_nothing(autojump_clock: MockClock) -> None:
    provider = Scripted()
    async with bench(a=provider) as b:
        await b.post()
        with await b.postbox.wait_available(0) as turn:
            lease = await b.queue.take()
            b.carriers[0].paused = True
            with b.guard.hold() as hold:
                await b.delivery.deliver(lease, turn, hold)
        row = await b.row()
        assert (row.state, row.fence, row.attempts, row.tries, provider.asked) == (State.QUEUED, 0, 0, 0, 0)
        b.carriers[0].paused = False
        await b.deliver()
        assert provider.accepted == [LETTER]


async def test_a_breaker_that_opens_between_claim_and_call_stops_the_call_and_burns_nothing(
    autojump_clock: MockClock,
) -> None:
    provider, other = Scripted(), Scripted()

    class Opens(MemoryLedger):
        async def claim(self, *args: object, **named: object) -> object:  # type: ignore[override]  # only watched
            claim = await super().claim(*args, **named)  # type: ignore[arg-type]  # passed on
            while b.carriers[0].breaker.state is not BreakerState.OPEN:
                with contextlib.suppress(ProviderUnavailable), b.carriers[0].breaker.attempt():
                    raise ProviderUnavailable("down")
            return claim

    async with memory_queue(60.0) as queue:
        b = Bench(queue, Opens(None, trio_now), {"a": provider})
        b.postbox = Postbox([*b.carriers, carrier("other", other, weight=0)], 1)
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.attempts, provider.asked, other.accepted) == (State.SENT, 1, 0, [LETTER])


async def test_policy_resend_is_stored_with_the_letter(autojump_clock: MockClock) -> None:
    async with bench(Policy(on_doubt=OnDoubt.RESEND), a=Scripted(hang_after_hand_over)) as b:
        await b.post()
        await b.deliver()
        rows = await b.ledger.find(Filter(state=State.IN_DOUBT), None, 10)
        assert [row.on_doubt for row in rows] == [OnDoubt.RESEND]
