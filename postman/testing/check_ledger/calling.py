"""Checks of the way out: one claim per provider call, and what its end does."""

from __future__ import annotations

import trio

from postman.ledger import Call, Claim, Ended, Unclaimable
from postman.mail import OnDoubt
from postman.provider import Receipt, Refusal
from postman.row import BODY_NOT_NEEDED, End, EndKind, Policy, State, Verb
from postman.testing.check_ledger.scene import (
    ACCEPTED,
    DELTA,
    LAMDA,
    REFUSED,
    REJECTED,
    UNAVAILABLE,
    UNKNOWN,
    UNSENT,
    LedgerCheck,
    OpenLedger,
    open_scene,
)


async def a_claim_names_fence_provider_account_and_lease(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        claim = await scene.claim(await scene.queued())
        assert (claim.fence, claim.call, claim.lease_ends) == (1, LAMDA, scene.clock.steady + LAMDA.lease)
        row = await scene.row(claim.id)
        assert (row.state, row.provider, row.account) == (State.SENDING, "lamda", "lamda.example")


async def one_of_20_concurrent_claims_wins(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id, answers = await scene.queued(), list[Claim | Unclaimable]()

        async def claim() -> None:
            answers.append(await scene.ledger.claim(id, [LAMDA]))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(claim)
        assert sum(isinstance(answer, Claim) for answer in answers) == 1
        assert {answer.state for answer in answers if isinstance(answer, Unclaimable)} == {State.SENDING}


async def only_a_queued_letter_can_be_claimed(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        for state in State:
            if state is not State.QUEUED:
                assert (await scene.refused(await scene.bring(state))).state is state
        assert (await scene.refused(scene.letter().id)).state is None


async def a_letter_is_not_claimed_before_it_is_due(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.queued(send_at=scene.time(100))
        assert await scene.refused(id) == Unclaimable(State.QUEUED, 100)
        scene.clock.advance(100)
        await scene.claim(id)


async def an_expired_letter_is_not_sent(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.queued(expires_at=scene.time(10))
        scene.clock.advance(10)
        assert (await scene.refused(id)).state is State.EXPIRED


async def the_first_provider_that_is_ready_is_chosen(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        busy = Call("lamda", "lamda.example", 30.0, ready=False)
        id = await scene.queued()
        assert await scene.refused(id, busy) == Unclaimable(State.QUEUED)
        claim = await scene.ledger.claim(id, [busy, DELTA])
        assert isinstance(claim, Claim)
        assert claim.call == DELTA


async def a_provider_sends_for_its_own_domains_alone(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        elsewhere = Call("lamda", "lamda.example", 30.0, domains=frozenset({"example.net"}))
        id = await scene.queued()
        claim = await scene.ledger.claim(id, [elsewhere, DELTA])
        assert isinstance(claim, Claim)
        assert claim.call == DELTA
        assert (await scene.refused(await scene.queued(), elsewhere)).state is State.REJECTED


async def a_receipt_ends_the_letter(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        receipt = Receipt("m-9", (Refusal("bob@example.com", "unknown"),))
        row = await scene.end(await scene.queued(), End(EndKind.ACCEPTED, receipt=receipt))
        assert (row.state, row.message_id, row.refused) == (State.SENT, "m-9", receipt.refused)
        assert row == await scene.row(row.id)


async def another_provider_is_asked_in_the_same_write(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        first = await scene.claim(await scene.queued())
        second = await scene.claim(first.id, DELTA, Ended(first, UNAVAILABLE))
        assert (second.fence, second.call, second.letter) == (2, DELTA, first.letter)
        row = await scene.row(first.id)
        assert (row.state, row.provider, row.attempts) == (State.SENDING, "delta", 0)
        assert ("lamda", "503") in [(entry.provider, entry.reason) for entry in row.history]


async def when_nobody_can_be_asked_now_the_letter_is_due_later(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        claim = await scene.claim(await scene.queued())
        end = End(EndKind.UNAVAILABLE, "429", retry_after=100)
        answer = await scene.ledger.claim(claim.id, [], Ended(claim, end))
        assert isinstance(answer, Unclaimable)
        assert answer.state is State.QUEUED
        assert answer.delay >= 100
        scene.clock.advance(answer.delay)
        await scene.claim(claim.id)


async def attempts_burn_only_when_a_provider_read_the_letter(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        burns = {UNAVAILABLE: 0, End(EndKind.MISCONFIGURED, "401"): 0, UNSENT: 0, REFUSED: 1, REJECTED: 1, UNKNOWN: 1}
        for end, burnt in burns.items():
            assert (await scene.end(await scene.queued(), end)).attempts == burnt, end


async def a_letter_that_every_provider_refused_is_rejected_with_their_reasons(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        first = await scene.claim(await scene.queued())
        answer = await scene.ledger.claim(first.id, [LAMDA, DELTA], Ended(first, REFUSED))
        assert isinstance(answer, Claim)
        assert answer.call == DELTA, "who refused is not asked again"
        last = await scene.ledger.claim(first.id, [LAMDA, DELTA], Ended(answer, End(EndKind.REFUSED, "too large")))
        row = await scene.row(first.id)
        assert last == Unclaimable(State.REJECTED, ended=row), "who made the end is given the row"
        assert await scene.refused(first.id) == Unclaimable(State.REJECTED), "and nobody after it"
        reason = row.history[-1].reason
        assert "lamda: sender not verified" in reason
        assert "delta: too large" in reason


async def too_many_attempts_end_a_letter(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(max_attempts=2)) as scene:
        claim = await scene.claim(await scene.queued())
        for provider in ("lamda", "delta"):
            row = await scene.ledger.finish(claim, REFUSED)
            if row.state is State.FAILED:
                break
            scene.clock.advance(row.due - scene.clock.wall)
            claim = await scene.claim(claim.id, Call(f"not-{provider}", "", 30.0))
        assert (row.state, row.attempts) == (State.FAILED, 2)


async def an_unknown_outcome_is_a_doubt_and_nobody_else_is_asked(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        claim = await scene.claim(await scene.queued())
        assert await scene.ledger.claim(claim.id, [DELTA], Ended(claim, UNKNOWN)) == Unclaimable(State.IN_DOUBT)
        assert (await scene.refused(claim.id, DELTA)).state is State.IN_DOUBT


async def an_end_with_an_old_fence_changes_nothing(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        first = await scene.claim(await scene.queued())
        await scene.claim(first.id, DELTA, Ended(first, UNAVAILABLE))
        before = await scene.row(first.id)
        for end in (UNAVAILABLE, REJECTED, REFUSED, UNKNOWN, UNSENT):
            assert await scene.ledger.finish(first, end) == before
        assert isinstance(await scene.ledger.claim(first.id, [LAMDA], Ended(first, UNAVAILABLE)), Unclaimable)
        assert await scene.row(first.id) == before


async def a_late_receipt_counts_though_another_owns_the_letter(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        first = await scene.claim(await scene.queued())
        await scene.claim(first.id, DELTA, Ended(first, UNAVAILABLE))
        assert (await scene.ledger.finish(first, ACCEPTED)).state is State.SENT


async def a_late_end_by_the_owner_counts_in_doubt_and_held(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        ends = {ACCEPTED: State.SENT, REJECTED: State.REJECTED, UNAVAILABLE: State.QUEUED, UNSENT: State.QUEUED}
        for end, state in ends.items():
            for verbs in ((Verb.LAPSE,), (Verb.LAPSE, Verb.DECIDE)):
                claim = await scene.claim(await scene.queued())
                scene.clock.advance(LAMDA.lease)
                for verb in verbs:
                    assert await scene.act(claim.id, verb)
                row = await scene.ledger.finish(claim, end)
                assert row.state is state, (verbs, end)
                # Its taker may have acked the note meanwhile, so one is to be put.
                assert state is not State.QUEUED or not row.put


async def a_claim_whose_answer_was_lost_is_given_again_to_its_owner_and_to_nobody_else(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id, calls = await scene.queued(), [LAMDA, DELTA]
        claim = await scene.ledger.claim(id, calls, owner="me")
        assert isinstance(claim, Claim)
        before = await scene.row(id)
        assert await scene.ledger.claim(id, calls, owner="me") == claim
        for other in ("you", ""):
            assert await scene.ledger.claim(id, calls, owner=other) == Unclaimable(State.SENDING)
        assert await scene.row(id) == before
        after = Ended(claim, UNAVAILABLE)
        second = await scene.ledger.claim(id, calls[1:], after, owner="me")
        assert isinstance(second, Claim)
        assert second.fence == 2
        assert await scene.ledger.claim(id, calls[1:], after, owner="me") == second
        assert await scene.ledger.claim(id, calls[1:], after, owner="you") == Unclaimable(State.SENDING)


async def an_owner_that_learns_of_its_claim_too_late_can_still_say_that_nothing_was_sent(
    open_ledger: OpenLedger,
) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.queued()
        await scene.ledger.claim(id, [LAMDA], owner="me")
        scene.clock.advance(LAMDA.lease)
        for verb in (Verb.LAPSE, Verb.DECIDE):
            assert await scene.act(id, verb)
        claim = await scene.ledger.claim(id, [LAMDA], owner="me")
        assert isinstance(claim, Claim)
        assert claim.lease_ends <= scene.clock.steady
        assert (await scene.ledger.finish(claim, UNSENT)).state is State.QUEUED


async def an_end_that_is_written_twice_counts_once(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        nameless = End(EndKind.ACCEPTED, receipt=Receipt(None))
        for end in (ACCEPTED, nameless, REJECTED, REFUSED, UNAVAILABLE, UNKNOWN, UNSENT):
            claim = await scene.claim(await scene.queued())
            row = await scene.ledger.finish(claim, end)
            assert await scene.ledger.finish(claim, end) == row, end
        assert (await scene.ledger.statistics()).doubled == 0


async def a_second_receipt_is_kept_and_counted_as_doubled(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        id = await scene.bring(State.SENT)
        assert (await scene.ledger.statistics()).doubled == 0
        for _ in range(2):
            row = await scene.ledger.settle(id, Receipt("m-2"), "webhook")
            assert row is not None
            assert row.state is State.SENT
        assert (await scene.row(id)).receipts == 3
        assert "m-2" in (await scene.row(id)).history[-1].reason
        assert (await scene.ledger.statistics()).doubled == 1


async def a_receipt_settles_any_state(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        for state in State:
            row = await scene.ledger.settle(await scene.bring(state), Receipt("m-3"), "webhook")
            assert row is not None
            assert row.state is State.SENT, state
        assert await scene.ledger.settle(scene.letter().id, Receipt(), "webhook") is None


async def a_call_that_lapsed_is_in_doubt_and_a_third_is_the_end(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(on_doubt=OnDoubt.RESEND, resend_after=0)) as scene:
        id = await scene.queued()
        for crashes in (1, 2, 3):
            await scene.claim(id)
            assert not await scene.act(id, Verb.LAPSE), "the lease is not over"
            scene.clock.advance(LAMDA.lease)
            assert await scene.act(id, Verb.LAPSE)
            assert await scene.state(id) is State.IN_DOUBT
            assert await scene.act(id, Verb.DECIDE)
            assert await scene.state(id) is (State.FAILED if crashes == 3 else State.QUEUED)


async def a_doubt_is_held_or_sent_again_as_the_mail_says(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger, Policy(on_doubt=OnDoubt.HOLD, resend_after=60)) as scene:
        held = (await scene.end(await scene.queued(), UNKNOWN)).id
        again = (await scene.end(await scene.queued(on_doubt=OnDoubt.RESEND), UNKNOWN)).id
        assert await scene.act(held, Verb.DECIDE)
        assert not await scene.act(again, Verb.DECIDE)
        scene.clock.advance(60)
        assert await scene.act(again, Verb.DECIDE)
        assert await scene.state(held) is State.HELD
        assert await scene.state(again) is State.QUEUED
        assert "sent again by policy" in (await scene.row(again)).history[-1].reason


async def the_body_is_there_as_long_as_the_letter_may_be_sent(open_ledger: OpenLedger) -> None:
    async with open_scene(open_ledger) as scene:
        verbs = {State.HELD: Verb.RELEASE, State.REJECTED: Verb.REPLAY, State.FAILED: Verb.REPLAY}
        assert not verbs.keys() & BODY_NOT_NEEDED
        for state, verb in verbs.items():
            id = await scene.bring(state)
            assert await scene.act(id, verb)
            letter = (await scene.claim(id)).letter
            assert letter.id == id
            assert letter.mail.text == "text"


CHECKS: tuple[LedgerCheck, ...] = (
    a_claim_names_fence_provider_account_and_lease,
    one_of_20_concurrent_claims_wins,
    only_a_queued_letter_can_be_claimed,
    a_letter_is_not_claimed_before_it_is_due,
    an_expired_letter_is_not_sent,
    the_first_provider_that_is_ready_is_chosen,
    a_provider_sends_for_its_own_domains_alone,
    a_receipt_ends_the_letter,
    another_provider_is_asked_in_the_same_write,
    when_nobody_can_be_asked_now_the_letter_is_due_later,
    attempts_burn_only_when_a_provider_read_the_letter,
    a_letter_that_every_provider_refused_is_rejected_with_their_reasons,
    too_many_attempts_end_a_letter,
    an_unknown_outcome_is_a_doubt_and_nobody_else_is_asked,
    an_end_with_an_old_fence_changes_nothing,
    a_late_receipt_counts_though_another_owns_the_letter,
    a_late_end_by_the_owner_counts_in_doubt_and_held,
    a_claim_whose_answer_was_lost_is_given_again_to_its_owner_and_to_nobody_else,
    an_owner_that_learns_of_its_claim_too_late_can_still_say_that_nothing_was_sent,
    an_end_that_is_written_twice_counts_once,
    a_second_receipt_is_kept_and_counted_as_doubled,
    a_receipt_settles_any_state,
    a_call_that_lapsed_is_in_doubt_and_a_third_is_the_end,
    a_doubt_is_held_or_sent_again_as_the_mail_says,
    the_body_is_there_as_long_as_the_letter_may_be_sent,
)
