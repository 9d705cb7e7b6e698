from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postman import transitions
from postman.ledger import Call, Claim, Ended
from postman.mail import Address, Content, Id, Letter, Mail, OnDoubt
from postman.provider import Receipt
from postman.queue import MAX_DELAY
from postman.row import HISTORY_ENDS, End, EndKind, Entry, Now, Policy, Row, State, Verb

NOW = Now(wall=1_000_000.0, steady=5_000.0)
POLICY = Policy(max_attempts=3, give_up_after=10_000.0, resend_after=60.0)
FENCE = 2
LAMDA, DELTA = Call("lamda", "l", 30.0), Call("delta", "d", 30.0)
LETTER = Letter(
    id=Id("0x01"),
    mail=Mail(
        to=(Address(email="a@example.com"),),
        from_=Address(email="b@example.org"),
        subject="",
        content=(Content(type="text/plain", value=""),),
    ),
    accepted=datetime.fromtimestamp(NOW.wall, UTC),
)

type Event = Callable[[Row], Row]


def a_row(state: State = State.QUEUED, **fields: Any) -> Row:  # noqa: ANN401  # fields of Row
    """A row whose call `FENCE` was made by lamda, and whose times have all come."""
    return Row(
        id=LETTER.id,
        client="shop",
        state=state,
        accepted=NOW.wall,
        lane=1,
        size=10,
        sender="example.org",
        history=(Entry(NOW.wall, state, "before"),),
        **{
            "since": NOW.wall,
            "born": NOW.wall,
            "due": NOW.wall,
            "on_doubt": OnDoubt.HOLD,
            "put": True,
            "fence": FENCE,
            "provider": "lamda",
            "lease": NOW.steady,
            "resolve": NOW.wall,
            **fields,
        },
    )


def claimed(*calls: Call) -> Event:
    return lambda row: transitions.claim(row, calls, None, POLICY, NOW)[0]


def ended(kind: EndKind, fence: int = FENCE) -> Event:
    return lambda row: transitions.finish(row, fence, "lamda", End(kind, "why", "phase"), POLICY, NOW)


def settled(row: Row) -> Row:
    return transitions.settle(row, Receipt("m"), "webhook", NOW)


def done(verb: Verb) -> Event:
    return lambda row: transitions.act(row, verb, "olga", POLICY, NOW)[0]


