"""The clerk's round: what nobody else sees to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import MemoryQueue, memory_queue
from postman.clerk import LIMIT, PERIOD, Clerk
from postman.errors import StoreUnavailable
from postman.ledger import Call, Claim, Overdue
from postman.mail import Address, Content, Id, Letter, Mail, OnDoubt
from postman.provider import Receipt
from postman.queue import MAX_DELAY, Note, QueueStatistics
from postman.row import End, EndKind, Now, Policy, Row, State, Verb

CALL = Call("lamda", "lamda's", lease=30)


class Desk:
    """A ledger, a queue, a clerk; and the world around them as a test wants it."""

    def __init__(self, queue: MemoryQueue, ledger: MemoryLedger) -> None:
        self.queue = queue
        self.ledger = ledger
        self.accounts = frozenset({"lamda's"})
        self.open = True
        self.clerk = Clerk(
            ledger,
            queue,
            accounts=lambda: self.accounts,
            delivering=lambda: self.open,
            wall=trio.current_time,
        )
        self._last = 0

    async def accept(self, **more: object) -> Id:
        self._last += 1
        id = Id(f"0x{self._last:016x}")
        mail = Mail(
            to=(Address(email="ann@example.com"),),
            from_=Address(email="shop@example.org"),
            subject="",
            content=(Content(type="text/plain", value="x"),),
            **more,  # type: ignore[arg-type]  # fields of Mail
        )
        await self.ledger.accept([Letter(id=id, mail=mail, accepted=datetime.now(UTC))], "shop", None, b"")
        return id

    async def begin_call(self, id: Id) -> Claim:
        claim = await self.ledger.claim(id, [CALL])
        assert isinstance(claim, Claim)
        return claim

    async def row(self, id: Id) -> Row:
        row = await self.ledger.read(id, None)
        assert row is not None
        return row

    async def ready(self) -> int:
        return sum((await self.queue.statistics()).ready)


@asynccontextmanager
async def desk(policy: Policy | None = None, ledger: type[MemoryLedger] = MemoryLedger) -> AsyncGenerator[Desk]:
    async with memory_queue(60.0) as queue:
        yield Desk(queue, ledger(policy, lambda: Now(trio.current_time(), trio.current_time())))


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(trio.current_time() + seconds, UTC)


async def test_a_call_whose_lease_is_over_becomes_doubt_and_is_held(autojump_clock: MockClock) -> None:
    async with desk() as d:
        id = await d.accept()
        await d.begin_call(id)
        await d.clerk.round()
        assert (await d.row(id)).state is State.SENDING
        await trio.sleep(31)
        await d.clerk.round()
        assert (await d.row(id)).state is State.IN_DOUBT
        await d.clerk.round()
        row = await d.row(id)
        assert (row.state, row.crashes) == (State.HELD, 1)
        assert await d.ready() == 0


async def test_a_letter_in_doubt_is_sent_again_by_policy_after_its_time(autojump_clock: MockClock) -> None:
    async with desk() as d:
        id = await d.accept(on_doubt=OnDoubt.RESEND)
        claim = await d.begin_call(id)
        await d.ledger.finish(claim, End(EndKind.UNKNOWN, "no answer"))
        await trio.sleep(59)
        await d.clerk.round()
        assert (await d.row(id)).state is State.IN_DOUBT
        await trio.sleep(2)
        await d.clerk.round()
        row = await d.row(id)
        assert (row.state, row.put, await d.ready()) == (State.QUEUED, True, 1)
        assert row.history[-1].reason == "sent again by policy; may be a second copy"


async def test_a_note_that_was_used_up_before_the_clerk_wrote_it_down_does_not_count_for_a_later_time(
    autojump_clock: MockClock,
) -> None:
    """Between put and written down a worker may have taken the note, and acked it because the provider rests long."""

    class Hasty(MemoryLedger):
        async def act(self, ids: Sequence[Id], verb: Verb, who: str) -> Mapping[Id, tuple[Row, bool]]:
            if verb is Verb.PUT:
                await d.queue.ack(await d.queue.take())
                await self.finish(await d.begin_call(id), End(EndKind.UNAVAILABLE, "429", retry_after=3_600.0))
            return await super().act(ids, verb, who)

    async with desk(ledger=Hasty) as d:
        id = await d.accept(on_doubt=OnDoubt.RESEND)
        await d.ledger.finish(await d.begin_call(id), End(EndKind.UNKNOWN, "no answer"))
        await trio.sleep(61)
        await d.clerk.round()
        row = await d.row(id)
        assert (row.state, row.put) == (State.QUEUED, False)
        await trio.sleep(3_600 - MAX_DELAY)
        assert [row.id for row in (await d.ledger.overdue(LIMIT)).unput] == [id]


async def test_doubt_about_another_s_account_is_left_alone_until_patience_is_over(autojump_clock: MockClock) -> None:
    async with desk() as d:
        d.accounts = frozenset({"delta's"})
        id = await d.accept()
        claim = await d.begin_call(id)
        await d.ledger.finish(claim, End(EndKind.UNKNOWN, "no answer"))
        await trio.sleep(3_599)
        await d.clerk.round()
        assert (await d.row(id)).state is State.IN_DOUBT
        await trio.sleep(2)
        await d.clerk.round()
        assert (await d.row(id)).state is State.HELD


async def test_a_queued_letter_past_its_time_expires_and_one_too_old_is_given_up(autojump_clock: MockClock) -> None:
    async with desk(Policy(give_up_after=1_000)) as d:
        expiring = await d.accept(expires_at=at(100))
        old = await d.accept()
        await trio.sleep(101)
        await d.clerk.round()
        assert [(await d.row(id)).state for id in (expiring, old)] == [State.EXPIRED, State.QUEUED]
        await trio.sleep(900)
        await d.clerk.round()
        assert (await d.row(old)).state is State.FAILED


async def test_a_letter_due_beyond_the_longest_delay_gets_its_note_when_the_time_comes(
    autojump_clock: MockClock,
) -> None:
    async with desk() as d:
        id = await d.accept(send_at=at(2_000))
        await d.clerk.round()
        assert await d.queue.statistics() == QueueStatistics((0, 0, 0), 0, 0, 0)
        await trio.sleep(1_200)
        await d.clerk.round()
        await d.clerk.round()
        assert await d.queue.statistics() == QueueStatistics((0, 0, 0), 1, 0, 0)
        assert (await d.row(id)).put
        with trio.fail_after(801):
            await d.queue.take()
        assert trio.current_time() - (await d.row(id)).accepted == pytest.approx(2_000)


async def test_lost_notes_are_put_again_after_two_looks_at_an_empty_queue(autojump_clock: MockClock) -> None:
    async with desk() as d:
        for _ in range(3):
            await d.accept()
        await d.clerk.round()
        await trio.sleep(61)
        await d.clerk.round()
        assert await d.ready() == 0
        await d.clerk.round()
        assert await d.ready() == 3


async def test_a_backlog_explains_waiting_and_is_left_alone(autojump_clock: MockClock) -> None:
    async with desk() as d:
        for _ in range(3):
            await d.queue.put([Note(await d.accept())])
        await trio.sleep(600)
        for _ in range(5):
            await d.clerk.round()
        assert await d.ready() == 3


async def test_while_nothing_can_leave_waiting_is_no_sign_of_a_lost_note(autojump_clock: MockClock) -> None:
    async with desk() as d:
        d.open = False
        await d.accept()
        await trio.sleep(7_200)
        for _ in range(5):
            await d.clerk.round()
        assert await d.ready() == 0
        d.open = True
        await d.clerk.round()
        assert await d.ready() == 1


async def test_ended_rows_past_retention_are_deleted_and_held_ones_never(autojump_clock: MockClock) -> None:
    async with desk(Policy(retention=100, give_up_after=1e9)) as d:
        sent, held, queued = [await d.accept() for _ in range(3)]
        await d.ledger.finish(await d.begin_call(sent), End(EndKind.ACCEPTED))
        await d.ledger.finish(await d.begin_call(held), End(EndKind.UNKNOWN))
        await d.clerk.round()
        await trio.sleep(1_000)
        await d.clerk.round()
        assert await d.ledger.read(sent, None) is None
        assert [(await d.row(id)).state for id in (held, queued)] == [State.HELD, State.QUEUED]


async def test_a_store_that_fails_costs_a_round_and_not_the_clerk(autojump_clock: MockClock) -> None:
    rounds = 0

    class Flaky(MemoryLedger):
        async def overdue(self, limit: int) -> Overdue:
            nonlocal rounds
            rounds += 1
            if rounds == 1:
                raise StoreUnavailable("no answer")
            if rounds == 2:
                raise RuntimeError("a bug")
            return await super().overdue(limit)

    async with memory_queue(60.0) as queue:
        d = Desk(queue, Flaky(None, lambda: Now(trio.current_time(), trio.current_time())))
        with trio.move_on_after(PERIOD * 4):
            await d.clerk.run()
    assert rounds >= 3


async def test_more_than_a_round_may_do_is_done_round_after_round_without_a_pause(autojump_clock: MockClock) -> None:
    async with desk(Policy(retention=10)) as d, trio.open_nursery() as nursery:
        for _ in range(3 * LIMIT + 1):
            claim = await d.begin_call(await d.accept())
            await d.ledger.finish(claim, End(EndKind.REJECTED, "no such mailbox"))
        await trio.sleep(11)
        nursery.start_soon(d.clerk.run)
        await trio.sleep(PERIOD / 2)
        assert (await d.ledger.statistics()).states == {}
        nursery.cancel_scope.cancel()


async def test_many_lost_notes_are_put_again_as_fast_as_letters_leave(autojump_clock: MockClock) -> None:
    async def deliver() -> None:
        while True:
            lease = await d.queue.take()
            assert lease.note is not None
            claim = await d.ledger.claim(lease.note.id, [CALL])
            if isinstance(claim, Claim):
                await d.ledger.finish(claim, End(EndKind.ACCEPTED, receipt=Receipt()))
            await d.queue.ack(lease)

    async with desk() as d, trio.open_nursery() as nursery:
        for _ in range(4 * LIMIT):
            await d.accept()
        nursery.start_soon(deliver)
        nursery.start_soon(d.clerk.run)
        await trio.sleep(61 + 4 * PERIOD)
        assert set((await d.ledger.statistics()).states) == {State.SENT}
        nursery.cancel_scope.cancel()


async def test_single_rounds_of_several_clerks_find_lost_notes_when_each_hands_on_what_it_saw(
    autojump_clock: MockClock,
) -> None:
    async with desk() as d:
        await d.accept()
        await trio.sleep(61)
        looks = 0
        for _ in range(2):
            assert await d.ready() == 0
            clerk = Clerk(d.ledger, d.queue, accounts=frozenset, delivering=lambda: True, wall=trio.current_time)
            clerk.thin_looks = looks
            await clerk.round()
            looks = clerk.thin_looks
        assert await d.ready() == 1
