"""A row in words."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from postman.http.explain import document, next_step, rfc3339, summary
from postman.ledger import Call
from postman.mail import Id, OnDoubt
from postman.provider import Refusal
from postman.row import Entry, Now, Policy, Row, State
from postman.transitions import claim, orphan

NOW = 1_800_000_000.0
ROW = Row(
    id=Id("0x587e6d1522401000"),
    client="shop",
    state=State.QUEUED,
    since=NOW,
    accepted=NOW,
    born=NOW,
    due=NOW,
    lane=1,
    size=100,
    sender="example.org",
    on_doubt=OnDoubt.HOLD,
    history=(Entry(NOW, State.QUEUED, "accepted"),),
)
FAILED_ONCE = (*ROW.history, Entry(NOW, State.SENDING, "", "lamda"), Entry(NOW, State.QUEUED, "no answer", "lamda"))


def row(**fields: object) -> Row:
    return msgspec.structs.replace(ROW, **fields)


def test_the_document_has_the_names_of_the_wire() -> None:
    assert list(document(ROW, NOW)) == [
        "tracking-id", "state", "since", "accepted", "provider", "message-id", "calls", "attempts", "due",
        "expires-at", "on-doubt", "refused", "next", "history",
    ]  # fmt: skip  # as on the wire
    assert json.loads(msgspec.json.encode(document(ROW, NOW)))["since"] == "2027-01-15T08:00:00.000Z"


def test_a_mail_that_was_handed_over_once_was_called_for_once_though_nobody_knows_whether_it_was_read() -> None:
    policy, now = Policy(), Now(NOW, 0.0)
    sending, _ = claim(ROW, [Call("lamda", "", 30.0)], None, policy, now)
    told = document(orphan(sending, policy, now), NOW)
    assert (told["state"], told["calls"], told["attempts"]) == ("in-doubt", 1, 0)


def test_only_what_waits_is_due() -> None:
    assert document(row(state=State.QUEUED), NOW)["due"] == rfc3339(NOW)
    assert document(row(state=State.SENT), NOW)["due"] is None


def test_a_list_leaves_the_history_out() -> None:
    assert {**summary(ROW, NOW), "history": ...}.keys() == document(ROW, NOW).keys()


def test_the_history_is_told_in_order_without_empty_words() -> None:
    told = document(row(history=FAILED_ONCE), NOW)["history"]
    assert told[1] == {"at": rfc3339(NOW), "state": "sending", "provider": "lamda"}
    assert [entry.get("reason") for entry in told] == ["accepted", None, "no answer"]


def test_a_history_with_a_gap_says_so_in_its_place() -> None:
    entries = tuple(Entry(NOW + i, State.QUEUED, str(i)) for i in range(40))
    told = document(row(history=entries, omitted=7), NOW)["history"]
    assert len(told) == 41
    assert told[20]["reason"] == "7 entries were left out here"


def test_recipients_that_a_provider_refused_are_named() -> None:
    sent = row(state=State.SENT, receipts=1, provider="lamda", refused=(Refusal("bob@example.com", "no such user"),))
    told = document(sent, NOW)
    assert told["refused"] == [{"recipient": "bob@example.com", "reason": "no such user"}]
    assert "1 of its recipients" in told["next"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Waits for its turn"),
        ({"due": NOW + 60}, "not due before 2027-01-15T08:01:00.000Z"),
        (
            {"due": NOW + 60, "tries": 1, "history": FAILED_ONCE},
            "tried again at .* because the last try ended so: no answer",
        ),
        ({"tries": 1, "history": FAILED_ONCE}, "Waits for its turn .* no answer"),
        ({}, "`postman cancel 0x587e6d1522401000`"),
        ({"state": State.SENDING, "provider": "lamda"}, "lamda is being asked now"),
        ({"state": State.IN_DOUBT, "provider": "lamda"}, "lamda may have taken it, .* held for a person"),
        (
            {"state": State.IN_DOUBT, "provider": "lamda", "on_doubt": OnDoubt.RESEND, "resolve": NOW + 60},
            "sent again after 2027-01-15T08:01:00.000Z, perhaps as a second copy",
        ),
        ({"state": State.HELD, "provider": "lamda"}, "`postman settle 0x587e6d1522401000`"),
        ({"state": State.HELD, "provider": "lamda"}, "`postman release 0x587e6d1522401000`"),
        ({"state": State.HELD, "provider": "lamda"}, "`postman discard 0x587e6d1522401000`"),
        ({"state": State.SENT, "provider": "lamda", "receipts": 1}, "^Nothing; lamda took it.$"),
        ({"state": State.SENT, "provider": "lamda"}, "a person said that it arrived"),
        ({"state": State.SENT, "provider": "lamda", "receipts": 2}, "2 receipts came for it"),
        (
            {"state": State.REJECTED, "history": FAILED_ONCE},
            "ended so: no answer. If .*`postman replay 0x587e6d1522401000`",
        ),
        ({"state": State.FAILED, "history": ()}, "Nothing happens by itself. If .*`postman replay 0x587e6d1522401000`"),
        ({"state": State.EXPIRED}, "its time was over"),
        ({"state": State.CANCELLED}, "it was cancelled"),
    ],
)
def test_each_state_says_what_happens_next(fields: dict[str, object], words: str) -> None:
    assert re.search(words, next_step(row(**fields), NOW))


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_sentence(state: State) -> None:
    told = next_step(row(state=state, provider="lamda"), NOW)
    assert told.endswith(".")
    assert "  " not in told
