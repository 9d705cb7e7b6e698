"""How calls end, and who is asked next."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import memory_queue
from postman.errors import MailRefused, MailRejected, OutcomeUnknown, ProviderMisconfigured, ProviderUnavailable
from postman.mail import Id, Mail
from postman.provider import Attempt, Receipt, Refusal
from postman.queue import Note
from postman.row import State
from postman.sending.postbox import Postbox
from tests.sending.delivery.bench import LETTER, Bench, Scripted, accept, bench, carrier, fail, mail, trio_now


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
