"""The delivery of one letter, over the ledger and queue in memory and providers that do what a test says."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import MemoryQueue, memory_queue
from postman.breaker import Breaker
from postman.breaker import State as BreakerState
from postman.carrier import Carrier, Terms, blame
from postman.delivery import NEWER_DELAY, Called, Delivery
from postman.errors import (
    MailRefused,
    MailRejected,
    NewerRow,
    OutcomeUnknown,
    ProviderMisconfigured,
    ProviderUnavailable,
    StoreFull,
    StoreUnavailable,
)
from postman.guard import Guard
from postman.ledger import Claim, Filter
from postman.mail import Address, Content, Id, Letter, Mail, OnDoubt
from postman.postbox import Postbox
from postman.provider import Attempt, Receipt, Refusal
from postman.queue import VERSION, Note
from postman.row import End, Now, Policy, Row, State

LETTER = Id("0x587e6d1522401000")

type Deed = Callable[[Attempt], Awaitable[object]]


def mail(**more: object) -> Mail:
    return Mail(
        to=(Address(email="ann@example.com"),),
        from_=Address(email="shop@example.org"),
        subject="",
        content=(Content(type="text/plain", value="x"),),
        **more,  # type: ignore[arg-type]  # fields of Mail
    )


class Scripted:
    """A provider that does one deed after the other, and remembers what it accepted."""

    def __init__(self, *deeds: Deed) -> None:
        self.deeds = list(deeds)
        self.asked = 0
        self.accepted: list[Id] = []

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        self.asked += 1
        deed = self.deeds.pop(0) if self.deeds else accept
        receipt = await deed(attempt)
        self.accepted.append(letter.id)
        return receipt  # type: ignore[return-value]  # a deed may break the contract


async def accept(attempt: Attempt) -> Receipt:
    attempt.starting()
    attempt.handed_over()
    return Receipt("id-1")


def fail(error: BaseException, *, handed_over: bool = True) -> Deed:
    async def deed(attempt: Attempt) -> Receipt:
        attempt.starting()
        if handed_over:
            attempt.handed_over()
        raise error

    return deed


async def hang(attempt: Attempt) -> Receipt:
    attempt.starting()
    await trio.sleep_forever()
    raise AssertionError


async def hang_after_hand_over(attempt: Attempt) -> Receipt:
    attempt.starting()
    attempt.handed_over()
    await trio.sleep_forever()
    raise AssertionError


async def return_nothing(attempt: Attempt) -> None:
    attempt.starting()
    attempt.handed_over()


class Bench:
    """A ledger, a queue, a postbox of scripted providers and one worker's hands."""

    def __init__(
        self, queue: MemoryQueue, ledger: MemoryLedger, providers: dict[str, Scripted], **terms: object
    ) -> None:
        self.ledger = ledger
        self.queue = queue
        self.providers = providers
        self.carriers = [carrier(name, provider, **terms) for name, provider in providers.items()]
        self.postbox = Postbox(self.carriers, 1, chance=random.Random(1))
        self.guard = Guard()
        self.calls: list[Called] = []
        self.delivery = Delivery(
            ledger, queue, self.guard, steady=trio.current_time, wall=trio.current_time, on_call=self.calls.append
        )

    async def post(self, posted: Mail | None = None, id: Id = LETTER) -> None:
        letter = Letter(id=id, mail=posted or mail(), accepted=datetime.now(UTC))
        await self.ledger.accept([letter], "shop", None, b"")
        await self.queue.put([Note(id)])

    async def deliver(self) -> None:
        with await self.postbox.wait_available(0) as turn:
            lease = await self.queue.take()
            with self.guard.hold() as hold:
                await self.delivery.deliver(lease, turn, hold)

    async def row(self, id: Id = LETTER) -> Row:
        row = await self.ledger.read(id, None)
        assert row is not None
        return row

    async def notes(self) -> int:
        statistics = await self.queue.statistics()
        return sum(statistics.ready) + statistics.delayed + statistics.leased


