"""What became of mails, what a person does about them, and about the house."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest
from structlog.testing import capture_logs

from postman.backends.memory.ledger import MemoryLedger
from postman.errors import DamagedRow
from postman.ledger import Filter
from postman.mail import Id
from postman.provider import Receipt
from postman.row import EndKind, Row, State
from tests.http.endpoint.house import MAIL, House, open_house


async def test_a_letter_is_told_without_its_subject_and_body(house: House) -> None:
    [id] = await house.accepted()
    status, document, _ = await house.ask("GET", f"/mail/{id}")
    assert status == HTTPStatus.OK
    assert document["tracking-id"] == id
    assert document["state"] == "queued"
    assert [entry["reason"] for entry in document["history"]] == ["accepted"]
    assert "Your order" not in json.dumps(document)
    assert "on its way" not in json.dumps(document)


@pytest.mark.parametrize("id", ["0x0000000000000000", "0x1", "1", "0xGGGGGGGGGGGGGGGG", "0x" + "f" * 16, "..", "%00"])
async def test_an_id_that_never_was_is_404(house: House, id: str) -> None:
    for method in ("GET", "DELETE"):
        assert (await house.ask(method, f"/mail/{id}"))[0] == HTTPStatus.NOT_FOUND


async def test_what_is_no_id_is_told_with_one_to_compare(house: House) -> None:
    detail = (await house.ask("GET", "/mail/bogus"))[1]["detail"]
    assert detail == "This is no tracking id; they look like 0x6882f4a1c0001000."


async def test_a_letter_that_is_damaged_is_not_told_as_one_that_never_was() -> None:
    class Damaged(MemoryLedger):
        async def read(self, id: Id, client: str | None) -> Row | None:
            raise DamagedRow(f"what the ledger has of {id} is damaged")

    async with open_house(ledger=Damaged()) as house:
        [id] = await house.accepted()
        status, document, _ = await house.ask("GET", f"/mail/{id}")
        assert status == HTTPStatus.INTERNAL_SERVER_ERROR
        assert "is damaged" in document["detail"]


async def test_a_queued_letter_is_cancelled_and_again_without_harm(house: House) -> None:
    [id] = await house.accepted()
    for _ in range(2):
        status, document, _ = await house.ask("DELETE", f"/mail/{id}")
        assert (status, document["state"]) == (HTTPStatus.OK, "cancelled")


async def test_an_end_that_a_person_makes_is_logged_once(house: House) -> None:
    one, two = await house.accepted(), await house.accepted()
    with capture_logs() as lines:
        for _ in range(2):
            await house.ask("DELETE", f"/mail/{one[0]}")
            await house.ask("POST", "/mail/discard", json.dumps({"ids": two}).encode())
    assert [line["id"] for line in lines if line["event"] == State.CANCELLED] == [*one, *two]


async def test_a_sent_letter_cannot_be_cancelled_and_the_answer_says_its_state(house: House) -> None:
    [id] = await house.accepted()
    await house.end(id, EndKind.ACCEPTED, Receipt("m-1"))
    status, document, _ = await house.ask("DELETE", f"/mail/{id}")
    assert (status, document["state"]) == (HTTPStatus.CONFLICT, "sent")


@pytest.mark.parametrize(
    ("verb", "state"), [("release", "queued"), ("discard", "cancelled"), ("settle", "sent"), ("replay", None)]
)
async def test_a_person_acts_on_a_held_letter(house: House, verb: str, state: str | None) -> None:
    id = await house.held()
    status, document, _ = await house.ask("POST", f"/mail/{id}/{verb}")
    if state is None:
        assert (status, document["state"]) == (HTTPStatus.CONFLICT, "held")
    else:
        assert (status, document["state"]) == (HTTPStatus.OK, state)
        assert "by local" in document["history"][-1]["reason"]
    assert house.office.woken == ([id] if state == "queued" else [])


async def test_a_rejected_letter_is_replayed(house: House) -> None:
    [id] = await house.accepted()
    await house.end(id, EndKind.REJECTED)
    status, document, _ = await house.ask("POST", f"/mail/{id}/replay")
    assert (status, document["state"]) == (HTTPStatus.OK, "queued")
    assert house.office.woken == [id]


async def test_letters_are_found_by_state_time_recipient_and_tag(house: House) -> None:
    [tagged] = await house.accepted({**MAIL, "tags": ["news"]})
    [other] = await house.accepted({**MAIL, "to": [{"email": "Bob@Example.com"}]})
    await house.ask("DELETE", f"/mail/{other}")

    async def found(query: str) -> list[str]:
        status, document, _ = await house.ask("GET", f"/mail?{query}")
        assert status == HTTPStatus.OK, document
        return [mail["tracking-id"] for mail in document["mails"]]

    assert await found("") == [other, tagged]
    assert await found("state=cancelled") == [other]
    assert await found("tag=news") == [tagged]
    assert await found("recipient=BOB@Example.com") == [other]
    assert await found("since=2100-01-01T00:00:00Z") == []
    assert await found("client=nobody") == []


async def test_a_long_list_is_read_page_by_page(house: House) -> None:
    ids = await house.accepted(*[MAIL] * 5)
    seen: list[str] = []
    query = "limit=2"
    while True:
        _, document, _ = await house.ask("GET", f"/mail?{query}")
        seen += [mail["tracking-id"] for mail in document["mails"]]
        if document["after"] is None:
            break
        query = f"limit=2&after={document['after']}"
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("state=lost", "state"),
        ("since=yesterday", "since"),
        ("since=2026-01-01T00:00:00", "since"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=%D9%A1", "limit"),
        ("after=1", "after"),
        ("tag=a%20b", "tag"),
        ("recipient=nobody", "recipient"),
        ("statte=held", "statte"),
        ("state=held&state=sent", "state"),
        ("tag=%ff", "tag"),
    ],
)
async def test_a_query_that_is_wrong_is_400_and_names_the_parameter(house: House, query: str, path: str) -> None:
    status, document, _ = await house.ask("GET", f"/mail?{query}")
    assert status == HTTPStatus.BAD_REQUEST
    assert [error["path"] for error in document["errors"]] == [path]


async def test_many_letters_are_released_by_their_ids(house: House) -> None:
    held, [queued] = await house.held(), await house.accepted()
    status, document, _ = await house.ask("POST", "/mail/release", {"ids": [held, queued, "0x" + "0" * 16]})
    assert status == HTTPStatus.OK
    assert document == {
        "done": [held],
        "refused": [{"tracking-id": queued, "state": "queued"}],
        "unknown": ["0x" + "0" * 16],
        "after": None,
    }
    assert house.office.woken == [held]


async def test_all_held_letters_are_released_by_a_filter(house: House) -> None:
    held = [await house.held() for _ in range(3)]
    await house.accepted()
    _, document, _ = await house.ask("POST", "/mail/release", {"state": "held"})
    assert sorted(document["done"]) == held
    assert document["refused"] == []
    assert document["after"] is None


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "state"),
        ({"state": "sent"}, "state"),
        ({"ids": []}, "ids"),
        ({"ids": ["x"]}, "ids[0]"),
        ({"ids": ["0x" + "0" * 16] * 501}, "ids"),
        ({"ids": ["0x" + "0" * 16], "state": "held"}, "state"),
        ([], ""),
        ("held", ""),
    ],
)
async def test_a_selection_that_is_wrong_is_400_and_changes_nothing(house: House, body: object, path: str) -> None:
    await house.held()
    status, document, _ = await house.ask("POST", "/mail/release", body)
    assert status == HTTPStatus.BAD_REQUEST
    assert path in {error["path"] for error in document["errors"]}
    assert len(await house.ledger.find(Filter(state=State.HELD), None, 10)) == 1


async def test_one_provider_or_all_are_paused_and_resumed(house: House) -> None:
    assert (await house.ask("POST", "/pause"))[1] == {"provider": "*", "paused": True, "changed": True}
    resumed = {"provider": "lamda", "paused": False, "changed": False}
    assert (await house.ask("POST", "/resume", {"provider": "lamda"}))[1] == resumed
    assert (await house.ask("POST", "/pause", {"provider": "nobody"}))[0] == HTTPStatus.NOT_FOUND
    assert (await house.ask("POST", "/pause", {"provider": 1}))[0] == HTTPStatus.BAD_REQUEST
    assert (await house.ask("POST", "/pause", {}, headers={"Content-Type": "text/plain"}))[
        0
    ] == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert house.office.asked == [("*", "local"), ("lamda", "local"), ("nobody", "local")]


async def test_a_reload_that_fails_is_409_and_says_why(house: House) -> None:
    assert (await house.ask("POST", "/reload"))[0] == HTTPStatus.OK
    house.office.broken = "postman.toml: [http]: unknown key"
    status, document, _ = await house.ask("POST", "/reload")
    assert (status, document["detail"]) == (HTTPStatus.CONFLICT, house.office.broken)


async def test_the_status_is_told(house: House) -> None:
    house.office.because = ["The disk is full."]
    assert (await house.ask("GET", "/status"))[1] == await house.office.status()
