"""The wire, to the letter, against the real application on a ledger and a queue in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from quart import Response
from structlog.testing import capture_logs
from werkzeug.datastructures import Headers as WerkzeugHeaders

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import MemoryQueue, memory_queue
from postman.config import Http, Key
from postman.endpoint import create_app
from postman.errors import ConfigError, KeyReused, StoreFull, StoreUnavailable
from postman.flake import Flake
from postman.intake import Intake
from postman.keyring import Keyring, NewKey, new_key
from postman.ledger import Accepted, Call, Claim, Filter
from postman.mail import Id, Letter
from postman.provider import Receipt
from postman.queue import Note
from postman.row import End, EndKind, Row, State, Verb

MAIL: dict[str, Any] = {
    "to": [{"email": "ann@example.com"}],
    "from": {"email": "shop@example.org"},
    "subject": "Your order",
    "content": [{"type": "text/plain", "value": "It is on its way."}],
}
Headers = Mapping[str, str]
NONE: Headers = {}


class HouseOffice:
    """An office that remembers what it was asked."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.queue = queue
        self.asked: list[tuple[str, str]] = []
        self.woken: list[Id] = []
        self.reason: str | None = None
        self.broken = ""

    async def status(self) -> dict[str, Any]:
        return {"well": True, "because": []}

    def unready(self) -> str | None:
        return self.reason

    async def pause(self, provider: str, who: str) -> bool | None:
        self.asked.append((provider, who))
        return {"*": True, "lamda": False}.get(provider)

    async def resume(self, provider: str, who: str) -> bool | None:
        return await self.pause(provider, who)

    async def reload(self) -> dict[str, Any]:
        if self.broken:
            raise ConfigError(self.broken)
        return {"kept": ["lamda"]}

    async def wake(self, rows: Sequence[Row]) -> None:
        self.woken += [row.id for row in rows]
        await self.queue.put([Note(row.id) for row in rows])


class House:
    """The way in with everything behind it."""

    def __init__(self, http: Http, queue: MemoryQueue, ledger: MemoryLedger) -> None:
        self.now = 0.0
        self.ledger = ledger
        self.queue = queue
        self.office = HouseOffice(queue)
        self.keyring = Keyring(http.key, batch=http.max_batch, clock=lambda: self.now)
        self.app = create_app(Intake(ledger, queue, Flake()), ledger, self.office, http, self.keyring)

    async def ask(
        self, method: str, path: str, body: object = None, *, key: NewKey | None = None, headers: Headers = NONE
    ) -> tuple[int, Any, Response]:
        """A request: the status, the document, the whole answer."""
        sent = dict(headers)
        if key:
            sent["Authorization"] = f"Bearer {key.token}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        client = self.app.test_client()
        answer = await client.open(path, method=method, data=data or b"", headers=sent)  # type: ignore[call-arg]  # `json` has a default
        raw = await answer.get_data(as_text=False)
        return answer.status_code, json.loads(raw) if raw and "json" in (answer.mimetype or "") else None, answer

    async def post(
        self, *mails: object, key: NewKey | None = None, headers: Headers = NONE
    ) -> tuple[int, Any, Response]:
        return await self.ask("POST", "/mail", list(mails), key=key, headers=headers)

    async def accepted(self, *mails: object, key: NewKey | None = None) -> list[str]:
        status, document, _ = await self.post(*mails or [MAIL], key=key)
        assert status == HTTPStatus.ACCEPTED, document
        ids: list[str] = document["tracking-ids"]
        return ids

    async def end(self, id: str, kind: EndKind, receipt: Receipt | None = None) -> None:
        """Let a provider call end so."""
        claim = await self.ledger.claim(Id(id), [Call("lamda", "", 30)])
        assert isinstance(claim, Claim)
        await self.ledger.finish(claim, End(kind, "because of the test", receipt=receipt))

    async def held(self) -> str:
        [id] = await self.accepted()
        await self.end(id, EndKind.UNKNOWN)
        overdue = await self.ledger.overdue(10)
        await self.ledger.act([row.id for row in overdue.doubtful], Verb.DECIDE, "clerk")
        return id


@asynccontextmanager
async def open_house(http: Http | None = None, ledger: MemoryLedger | None = None) -> AsyncGenerator[House]:
    async with memory_queue(60) as queue:
        yield House(http or Http(), queue, ledger or MemoryLedger())


@pytest.fixture
async def house() -> AsyncGenerator[House]:
    async with open_house() as house:
        yield house


