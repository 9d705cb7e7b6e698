from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from postman.errors import ConfigError
from postman.kind import Surroundings
from postman.mail import Address, Attachment, Content
from postman.provider import (
    LiveCheck,
    MailRefused,
    MailRejected,
    OutcomeUnknown,
    Provider,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    Receipt,
)
from postman.secret import Secret
from postman.testing import acts
from postman.testing.check_provider import PROVIDER_CHECKS, Check, Subject
from postman.testing.fault_server import Act, FaultServer, open_fault_server
from postman.testing.letters import LETTERS, a_letter
from postman.wire import Answer, ClientFactory
from postman_plugin_sendgrid import SendGrid, Settings, account, payload, postman_register, receipt

KEY = "SG.key-id-0123456789abcd.this-part-is-the-secret"


def open_sendgrid(base_url: str, client: ClientFactory) -> AbstractAsyncContextManager[SendGrid]:
    settings = Settings(api_key=Secret(KEY), base_url=base_url)
    return postman_register().open(settings, Surroundings("sendgrid", 4, 5.0, client))


SUBJECT = Subject(
    open=open_sendgrid,
    success=acts.answer(202, {"X-Message-Id": "ymM9q"}),
    message_id="ymM9q",
    statuses={400: MailRefused},
    unreadable=(acts.answer(200, body=b"<html>hello</html>"), acts.answer(204), acts.answer(201, body=b"{}")),
)


@pytest.mark.parametrize("check", PROVIDER_CHECKS, ids=lambda check: check.__name__)
async def test_it_does_what_every_provider_must(check: Check) -> None:
    await check(SUBJECT)


# What is sent


def test_a_letter_is_said_as_sendgrid_wants_it() -> None:
    letter = a_letter(
        7,
        to=(Address(email="ann@example.org", name="Ann"),),
        cc=(Address(email="cc@example.org"),),
        bcc=(Address(email="bcc@example.org"),),
        reply_to=(Address(email="help@example.com", name="Help, please"),),
        content=(Content(type="text/plain", value="hi"), Content(type="text/html", value="<b>hi</b>")),
        attachments=(
            Attachment(filename="a.png", type="image/png", content=b"\x89", disposition="inline", content_id="logo"),
        ),
        headers={"X-Campaign": "autumn"},
        tags=("order", "order", "eu"),
        metadata={"order": "4711"},
    )
    assert payload(letter) == {
        "personalizations": [
            {
                "to": [{"email": "ann@example.org", "name": "Ann"}],
                "cc": [{"email": "cc@example.org"}],
                "bcc": [{"email": "bcc@example.org"}],
                "custom_args": {"order": "4711", "postman_id": "0x0000000000000007"},
            }
        ],
        "from": {"email": "shop@example.com"},
        "reply_to": {"email": "help@example.com", "name": "Help, please"},
        "subject": "Your order",
        "content": [{"type": "text/plain", "value": "hi"}, {"type": "text/html", "value": "<b>hi</b>"}],
        "attachments": [
            {
                "content": b"\x89",
                "type": "image/png",
                "filename": "a.png",
                "disposition": "inline",
                "content_id": "logo",
            }
        ],
        "headers": {"X-Campaign": "autumn", "X-Postman-Id": "0x0000000000000007"},
        "categories": ["order", "eu"],
    }


def test_several_reply_to_addresses_are_a_list() -> None:
    said = payload(LETTERS["several reply-to"])
    assert "reply_to" not in said
    assert [address["email"] for address in said["reply_to_list"]] == ["help@example.com", "b@example.com"]


def test_names_of_recipients_lose_their_commas_and_semicolons_and_nothing_else() -> None:
    [personalization] = payload(LETTERS["names with commas and quotes"])["personalizations"]
    assert [a["name"] for a in personalization["to"]] == ['Smith Ann "Annie" PhD', "O'Neil \\ Bob (sales) <x>"]


def test_an_address_that_comes_twice_stays_where_it_came_first() -> None:
    twice = Address(email="Ann@example.org")
    [personalization] = payload(a_letter(cc=(twice, Address(email="cc@example.org")), bcc=(twice,)))["personalizations"]
    assert personalization["cc"] == [{"email": "cc@example.org"}]
    assert "bcc" not in personalization


def test_what_may_not_be_empty_becomes_a_space() -> None:
    assert payload(LETTERS["empty subject"])["subject"] == " "
    assert payload(LETTERS["empty body"])["content"] == [{"type": "text/plain", "value": " "}]


@pytest.mark.parametrize("name", ["X-SMTPAPI", "x-sg-eid", "X-Postman-Id"])
def test_no_header_of_a_client_gives_orders_to_sendgrid(name: str) -> None:
    letter = a_letter(headers={name: "{}"})
    assert payload(letter)["headers"] == {"X-Postman-Id": letter.id}


