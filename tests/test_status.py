"""What is not well, in sentences."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from postman.breaker import Breaker, BreakerStatistics
from postman.errors import ProviderMisconfigured
from postman.ledger import LedgerStatistics, Pause
from postman.queue import QueueStatistics
from postman.row import State
from postman.sending.carrier import CarrierStatistics, blame
from postman.status import Facts, document, sentences


def provider(**more: object) -> CarrierStatistics:
    values: dict[str, Any] = {
        "name": "sendgrid",
        "weight": 1,
        "under_way": 0,
        "accepted": 0,
        "not_accepted": 0,
        "unknown": 0,
        "again_in": 0.0,
        "cooling": 0.0,
        "paused": False,
        "delivers": True,
        "last_fault": "",
        "bug": "",
        "breaker": Breaker().statistics(),
        **more,
    }
    return CarrierStatistics(**values)


def facts(**more: object) -> Facts:
    values: dict[str, Any] = {
        "version": "1",
        "now": 1_000.0,
        "started": 0.0,
        "durable": True,
        "ledger": LedgerStatistics({}),
        "queue": QueueStatistics((0, 0, 0), 0, 0, 0),
        "providers": [provider()],
        **more,
    }
    return Facts(**values)


def opened(probe_delay: float = 30.0) -> BreakerStatistics:
    breaker = Breaker(is_fault=blame, probe_delay=lambda _: probe_delay)
    with pytest.raises(ProviderMisconfigured), breaker.attempt():
        raise ProviderMisconfigured("401 the key is wrong")
    return breaker.statistics()


def test_a_service_without_troubles_is_well() -> None:
    told = document(facts(providers=[provider(cooling=30.0)]))
    assert (told["well"], told["because"]) == (True, [])


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"stopping": True}, ["stopping"]),
        (
            {"ledger": None, "ledger_error": "the disk is full"},
            ["The ledger", "disk is full", "nothing is accepted"],
        ),
        ({"queue": None, "queue_error": "it hangs"}, ["The queue", "it hangs", "mail is accepted and kept"]),
        ({"providers": []}, ["No provider", "[[provider]]"]),
        ({"providers": [provider(delivers=False)]}, ["fake", "nothing is delivered"]),
        ({"pauses": [Pause("*", 0, "ops")]}, ["All providers", "ops", "`postman resume`"]),
        ({"pauses": [Pause("sendgrid", 0, "ops")]}, ["sendgrid", "`postman resume sendgrid`"]),
        ({"ledger": LedgerStatistics({State.HELD: 1})}, ["1 mail is held", "postman mail --state held"]),
        ({"ledger": LedgerStatistics({State.HELD: 2})}, ["2 mails are held"]),
        ({"ledger": LedgerStatistics({}, oldest_due=400.0)}, ["waiting for 10 min", "`postman mail --state queued`"]),
        ({"ledger": LedgerStatistics({}, troubles=("The store has forgotten.",))}, ["The store has forgotten."]),
        ({"queue": QueueStatistics((0, 0, 0), 0, 0, 3)}, ["3 notes", "is damaged there", "`buried`", "delete them"]),
        ({"queue": QueueStatistics((0, 0, 0), 0, 0, 0, ("The queue b is down",))}, ["The queue b is down"]),
        ({"troubles": ["The reload failed: x."]}, ["The reload failed"]),
        (
            {"providers": [provider(breaker=opened(), again_in=25.0, last_fault="401 the key is wrong")]},
            ["sendgrid", "25 s", "401 the key is wrong"],
        ),
        (
            {"providers": [provider(breaker=opened(probe_delay=0), last_fault="401 the key is wrong")]},
            [
                "sendgrid",
                "until it takes one",
                "401 the key is wrong",
                "`postman check --live`",
                "`postman resume sendgrid`",
            ],
        ),
        ({"providers": [provider(bug="KeyError")]}, ["sendgrid", "KeyError", "`postman reload`", "replay --all"]),
        ({"providers": [provider(cooling=600.0)]}, ["sendgrid", "600 s", "limit", "`rate`"]),
    ],
)
def test_each_trouble_has_a_sentence_that_says_why(trouble: dict[str, Any], words: list[str]) -> None:
    (sentence,) = sentences(facts(**trouble))
    for word in words:
        assert word in sentence


def test_the_document_is_json_in_kebab_case() -> None:
    told = document(facts(ledger=LedgerStatistics({State.IN_DOUBT: 2}, oldest_due=990.0, doubled=1)))
    assert msgspec.json.decode(msgspec.json.encode(told)) == told
    assert told["mails"]["in-doubt"] == 2
    assert told["mails"]["doubled"] == 1
    assert told["oldest-due"] == 10.0
    assert told["providers"][0]["last-fault"] == ""
    assert told["providers"][0]["breaker"]["faults-in-a-row"] == 0