def key_of(new: NewKey, name: str = "shop", **more: Any) -> Key:  # noqa: ANN401  # whatever a key may have
    return Key(name=name, sha256=new.toml.split('sha256 = "')[1][:64], **more)


# --- the ancestor's wire -------------------------------------------------------------------------------------------


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


async def test_every_bad_place_of_a_request_is_named_and_nothing_is_accepted(house: House) -> None:
    wrong = {**MAIL, "to": [{"email": "nobody"}], "subjet": "x"}
    status, document, answer = await house.post(MAIL, wrong)
    assert status == HTTPStatus.BAD_REQUEST
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {error["path"] for error in document["errors"]} == {"[1].to[0].email", "[1].subjet"}
    assert await house.ledger.find(Filter(), None, 10) == []


# --- idempotency ---------------------------------------------------------------------------------------------------


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


# --- refusals ------------------------------------------------------------------------------------------------------


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


# --- one letter ----------------------------------------------------------------------------------------------------


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
    assert detail == "'bogus' is no tracking id; they look like 0x6882f4a1c0001000."


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


# --- many letters --------------------------------------------------------------------------------------------------


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


# --- the house -----------------------------------------------------------------------------------------------------


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
    assert (await house.ask("GET", "/status"))[1] == {"well": True, "because": []}


# --- keys ----------------------------------------------------------------------------------------------------------

SHOP, BANK, READER, ADMIN = (new_key(name) for name in ("shop", "bank", "reader", "ops"))
KEYS = Http(
    max_batch=3,
    key=(
        key_of(SHOP, "shop", from_=frozenset({"example.org", "xn--mnchen-3ya.example"}), rate=2.0),
        key_of(BANK, "bank"),
        key_of(READER, "shop", scopes=frozenset({"read"})),
        key_of(ADMIN, "ops", scopes=frozenset({"admin"})),
    ),
)

# What each route answers: without a key, to a key that may only read, to shop, to bank (another client), to admin.
# `{id}` is a queued letter of shop's.
MATRIX = {
    ("POST", "/mail"): (401, 403, 202, 202, 202),
    ("GET", "/mail"): (401, 200, 200, 200, 200),
    ("GET", "/mail/<id>"): (401, 200, 200, 404, 200),
    ("DELETE", "/mail/<id>"): (401, 403, 200, 404, 200),
    ("POST", "/mail/<id>/release"): (401, 403, 403, 403, 409),
    ("POST", "/mail/<id>/discard"): (401, 403, 403, 403, 200),
    ("POST", "/mail/<id>/settle"): (401, 403, 403, 403, 409),
    ("POST", "/mail/<id>/replay"): (401, 403, 403, 403, 409),
    ("POST", "/mail/release"): (401, 403, 403, 403, 200),
    ("POST", "/mail/discard"): (401, 403, 403, 403, 200),
    ("POST", "/mail/settle"): (401, 403, 403, 403, 200),
    ("POST", "/mail/replay"): (401, 403, 403, 403, 200),
    ("POST", "/pause"): (401, 403, 403, 403, 200),
    ("POST", "/resume"): (401, 403, 403, 403, 200),
    ("POST", "/reload"): (401, 403, 403, 403, 200),
    ("GET", "/status"): (401, 200, 200, 200, 200),
    ("GET", "/"): (200, 200, 200, 200, 200),
    ("GET", "/health/live"): (200, 200, 200, 200, 200),
    ("GET", "/health/ready"): (200, 200, 200, 200, 200),
}


async def test_every_route_stands_in_the_matrix(house: House) -> None:
    routes = {
        (method, rule.rule) for rule in house.app.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD"}
    }
    assert routes == set(MATRIX)


@pytest.mark.parametrize(("method", "path"), MATRIX)
async def test_each_route_answers_each_client_as_the_matrix_says(method: str, path: str) -> None:
    for who, expected in zip((None, READER, SHOP, BANK, ADMIN), MATRIX[method, path], strict=True):
        async with open_house(KEYS) as house:
            [id] = await house.accepted(key=SHOP)
            body: Any = [MAIL] if path == "/mail" else {"ids": [id]} if path.count("/") == 2 else None
            status, document, _ = await house.ask(
                method, path.replace("<id>", id), body if method == "POST" else None, key=who
            )
            assert status == expected, (who, document)


async def test_a_key_that_has_expired_is_refused_and_says_so() -> None:
    expired = key_of(SHOP, expires=datetime(2026, 1, 1, tzinfo=UTC))
    async with open_house(Http(key=(expired, key_of(ADMIN, "ops")))) as house:
        status, document, _ = await house.ask("GET", "/status", key=SHOP)
    assert status == HTTPStatus.UNAUTHORIZED
    assert document["detail"].startswith("This key has expired, at 2026-01-01")


