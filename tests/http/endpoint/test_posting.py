"""Mails are posted: the wire, to the letter."""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import pytest
import trio
from quart import Response
from werkzeug.datastructures import Headers as WerkzeugHeaders

from postman.backends.memory.ledger import MemoryLedger
from postman.config import Http
from postman.errors import KeyReused, StoreFull, StoreUnavailable
from postman.ledger import Accepted, Call, Claim, Filter
from postman.mail import Id, Letter
from postman.row import State
from tests.http.endpoint.house import MAIL, House, open_house


async def test_the_ancestors_request_is_answered_to_the_letter(house: House) -> None:
    body = b"""[{"to":[{"email":"someone@example.com"}],"cc":[{"email":"other@example.com"}],"bcc":[],
        "from":{"email":"sender@example.com"},"subject":"a subject",
        "content":[{"type":"text/plain","value":"the text"},{"type":"text/html","value":"<b>the text</b>"}]},
        {"to":[{"email":"someone@example.com"}],"from":{"email":"sender@example.com"},"subject":"",
        "content":[{"type":"text/html","value":"<b>hello</b>"}]}]"""
    status, document, answer = await house.ask("POST", "/mail", body)
    assert status == HTTPStatus.ACCEPTED
    assert list(document) == ["queued", "tracking-ids"]
    assert document["queued"] is True
    assert all(len(id) == 18 and int(id, 16) for id in document["tracking-ids"])
    assert document["tracking-ids"] == sorted(document["tracking-ids"])
    assert answer.headers["Content-Type"] == "application/json"


async def test_an_accepted_mail_is_in_the_ledger_and_its_note_on_the_queue(house: House) -> None:
    [id] = await house.accepted()
    lease = await house.queue.take()
    assert lease.note is not None
    assert lease.note.id == id
    row = await house.ledger.read(Id(id), "local")
    assert row is not None
    assert row.state is State.QUEUED


async def test_a_body_takes_no_memory_while_its_mails_are_stored() -> None:
    taken: list[int] = []

    class Watched(MemoryLedger):
        async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
            taken.append(tracemalloc.get_traced_memory()[0])
            return await super().accept(letters, client, key, fingerprint)

    mail = {**MAIL, "content": [{"type": "text/plain", "value": "x" * 2_000_000}]}
    body = json.dumps([mail]).encode()
    async with open_house(ledger=Watched()) as house:
        tracemalloc.start()
        try:
            assert (await house.ask("POST", "/mail", body))[0] == HTTPStatus.ACCEPTED
        finally:
            tracemalloc.stop()
    assert 2_000_000 < taken[0] < 3_000_000, "the mail, and no more"


async def test_every_bad_place_of_a_request_is_named_and_nothing_is_accepted(house: House) -> None:
    wrong = {**MAIL, "to": [{"email": "nobody"}], "subjet": "x"}
    status, document, answer = await house.post(MAIL, wrong)
    assert status == HTTPStatus.BAD_REQUEST
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {error["path"] for error in document["errors"]} == {"[1].to[0].email", "[1].subjet"}
    assert await house.ledger.find(Filter(), None, 10) == []


async def test_fifty_requests_of_one_key_at_once_give_fifty_times_202_with_the_same_ids(house: House) -> None:
    answers: list[tuple[int, Any, Response]] = []

    async def post() -> None:
        answers.append(await house.post(MAIL, MAIL, headers={"Idempotency-Key": "order-1"}))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(post)
    assert [status for status, _, _ in answers] == [HTTPStatus.ACCEPTED] * 50
    assert len({tuple(document["tracking-ids"]) for _, document, _ in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for _, _, answer in answers) == 1
    assert len(await house.ledger.find(Filter(), None, 10)) == 2


async def test_a_key_that_came_with_another_body_is_422(house: House) -> None:
    await house.post(MAIL, headers={"Idempotency-Key": "k"})
    status, _, _ = await house.post({**MAIL, "subject": "other"}, headers={"Idempotency-Key": "k"})
    assert status == HTTPStatus.UNPROCESSABLE_ENTITY


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "\u00e4"])
async def test_an_idempotency_key_that_is_none_is_400(house: House, key: str) -> None:
    status, _, _ = await house.post(MAIL, headers={"Idempotency-Key": key})
    assert status == HTTPStatus.BAD_REQUEST