Q, S, D, H = State.QUEUED, State.SENDING, State.IN_DOUBT, State.HELD
OWNED = (S, D, H)
TABLE: dict[str, tuple[Event, dict[State, State]]] = {
    "claim": (claimed(LAMDA), {Q: S}),
    "claim, nobody ready": (claimed(Call("lamda", "l", 30.0, ready=False)), {}),
    "claim, nobody may": (claimed(Call("lamda", "l", 30.0, domains=frozenset({"other.org"}))), {Q: State.REJECTED}),
    "a receipt": (ended(EndKind.ACCEPTED), dict.fromkeys(State, State.SENT)),
    "a receipt of an older call": (ended(EndKind.ACCEPTED, FENCE - 1), dict.fromkeys(State, State.SENT)),
    "a receipt from anyone": (settled, dict.fromkeys(State, State.SENT)),
    "unavailable": (ended(EndKind.UNAVAILABLE), dict.fromkeys(OWNED, Q)),
    "misconfigured": (ended(EndKind.MISCONFIGURED), dict.fromkeys(OWNED, Q)),
    "refused": (ended(EndKind.REFUSED), dict.fromkeys(OWNED, Q)),
    "unsent": (ended(EndKind.UNSENT), dict.fromkeys(OWNED, Q)),
    "rejected": (ended(EndKind.REJECTED), dict.fromkeys(OWNED, State.REJECTED)),
    "unknown": (ended(EndKind.UNKNOWN), {S: D, D: D, H: H}),
    **{f"{kind}, older call": (ended(kind, FENCE - 1), {}) for kind in EndKind if kind is not EndKind.ACCEPTED},
    "cancel": (done(Verb.CANCEL), {Q: State.CANCELLED, H: State.CANCELLED}),
    "discard": (done(Verb.DISCARD), {Q: State.CANCELLED, H: State.CANCELLED}),
    "release": (done(Verb.RELEASE), {H: Q}),
    "settle": (done(Verb.SETTLE), {H: State.SENT, D: State.SENT}),
    "replay": (done(Verb.REPLAY), {State.REJECTED: Q, State.FAILED: Q}),
    "lapse": (done(Verb.LAPSE), {S: D}),
    "decide": (done(Verb.DECIDE), {D: H}),
    "age": (done(Verb.AGE), {}),
    "put": (done(Verb.PUT), {}),
    "the process died": (lambda row: transitions.orphan(row, POLICY, NOW), {S: D}),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", TABLE)
def test_each_event_leads_from_each_state_to_the_state_of_the_table(event: str, state: State) -> None:
    happen, after = TABLE[event]
    before = a_row(state)
    row = happen(before)
    assert row.state is after.get(state, state)
    if state in after:
        assert row.history[-1].state is row.state
    else:
        assert row is before


@pytest.mark.parametrize(
    ("fields", "state", "reason"),
    [
        ({"expires": NOW.wall}, State.EXPIRED, "not sent before"),
        ({"born": NOW.wall - POLICY.give_up_after}, State.FAILED, "given up after"),
        ({"refusals": {"lamda": "no", "delta": "never"}}, State.REJECTED, "lamda: no; delta: never"),
        ({"refusals": {"lamda": "no"}}, State.SENDING, ""),
        ({"due": NOW.wall + 1}, State.QUEUED, "before"),
    ],
)
def test_a_claim_looks_at_the_time_and_at_who_refused(fields: dict[str, Any], state: State, reason: str) -> None:
    row, call = transitions.claim(a_row(**fields), [LAMDA, DELTA], None, POLICY, NOW)
    assert row.state is state
    assert reason in row.history[-1].reason
    assert call == (DELTA if state is State.SENDING else None)


def test_a_claim_counts_the_fence_and_names_the_lease() -> None:
    row, call = transitions.claim(a_row(), [LAMDA], None, POLICY, NOW)
    assert call == LAMDA
    assert (row.fence, row.lease, row.account) == (FENCE + 1, NOW.steady + 30.0, "l")


def test_without_any_provider_a_letter_waits() -> None:
    before = a_row()
    assert transitions.claim(before, [], None, POLICY, NOW) == (before, None)


@pytest.mark.parametrize("kind", [EndKind.UNAVAILABLE, EndKind.MISCONFIGURED, EndKind.REFUSED])
def test_asking_another_in_the_same_write_costs_no_round_of_back_off(kind: EndKind) -> None:
    after = Ended(Claim(LETTER, FENCE, LAMDA, 0.0), End(kind, "why"))
    row, call = transitions.claim(a_row(State.SENDING), [LAMDA, DELTA][kind is EndKind.REFUSED :], after, POLICY, NOW)
    assert call is not None
    assert (row.state, row.fence, row.tries) == (State.SENDING, FENCE + 1, 0)
    row, call = transitions.claim(a_row(State.SENDING), [], after, POLICY, NOW)
    assert (row.state, row.fence, row.tries, call) == (State.QUEUED, FENCE, 1, None)
    assert row.due > NOW.wall


def test_an_end_that_is_told_twice_claims_nothing() -> None:
    after = Ended(Claim(LETTER, FENCE, LAMDA, 0.0), End(EndKind.UNAVAILABLE, "why"))
    row, _ = transitions.claim(a_row(State.SENDING), [], after, POLICY, NOW)
    assert transitions.claim(row, [LAMDA, DELTA], after, POLICY, NOW) == (row, None)


@pytest.mark.parametrize(("retry_after", "least"), [(-5.0, 1.0), (300.0, 300.0), (1e9, 3_600.0)])
def test_what_a_provider_asks_us_to_wait_is_clamped(retry_after: float, least: float) -> None:
    end = End(EndKind.UNAVAILABLE, retry_after=retry_after)
    row = transitions.finish(a_row(State.SENDING), FENCE, "lamda", end, POLICY, NOW)
    assert row.due - NOW.wall >= least
    assert row.due - NOW.wall <= 3_600.0
    assert row.put is (row.due - NOW.wall <= MAX_DELAY)


@pytest.mark.parametrize("kind", [EndKind.UNAVAILABLE, EndKind.UNSENT])
def test_a_late_end_asks_for_a_new_note_since_the_old_one_may_be_acked(kind: EndKind) -> None:
    for state in (State.IN_DOUBT, State.HELD):
        assert not transitions.finish(a_row(state), FENCE, "lamda", End(kind), POLICY, NOW).put
    assert transitions.finish(a_row(State.SENDING), FENCE, "lamda", End(kind), POLICY, NOW).put


def test_the_last_attempt_ends_the_letter() -> None:
    row = a_row(State.SENDING, attempts=POLICY.max_attempts - 1)
    assert transitions.finish(row, FENCE, "lamda", End(EndKind.REFUSED, "no"), POLICY, NOW).state is State.FAILED
    assert transitions.finish(row, FENCE, "lamda", End(EndKind.UNAVAILABLE), POLICY, NOW).state is State.QUEUED


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, State.HELD),
        ({"on_doubt": OnDoubt.RESEND}, State.QUEUED),
        ({"on_doubt": OnDoubt.RESEND, "resolve": NOW.wall + 1}, State.IN_DOUBT),
        ({"on_doubt": OnDoubt.RESEND, "attempts": POLICY.max_attempts}, State.FAILED),
        ({"crashes": transitions.MAX_CRASHES}, State.FAILED),
    ],
)
def test_the_policy_decides_a_doubt_when_its_time_has_come(fields: dict[str, Any], state: State) -> None:
    row, _ = transitions.act(a_row(State.IN_DOUBT, **fields), Verb.DECIDE, "clerk", POLICY, NOW)
    assert row.state is state