async def test_the_page_runs_its_own_script_alone_and_holds_no_data() -> None:
    async with open_house(KEYS) as house:
        [id] = await house.accepted(key=SHOP)
        _, _, answer = await house.ask("GET", "/")
        html = await answer.get_data(as_text=True)
        assert answer.mimetype == "text/html"
        assert id not in html
        assert not re.search(r"https?://|innerHTML|\son\w+=", html)
        rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split(";"))
        assert rules["default-src"] == "'none'"
        script = re.findall("<script>(.*?)</script>", html, re.DOTALL)
        (digest,) = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in script]
        assert rules["script-src"] == f"'sha256-{digest}'"


async def test_another_clients_letter_and_one_that_never_was_are_told_alike() -> None:
    async with open_house(KEYS) as house:
        [id] = await house.accepted(key=SHOP)
        for method in ("GET", "DELETE"):
            other = await house.ask(method, f"/mail/{id}", key=BANK)
            never = await house.ask(method, "/mail/0x0000000000000001", key=BANK)
            assert other[:2] == never[:2]
            assert dict(other[2].headers) == dict(never[2].headers)


async def test_a_client_lists_only_its_own_letters_and_admin_all() -> None:
    async with open_house(KEYS) as house:
        [ours] = await house.accepted(key=SHOP)
        [theirs] = await house.accepted(key=BANK)

        async def found(key: NewKey, query: str = "") -> list[str]:
            _, document, _ = await house.ask("GET", f"/mail{query}", key=key)
            return [mail["tracking-id"] for mail in document["mails"]]

        assert await found(SHOP) == await found(READER) == [ours]
        assert await found(BANK, "?client=shop") == [theirs]
        assert await found(ADMIN) == [theirs, ours]
        assert await found(ADMIN, "?client=shop") == [ours]


async def test_idempotency_keys_of_two_clients_do_not_meet() -> None:
    async with open_house(KEYS) as house:
        for key in (SHOP, BANK):
            status, _, answer = await house.post(MAIL, key=key, headers={"Idempotency-Key": "1"})
            assert status == HTTPStatus.ACCEPTED
            assert "Idempotency-Replayed" not in answer.headers


async def test_a_key_sends_only_from_its_domains() -> None:
    async with open_house(KEYS) as house:
        stranger = {**MAIL, "from": {"email": "shop@example.net"}}
        below = {**MAIL, "from": {"email": "shop@mail.example.org"}}
        status, document, _ = await house.post(MAIL, stranger, below, key=SHOP)
        assert status == HTTPStatus.FORBIDDEN
        assert [error["path"] for error in document["errors"]] == ["[1].from.email", "[2].from.email"]
        assert (await house.post(stranger, key=BANK))[0] == HTTPStatus.ACCEPTED
        german = {**MAIL, "from": {"email": "shop@xn--mnchen-3ya.example"}}
        assert (await house.post(german, key=SHOP))[0] == HTTPStatus.ACCEPTED


async def test_the_rate_counts_mails_and_says_when_to_come_back() -> None:
    async with open_house(KEYS) as house:
        assert (await house.post(MAIL, MAIL, MAIL, key=SHOP))[0] == HTTPStatus.ACCEPTED
        status, _, answer = await house.post(MAIL, MAIL, MAIL, key=SHOP)
        assert status == HTTPStatus.TOO_MANY_REQUESTS
        assert answer.headers["Retry-After"] == "2"  # three mails at two a second
        assert (await house.post(MAIL, key=BANK))[0] == HTTPStatus.ACCEPTED
        house.now += 1.5
        assert (await house.post(MAIL, MAIL, MAIL, key=SHOP))[0] == HTTPStatus.ACCEPTED


async def test_a_key_that_was_taken_away_is_refused_at_once() -> None:
    async with open_house(KEYS) as house:
        await house.accepted(key=SHOP)
        house.keyring.replace(KEYS.key[1:])
        assert (await house.post(MAIL, key=SHOP))[0] == HTTPStatus.UNAUTHORIZED