def carrier(name: str, provider: Scripted, **terms: object) -> Carrier:
    breaker = Breaker(is_fault=blame, probe_delay=lambda _: 30.0, faults_in_a_row=5, clock=trio.current_time)
    more = {"marks": True, **terms}
    return Carrier(provider, Terms(name=name, account=f"{name}'s", **more), breaker, clock=trio.current_time)  # type: ignore[arg-type]  # fields of Terms


def trio_now() -> Now:
    return Now(trio.current_time(), trio.current_time())


@asynccontextmanager
async def bench(policy: Policy | None = None, /, **providers: Scripted) -> AsyncGenerator[Bench]:
    async with memory_queue(60.0) as queue:
        yield Bench(queue, MemoryLedger(policy, trio_now), providers)


# the ancestor's bug


async def test_when_all_providers_fail_a_mail_is_neither_recorded_as_sent_nor_deleted(
    autojump_clock: MockClock,
) -> None:
    down = ProviderUnavailable("connection refused")
    async with bench(lamda=Scripted(fail(down)), delta=Scripted(fail(down))) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.attempts, row.fence) == (State.QUEUED, 0, 2)
        assert await b.notes() == 1
        await b.deliver()
        assert (await b.row()).state is State.SENT
        assert [p.accepted for p in b.providers.values()] in ([[LETTER], []], [[], [LETTER]])


# one provider after the other


async def test_the_ancestor_s_four_mails_go_exactly_so(autojump_clock: MockClock) -> None:
    down = ProviderUnavailable("fails every second call")
    lamda = Scripted(accept, fail(down), accept, fail(down))
    delta = Scripted(accept, fail(down), accept)
    async with memory_queue(60.0) as queue:
        b = Bench(queue, MemoryLedger(None, trio_now), {})
        b.postbox = Postbox([carrier("lamda", lamda), carrier("delta", delta, weight=0)], 1, chance=random.Random(1))
        for number in range(4):
            await b.post(id=Id(f"0x{number:016x}"))
            await b.deliver()
    assert [(call.provider, call.end.kind.value, int(call.id, 16) + 1) for call in b.calls] == [
        ("lamda", "accepted", 1),
        ("lamda", "unavailable", 2),
        ("delta", "accepted", 2),
        ("delta", "unavailable", 3),
        ("lamda", "accepted", 3),
        ("lamda", "unavailable", 4),
        ("delta", "accepted", 4),
    ]


@pytest.mark.parametrize(
    ("error", "state", "asks_another", "attempts"),
    [
        (ProviderUnavailable("503"), State.SENT, True, 1),
        (ProviderUnavailable("429", retry_after=60, throttled=True), State.SENT, True, 1),
        (ProviderMisconfigured("401"), State.SENT, True, 1),
        (MailRefused("sender not verified here"), State.SENT, True, 2),
        (MailRejected("malformed address"), State.REJECTED, False, 1),
        (MailRejected("unsubscribed", suppressed=True), State.REJECTED, False, 1),
        (OutcomeUnknown("504"), State.IN_DOUBT, False, 1),
    ],
)
async def test_each_outcome_leads_where_the_table_says(
    autojump_clock: MockClock, error: Exception, state: State, asks_another: bool, attempts: int
) -> None:
    first, second = Scripted(fail(error)), Scripted()
    async with bench(first=first) as b:
        b.postbox = Postbox([*b.carriers, carrier("second", second, weight=0)], 1)
        await b.post()
        await b.deliver()
        row = await b.row()
    assert (row.state, row.attempts, second.asked > 0) == (state, attempts, asks_another)
    assert any(str(error) in entry.reason for entry in row.history)


async def test_a_letter_that_everybody_refuses_is_rejected_with_each_one_s_reason(autojump_clock: MockClock) -> None:
    async with bench(
        a=Scripted(fail(MailRefused("sender not verified"))), b=Scripted(fail(MailRefused("too large")))
    ) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert row.state is State.REJECTED
        assert "a: sender not verified" in row.history[-1].reason
        assert "b: too large" in row.history[-1].reason
        assert await b.notes() == 0