@pytest.mark.parametrize(
    "fields",
    [
        {"to": tuple(Address(email=f"r{n}@example.org") for n in range(1_001))},
        {"attachments": (Attachment(filename="a", type="text/plain", content=b""),)},
        {"attachments": (Attachment(filename="a", type="text/plain", content=bytes(24_000_000)),)},
    ],
    ids=["recipients", "empty file", "size"],
)
def test_what_sendgrid_cannot_carry_is_refused_before_it_is_asked(fields: dict[str, Any]) -> None:
    with pytest.raises(MailRefused, match="SendGrid takes"):
        payload(a_letter(**fields))


# What is answered


def answer(status: int, *errors: dict[str, object], **headers: str) -> Answer:
    return Answer(status, headers, json.dumps({"errors": list(errors)}).encode())


def test_an_accepted_mail_without_an_id_is_accepted() -> None:
    assert receipt(Answer(202, {}, b"")) == Receipt(None)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (answer(400, {"field": "personalizations.0.to.0.email", "message": "Not a valid address."}), MailRejected),
        (answer(400, {"field": "personalizations.0.bcc.11.email", "message": "Invalid"}), MailRejected),
        (answer(400, {"field": "from.email", "message": "Not a valid address."}), MailRejected),
        (answer(400, {"field": "reply_to_list.1.email", "message": "Invalid"}), MailRejected),
        (answer(400, {"field": None, "message": "Bad Request"}), MailRefused),
        (answer(400, {"field": "categories", "message": "Too many"}), MailRefused),
        (Answer(400, {}, b"\xff"), MailRefused),
        (answer(401, {"message": "The authorization grant is revoked"}), ProviderMisconfigured),
        (answer(401, {"message": "Maximum credits exceeded"}), ProviderMisconfigured),
        (answer(403, {"message": "The from address does not match a verified Sender Identity."}), MailRefused),
        (answer(403, {"message": "access forbidden"}), ProviderMisconfigured),
        (answer(413, {"message": "The payload is too large"}), MailRefused),
        (answer(500, {"message": "oh"}), OutcomeUnknown),
        (answer(503, {"message": "oh"}), ProviderUnavailable),
    ],
)
def test_a_refusal_has_the_outcome_that_sendgrid_means(said: Answer, outcome: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as caught:
        receipt(said)
    assert type(caught.value) is outcome


def test_the_reason_is_what_sendgrid_said() -> None:
    with pytest.raises(MailRejected) as caught:
        receipt(answer(400, {"field": "from.email", "message": "x@example.com is wrong"}, {"message": "and more"}))
    assert caught.value.reason == (
        "the provider answered 400 Bad Request: from.email: (address) is wrong; and more"
    )  # fmt: skip


def test_a_limit_ends_when_sendgrid_says_so() -> None:
    with pytest.raises(ProviderUnavailable) as caught:
        receipt(Answer(429, {"x-ratelimit-reset": "99999999999"}, b""))
    assert caught.value.throttled
    assert caught.value.retry_after
    with pytest.raises(ProviderUnavailable) as caught:
        receipt(Answer(429, {"x-ratelimit-reset": "99999999999", "retry-after": "3"}, b""))
    assert caught.value.retry_after == 3


# Settings and the live check


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with open_fault_server(
        otherwise=acts.answer(200, body=b'{"scopes": ["mail.send", "alerts.read"]}')
    ) as server:
        yield server


async def test_the_live_check_asks_what_the_key_may_do(server: FaultServer) -> None:
    async with open_sendgrid(server.url, ClientFactory()) as sendgrid:
        assert isinstance(sendgrid, LiveCheck)
        assert await sendgrid.check() == "the key may send mail"
    [request] = server.requests
    assert (request.method, request.path, request.headers["authorization"]) == ("GET", "/v3/scopes", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        (acts.answer(200, body=b'{"scopes": ["alerts.read"]}'), ProviderMisconfigured),
        (acts.answer(401, body=b'{"errors": []}'), ProviderMisconfigured),
        (acts.answer(200, body=b"<html>"), OutcomeUnknown),
        (acts.reset_on_connect(), ProviderError),
    ],
)
async def test_the_live_check_fails_for_a_key_that_cannot_send(
    server: FaultServer, act: Act, outcome: type[ProviderError]
) -> None:
    server.script(act)
    async with open_sendgrid(server.url, ClientFactory()) as sendgrid:
        with pytest.raises(outcome):
            await sendgrid.check()


def test_the_account_names_the_key_without_its_secret() -> None:
    assert account(Settings(api_key=Secret(KEY))) == "https://api.sendgrid.com key-id-0123456789abcd"
    other = account(Settings(api_key=Secret("another shape")))
    assert "another" not in other
    assert other != account(Settings(api_key=Secret("yet another shape")))


def test_a_base_url_that_cannot_be_used_is_refused_with_the_settings() -> None:
    with pytest.raises(ConfigError, match="base-url"):
        Settings(api_key=Secret(KEY), base_url="https://user:pass@api.sendgrid.com")


async def test_it_is_a_provider() -> None:
    async with open_sendgrid("https://api.sendgrid.com", ClientFactory()) as sendgrid:
        provider: Provider = sendgrid
        assert provider
    kind = postman_register()
    assert (kind.name, kind.marks, kind.delivers) == ("sendgrid", True, True)