async def test_two_authorizations_are_none() -> None:
    async with open_house(KEYS) as house:
        bearer = ("Authorization", f"Bearer {ADMIN.token}")
        answer = await house.app.test_client().get("/status", headers=WerkzeugHeaders([bearer, bearer]))
        assert answer.status_code == HTTPStatus.UNAUTHORIZED
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Host": "10.0.0.1:80"}]
)
async def test_without_keys_a_web_page_cannot_ask(house: House, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/mail"), ("POST", "/pause"), ("POST", "/mail")):
        assert (await house.ask(method, path, headers=headers))[0] == HTTPStatus.FORBIDDEN
    assert house.office.asked == []


# --- never a 500 ---------------------------------------------------------------------------------------------------

POISON = [
    b'[{"to":[{"email":"a@b.com"}],"from":{"email":"a@b.com"},"subject":"\\ud800","content":[{"type":"text/plain","value":"x"}]}]',
    b'[{"to":[{"email":"a@b.com"}],"from":{"email":"a@b.com"},"subject":"","content":[{"type":"text/plain","value":"\\udfff"}]}]',
    b'[{"\\ud800":1}]',
    b"[" * 200_000,
    b"[" * 200_000 + b"]" * 200_000,
    b'{"a":' * 200_000,
    b"[NaN]",
    b"[Infinity]",
    b"[-Infinity]",
    b'[{"subject":"a","subject":"b"}]',
    b"[" + b"9" * 5_000 + b"]",
    b"[1e999999]",
    b"[-0]",
    b"",
    b"null",
    b"[null]",
    b"[[]]",
    b"[{}]",
    b"\xff\xfe[\x00]\x00",
    b"\xef\xbb\xbf[]",
    b'["\x00"]',
    b"[" + b"{}," * 100_000 + b"{}]",
    b"[" + b"0," * 1_000_000 + b"0]",
]


@pytest.mark.parametrize("body", POISON, ids=range(len(POISON)))
async def test_poison_is_400(house: House, body: bytes) -> None:
    status, document, _ = await house.ask("POST", "/mail", body)
    assert status == HTTPStatus.BAD_REQUEST
    assert document["errors"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
NAMES = st.sampled_from([*MAIL, "email", "type", "value", "headers", "tags"]) | st.text(max_size=5)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
HEADER_NAMES = st.sampled_from(["X-A", "To", "x-a", "List-Id"]) | st.text(max_size=4)
FILE_FIELDS = st.sampled_from(["filename", "type", "content"])
ODD_MAILS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            **{name: JSON_VALUES | st.just(value) for name, value in MAIL.items()},
            "cc": JSON_VALUES,
            "headers": st.dictionaries(HEADER_NAMES, JSON_VALUES),
            "attachments": st.lists(st.dictionaries(FILE_FIELDS, JSON_VALUES), max_size=2),
            "send-at": st.datetimes().map(str) | JSON_VALUES,
            "expires-at": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
            "metadata": JSON_VALUES,
        },
    ),
    max_size=3,
)
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(JSON_VALUES | ODD_MAILS)
@example([{**MAIL, "attachments": [{"filename": "a", "type": "a/b", "content": "ä"}]}])
@example([{**MAIL, "send-at": "9999-12-31T23:59:59-23:59"}])
async def test_no_json_gives_a_500(value: object) -> None:
    async with open_house() as house:
        status, _, _ = await house.ask("POST", "/mail", json.dumps(value).encode())
        assert status in {HTTPStatus.ACCEPTED, HTTPStatus.BAD_REQUEST}


@QUICK
@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda raw: b'[{"to":"' + raw + b'"}]'))
async def test_no_bytes_give_a_500_on_any_route_that_reads_a_body(raw: bytes) -> None:
    async with open_house() as house:
        for path in ("/mail", "/mail/release", "/pause"):
            status, _, _ = await house.ask("POST", path, raw)
            assert status in {HTTPStatus.BAD_REQUEST, HTTPStatus.OK if raw == b"" else HTTPStatus.BAD_REQUEST}


@QUICK
@given(st.text(max_size=30))
async def test_no_query_gives_a_500(text: str) -> None:
    async with open_house() as house:
        answer = await house.app.test_client().get(
            "/mail", query_string={"tag": text, "state": text, text or "x": text}
        )
        assert answer.status_code == HTTPStatus.BAD_REQUEST


async def test_an_attachment_arrives_as_its_bytes(house: House) -> None:
    file = {"filename": "a.bin", "type": "Application/X", "content": base64.b64encode(bytes(range(256))).decode()}
    [id] = await house.accepted({**MAIL, "attachments": [file]})
    claim = await house.ledger.claim(Id(id), [Call("lamda", "", 30)])
    assert isinstance(claim, Claim)
    [attachment] = claim.letter.mail.attachments
    assert attachment.content == bytes(range(256))
    assert attachment.type == "application/x"