@pytest.mark.parametrize(
    ("posted", "end"),
    [(mail(), State.REJECTED), (mail(expires_at=datetime.fromtimestamp(10, UTC)), State.EXPIRED)],
)
async def test_an_end_that_is_made_by_a_claim_is_logged_once(
    autojump_clock: MockClock, posted: Mail, end: State
) -> None:
    async with bench(lamda=Scripted(fail(MailRefused("too large"), handed_over=False))) as b:
        await b.post(posted)
        await b.queue.put([Note(LETTER)])
        await trio.sleep(11 if posted.expires_at else 0)
        with capture_logs() as lines:
            await b.deliver()
            await b.deliver()
    assert [(line["event"], line["id"]) for line in lines if line["log_level"] == "info"] == [(end, LETTER)]


async def test_a_provider_that_refused_a_letter_is_not_asked_again(autojump_clock: MockClock) -> None:
    refuses, down = Scripted(fail(MailRefused("not here"))), Scripted(fail(ProviderUnavailable("down")))
    async with bench(refuses=refuses, down=down) as b:
        await b.post()
        await b.deliver()
        await b.deliver()
        assert ((await b.row()).state, refuses.asked, down.asked) == (State.SENT, 1, 2)


async def test_a_suppressed_recipient_is_asked_of_the_next_when_the_table_says_fail_over(
    autojump_clock: MockClock,
) -> None:
    first, second = Scripted(fail(MailRejected("unsubscribed", suppressed=True))), Scripted()
    async with memory_queue(60.0) as queue:
        b = Bench(queue, MemoryLedger(None, trio_now), {"first": first}, fail_over_suppressed=True)
        b.postbox = Postbox([*b.carriers, carrier("second", second, weight=0)], 1)
        await b.post()
        await b.deliver()
        assert ((await b.row()).state, second.accepted) == (State.SENT, [LETTER])


async def test_recipients_that_were_not_taken_are_named_in_the_row(autojump_clock: MockClock) -> None:
    async def some(_: Attempt) -> Receipt:
        return Receipt("id", (Refusal("bob@example.com", "no such user"),))

    async with bench(a=Scripted(some)) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.message_id, [r.recipient for r in row.refused]) == (
            State.SENT,
            "id",
            ["bob@example.com"],
        )


# a plugin's bugs


@pytest.mark.parametrize("bug", [KeyError("x"), MemoryError(), RecursionError(), SystemExit(1), KeyboardInterrupt()])
@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_plugin_s_crash_of_any_kind_ends_neither_worker_nor_letter(
    autojump_clock: MockClock, bug: BaseException, handed_over: bool
) -> None:
    buggy, other = Scripted(fail(bug, handed_over=handed_over)), Scripted()
    async with bench(buggy=buggy) as b:
        b.postbox = Postbox([*b.carriers, carrier("other", other, weight=0)], 1)
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, other.asked) == ((State.IN_DOUBT, 0) if handed_over else (State.SENT, 1))
        assert any(f"bug in the plugin of buggy: {type(bug).__name__}" in entry.reason for entry in row.history)
        assert b.carriers[0].breaker.statistics().faults_in_a_row == (1 if handed_over else 0)


async def test_a_plugin_that_makes_no_marks_may_have_sent_all_when_it_crashes(autojump_clock: MockClock) -> None:
    async def crash(_: Attempt) -> None:
        raise KeyError("x")

    async with memory_queue(60.0) as queue:
        b = Bench(queue, MemoryLedger(None, trio_now), {"a": Scripted(crash), "b": Scripted()}, marks=False)
        b.postbox = Postbox(b.carriers[:1], 1)
        await b.post()
        await b.deliver()
        assert (await b.row()).state is State.IN_DOUBT


async def test_a_plugin_that_returns_no_receipt_leaves_doubt(autojump_clock: MockClock) -> None:
    async with bench(a=Scripted(return_nothing)) as b:
        await b.post()
        await b.deliver()
        assert (await b.row()).state is State.IN_DOUBT


async def fails_in_a_nursery(attempt: Attempt) -> Receipt:
    attempt.starting()
    async with trio.open_nursery():
        raise ProviderUnavailable("connection refused")