def test_a_doubt_is_held_though_the_wall_clock_was_set_back() -> None:
    row = transitions.orphan(a_row(State.SENDING), POLICY, NOW)
    yesterday = Now(NOW.wall - 86_400, NOW.steady)
    assert transitions.wake(row, POLICY) <= yesterday.wall
    row, _ = transitions.act(row, Verb.DECIDE, "clerk", POLICY, yesterday)
    assert row.state is State.HELD


def test_letters_that_one_crash_cut_are_sent_again_apart_since_one_of_them_may_have_been_the_cause() -> None:
    def due(**fields: Any) -> list[float]:  # noqa: ANN401  # fields of Row
        rows = [a_row(State.IN_DOUBT, on_doubt=OnDoubt.RESEND, **fields) for _ in range(300)]
        cut = [msgspec.structs.replace(row, id=Id(f"0x{number:016x}")) for number, row in enumerate(rows)]
        return [transitions.act(row, Verb.DECIDE, "clerk", POLICY, NOW)[0].due - NOW.wall for row in cut]

    def near(dues: list[float]) -> set[tuple[int, int]]:
        pairs = combinations(enumerate(dues), 2)
        return {(one, other) for (one, at), (other, later) in pairs if abs(at - later) < POLICY.resend_after / 120}

    first, second = due(crashes=1), due(crashes=2, fence=FENCE + 1)
    assert all(0 <= seconds <= POLICY.resend_after for seconds in first + second)
    assert 0 < len(near(first) & near(second)) < len(near(first)) / 20, "who is cut with it again is another one"
    assert set(due()) == {0.0}, "an answer that was lost is no crash"