async def test_two_idempotency_keys_are_400(house: House) -> None:
    headers = WerkzeugHeaders(
        [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Content-Type", "application/json")]
    )
    answer = await house.app.test_client().post("/mail", data=json.dumps([MAIL]).encode(), headers=headers)
    assert answer.status_code == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "gzip, identity"},
        {"Content-Encoding": "br"},
    ],
)
async def test_a_body_that_is_not_plain_json_is_415(house: House, headers: dict[str, str]) -> None:
    status, _, _ = await house.ask("POST", "/mail", [MAIL], headers=headers)
    assert status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


async def test_a_body_over_the_bound_is_413() -> None:
    async with open_house(Http(max_body=1_024)) as house:
        fits = json.dumps([MAIL]).encode()
        assert (await house.ask("POST", "/mail", fits + b" " * (1_024 - len(fits))))[0] == HTTPStatus.ACCEPTED
        status, document, _ = await house.ask("POST", "/mail", fits + b" " * (1_025 - len(fits)))
        assert status == HTTPStatus.CONTENT_TOO_LARGE
        assert document["status"] == HTTPStatus.CONTENT_TOO_LARGE


async def test_a_draining_house_accepts_nothing_and_says_when_to_ask_again(house: House) -> None:
    house.office.reason = "the service is stopping"
    status, document, answer = await house.post(MAIL)
    assert status == HTTPStatus.SERVICE_UNAVAILABLE
    assert "the service is stopping" in document["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Connection"] == "close"
    assert (await house.ask("GET", "/health/ready"))[0] == HTTPStatus.SERVICE_UNAVAILABLE
    assert (await house.ask("GET", "/health/live"))[0] == HTTPStatus.OK


class FailingLedger(MemoryLedger):
    """Raises `error` at the next accept."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreUnavailable("no answer from 10.0.0.7"), HTTPStatus.SERVICE_UNAVAILABLE),
        (StoreFull("full"), HTTPStatus.SERVICE_UNAVAILABLE),
        (KeyReused("reused"), HTTPStatus.UNPROCESSABLE_ENTITY),
        (RuntimeError("secret at 10.0.0.7"), HTTPStatus.INTERNAL_SERVER_ERROR),
        (MemoryError(), HTTPStatus.INTERNAL_SERVER_ERROR),
        (RecursionError(), HTTPStatus.INTERNAL_SERVER_ERROR),
        (ExceptionGroup("of 10.0.0.7", [ValueError("10.0.0.7")]), HTTPStatus.INTERNAL_SERVER_ERROR),
        (ExceptionGroup("one", [StoreUnavailable("10.0.0.7")]), HTTPStatus.SERVICE_UNAVAILABLE),
    ],
)
async def test_what_the_ledger_raises_becomes_a_problem_that_tells_nothing_of_our_insides(
    error: Exception, status: HTTPStatus
) -> None:
    async with open_house(ledger=FailingLedger(error)) as house:
        got, document, answer = await house.post(MAIL)
        assert got == status
        assert document["title"] == status.phrase
        assert "10.0.0.7" not in json.dumps(document)
        assert ("Retry-After" in answer.headers) == (status == HTTPStatus.SERVICE_UNAVAILABLE)


@pytest.mark.parametrize("path", ["/mails", "/health//live", "/mail/", "/mail/a/b/c", "/static/x"])
async def test_an_unknown_path_is_404(house: House, path: str) -> None:
    status, document, _ = await house.ask("GET", path)
    assert status == HTTPStatus.NOT_FOUND
    assert document["status"] == HTTPStatus.NOT_FOUND


async def test_a_wrong_method_is_405_and_told_the_right_ones(house: House) -> None:
    status, _, answer = await house.ask("PUT", "/mail")
    assert status == HTTPStatus.METHOD_NOT_ALLOWED
    assert "POST" in answer.headers["Allow"]


async def test_an_attachment_arrives_as_its_bytes(house: House) -> None:
    file = {"filename": "a.bin", "type": "Application/X", "content": base64.b64encode(bytes(range(256))).decode()}
    [id] = await house.accepted({**MAIL, "attachments": [file]})
    claim = await house.ledger.claim(Id(id), [Call("lamda", "", 30)])
    assert isinstance(claim, Claim)
    [attachment] = claim.letter.mail.attachments
    assert attachment.content == bytes(range(256))
    assert attachment.type == "application/x"