async def test_an_outcome_from_a_plugin_s_nursery_is_that_outcome(autojump_clock: MockClock) -> None:
    async with bench(a=Scripted(fails_in_a_nursery)) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.refusals, row.history[-1].reason) == (State.QUEUED, {}, "connection refused")


# time


def hang_in_a_nursery(*, handed_over: bool) -> Deed:
    async def deed(attempt: Attempt) -> Receipt:
        attempt.starting()
        if handed_over:
            attempt.handed_over()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
        raise AssertionError

    return deed


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_plugin_cut_in_its_own_nursery_has_no_bug(
    autojump_clock: MockClock, handed_over: bool, drained: bool
) -> None:
    async with bench(a=Scripted(hang_in_a_nursery(handed_over=handed_over))) as b:
        await b.post()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.deliver)
            await trio.sleep(1)
            if drained:
                b.guard.drain(1)
        row = await b.row()
        assert (row.state, row.refusals) == (State.IN_DOUBT if handed_over else State.QUEUED, {})
        assert b.carriers[0].breaker.statistics().faults_in_a_row == (0 if drained else 1)


async def test_a_call_without_an_answer_in_time_is_in_doubt(autojump_clock: MockClock) -> None:
    async with bench(a=Scripted(hang_after_hand_over)) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.history[-1].phase) == (State.IN_DOUBT, "handed-over")
        assert b.carriers[0].statistics().unknown == 1


async def test_a_call_that_handed_nothing_over_in_time_goes_to_the_next(autojump_clock: MockClock) -> None:
    slow, other = Scripted(hang), Scripted()
    async with bench(slow=slow) as b:
        b.postbox = Postbox([*b.carriers, carrier("other", other, weight=0)], 1)
        await b.post()
        await b.deliver()
        assert ((await b.row()).state, other.accepted) == (State.SENT, [LETTER])


async def test_a_call_whose_lease_is_over_before_the_first_byte_is_not_begun(autojump_clock: MockClock) -> None:
    async def too_late(attempt: Attempt) -> Receipt:
        attempt._lease_ends = trio.current_time()
        return await accept(attempt)

    async with bench(a=Scripted(too_late)) as b:
        await b.post()
        await b.deliver()
        row = await b.row()
        assert (row.state, row.attempts, b.carriers[0].breaker.statistics().faults) == (State.QUEUED, 0, 0)
        await b.deliver()
        assert (await b.row()).state is State.SENT


async def test_a_plugin_without_marks_is_not_asked_after_the_lease(autojump_clock: MockClock) -> None:
    class Slow(MemoryLedger):
        async def claim(self, *args: object, **named: object) -> object:  # type: ignore[override]  # only watched
            claim = await super().claim(*args, **named)  # type: ignore[arg-type]  # passed on
            await trio.sleep(30)
            return claim

    provider = Scripted()
    async with memory_queue(60.0) as queue:
        b = Bench(queue, Slow(None, trio_now), {"a": provider}, marks=False)
        await b.post()
        await b.deliver()
        assert ((await b.row()).state, provider.asked) == (State.QUEUED, 0)


# stopping


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


# notes


async def test_nothing_is_claimed_for_a_note_that_was_taken_before_a_drain(autojump_clock: MockClock) -> None:
    async with bench(lamda=Scripted()) as b:
        await b.post()
        b.guard.drain(30)
        await b.deliver()
        assert ((await b.row()).state, (await b.row()).fence) == (State.QUEUED, 0)
        assert await b.notes() == 1


async def test_a_note_without_a_letter_is_buried(autojump_clock: MockClock) -> None:
    async with bench(a=Scripted()) as b:
        await b.queue.put([Note(Id("0x0000000000000001"))])
        await b.deliver()
        assert (await b.queue.statistics()).buried == 1


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


# the ledger fails


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


async def test_policy_resend_is_stored_with_the_letter(autojump_clock: MockClock) -> None:
    async with bench(Policy(on_doubt=OnDoubt.RESEND), a=Scripted(hang_after_hand_over)) as b:
        await b.post()
        await b.deliver()
        rows = await b.ledger.find(Filter(state=State.IN_DOUBT), None, 10)
        assert [row.on_doubt for row in rows] == [OnDoubt.RESEND]