def test_a_lease_that_is_not_over_does_not_lapse() -> None:
    before = a_row(State.SENDING, lease=NOW.steady + 0.1)
    assert transitions.act(before, Verb.LAPSE, "clerk", POLICY, NOW) == (before, False)


def test_a_second_receipt_changes_no_state_and_is_counted() -> None:
    row = transitions.settle(settled(a_row(State.SENDING)), Receipt("other"), "delta", NOW)
    assert (row.state, row.receipts, row.message_id) == (State.SENT, 2, "m")
    assert "doubled" in row.history[-1].reason


def test_the_same_receipt_again_is_no_second_one() -> None:
    before = settled(a_row(State.SENDING))
    assert settled(before) is before
    nameless = transitions.settle(a_row(State.SENDING), Receipt(), "lamda", NOW)
    assert transitions.settle(nameless, Receipt(), "lamda", NOW).receipts == 2


def test_a_call_is_counted_once_when_its_receipt_comes_after_the_doubt() -> None:
    row = transitions.finish(a_row(State.SENDING), FENCE, "lamda", End(EndKind.UNKNOWN), POLICY, NOW)
    assert settled(row).attempts == row.attempts == 1


def test_a_replay_gives_a_letter_its_whole_life_again() -> None:
    before = a_row(State.FAILED, attempts=3, crashes=3, tries=5, refusals={"lamda": "no"}, born=0.0)
    row, is_done = transitions.act(before, Verb.REPLAY, "olga", POLICY, NOW)
    assert is_done
    assert (row.attempts, row.crashes, row.tries, row.refusals, row.born) == (0, 0, 0, {}, NOW.wall)
    assert (row.fence, row.put) == (FENCE, False)


def test_an_expired_letter_is_not_replayed() -> None:
    before = a_row(State.REJECTED, expires=NOW.wall)
    assert transitions.act(before, Verb.REPLAY, "olga", POLICY, NOW) == (before, False)


def test_a_letter_is_put_by_who_made_it_queued() -> None:
    row, is_done = transitions.act(a_row(put=False), Verb.PUT, "clerk", POLICY, NOW)
    assert is_done
    assert row.put


def test_back_off_grows_to_an_hour_and_never_ends_below_a_second() -> None:
    waits = [transitions.backoff(a_row(tries=tries, fence=fence)) for tries in range(30) for fence in range(50)]
    assert min(waits) == 1.0
    assert 3_000 < max(waits) <= transitions.BACKOFF_CAP
    assert max(transitions.backoff(a_row(tries=0, fence=fence)) for fence in range(50)) <= transitions.BACKOFF


def test_the_clerk_wakes_for_each_state_by_its_own_time() -> None:
    assert transitions.wake(a_row(expires=7.0), POLICY) == 7.0
    assert transitions.wake(a_row(), POLICY) == NOW.wall + POLICY.give_up_after
    assert transitions.wake(a_row(State.SENDING, lease=8.0), POLICY) == 8.0
    assert transitions.wake(a_row(State.IN_DOUBT, resolve=9.0), POLICY) == 9.0
    assert transitions.wake(a_row(State.SENT, since=10.0), POLICY) == 10.0
    assert math.isfinite(transitions.wake(a_row(), Policy()))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(TABLE)), max_size=60), st.sampled_from(OnDoubt))
def test_whatever_happens_the_row_keeps_its_laws(events: Sequence[str], on_doubt: OnDoubt) -> None:
    row = a_row(on_doubt=on_doubt)
    for event in events:
        before, row = row, TABLE[event][0](row)
        assert row.fence >= before.fence
        assert row.receipts >= before.receipts
        assert (row.receipts == 0) or row.state is State.SENT
        assert before.state is not State.SENT or row.state is State.SENT
        assert (row.fence > before.fence) is (row.state is State.SENDING and before.state is State.QUEUED)
        assert len(row.history) <= 2 * HISTORY_ENDS
        assert len(row.history) + row.omitted >= len(before.history) + before.omitted
        assert row.state is before.state or row.since == NOW.wall
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=Row) == row
