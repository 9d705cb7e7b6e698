from __future__ import annotations

import email.headerregistry
import email.policy
import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
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
from postman.wire import Answer, ClientFactory, File
from postman_plugin_mailgun import Mailgun, Settings, account, payload, postman_register, receipt


def open_mailgun(base_url: str, client: ClientFactory) -> AbstractAsyncContextManager[Mailgun]:
    settings = Settings(api_key=Secret("the-key"), domain="mg.example.com", base_url=base_url)
    return postman_register().open(settings, Surroundings("mailgun", 4, 5.0, client))


SUBJECT = Subject(
    open=open_mailgun,
    success=acts.answer(200, body=b'{"id": "<1@mg.example.com>", "message": "Queued. Thank you."}'),
    message_id="<1@mg.example.com>",
    statuses={400: MailRefused},
    unreadable=(
        acts.answer(200, body=b"<html>hello</html>"),
        acts.answer(200, body=b'{"message": "Queued."}'),
        acts.answer(200, body=b'{"id": ""}'),
        acts.answer(200, body=b'{"id": 7}'),
        acts.answer(200, body=b"[" * 100_000),
        acts.answer(204),
        acts.truncated(200),
    ),
)


@pytest.mark.parametrize("check", PROVIDER_CHECKS, ids=lambda check: check.__name__)
async def test_it_does_what_every_provider_must(check: Check) -> None:
    await check(SUBJECT)


# What is sent


def test_a_letter_is_said_as_mailgun_wants_it() -> None:
    letter = a_letter(
        7,
        to=(Address(email="ann@example.org", name="Ann"), Address(email="bob@example.org")),
        cc=(Address(email="cc@example.org"),),
        bcc=(Address(email="bcc@example.org"),),
        reply_to=(Address(email="help@example.com", name="Help, please"), Address(email="b@example.com")),
        content=(Content(type="text/plain", value="hi"), Content(type="text/html", value="<b>hi</b>")),
        attachments=(
            Attachment(filename="a.png", type="image/png", content=b"\x89", disposition="inline", content_id="logo"),
            Attachment(filename="b.png", type="image/png", content=b"b", disposition="inline"),
            Attachment(filename="bill.pdf", type="application/pdf", content=b"%PDF", content_id="x"),
        ),
        headers={"X-Campaign": "autumn"},
        tags=("order", "order", "eu"),
        metadata={"order": "4711"},
    )
    form, files = payload(letter)
    assert form == [
        ("from", "shop@example.com"),
        ("to", "Ann <ann@example.org>"),
        ("to", "bob@example.org"),
        ("cc", "cc@example.org"),
        ("bcc", "bcc@example.org"),
        ("subject", "Your order"),
        ("text", "hi"),
        ("html", "<b>hi</b>"),
        ("h:Reply-To", '"Help, please" <help@example.com>, b@example.com'),
        ("h:X-Campaign", "autumn"),
        ("h:Message-Id", "<0x0000000000000007@example.com>"),
        ("h:X-Postman-Id", "0x0000000000000007"),
        ("v:order", "4711"),
        ("v:postman_id", "0x0000000000000007"),
        ("o:suppress-headers", "X-Mailgun-Variables"),
        ("o:tag", "order"),
        ("o:tag", "eu"),
    ]
    assert files == [
        File(field="inline", filename="logo", type="image/png", content=b"\x89"),
        File(field="inline", filename="b.png", type="image/png", content=b"b"),
        File(field="attachment", filename="bill.pdf", type="application/pdf", content=b"%PDF"),
    ]


def test_a_name_with_commas_and_quotes_stays_one_mailbox() -> None:
    letter = LETTERS["names with commas and quotes"]
    registry = email.headerregistry.HeaderRegistry()
    read: list[email.headerregistry.Address] = []
    for value in [value for name, value in payload(letter)[0] if name == "to"]:
        header = registry("to", value)
        assert isinstance(header, email.headerregistry.AddressHeader)
        read += header.addresses
    assert [(a.display_name, a.addr_spec) for a in read] == [(a.name, a.email) for a in letter.mail.to]


def test_the_first_three_tags_are_sent() -> None:
    assert [value for name, value in payload(LETTERS["tags"])[0] if name == "o:tag"] == ["order", "eu", "a:b.c-d_e"]


@pytest.mark.parametrize("name", ["X-Mailgun-Variables", "x-mailgun-sending-ip", "X-Postman-Id"])
def test_no_header_of_a_client_gives_orders_to_mailgun(name: str) -> None:
    assert f"h:{name}" not in {field for field, value in payload(a_letter(headers={name: "no"}))[0] if value == "no"}


@pytest.mark.parametrize(
    "fields",
    [
        {"to": tuple(Address(email=f"r{n}@example.org") for n in range(1_001))},
        {"attachments": (Attachment(filename="a", type="text/plain", content=bytes(26_214_401)),)},
        {"headers": {"X-Long": 16_384 * "x"}},
    ],
    ids=["recipients", "size", "headers"],
)
def test_what_mailgun_cannot_carry_is_refused_before_it_is_asked(fields: dict[str, Any]) -> None:
    with pytest.raises(MailRefused, match="Mailgun takes"):
        payload(a_letter(**fields))


# What is answered


def answer(status: int, message: str) -> Answer:
    return Answer(status, {}, json.dumps({"message": message}).encode())


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (answer(400, "'to' parameter is not a valid address. please check documentation"), MailRejected),
        (answer(400, "Domain mg.example.com is not allowed to send: the account is disabled"), ProviderMisconfigured),
        (
            answer(400, "Domain sandbox is not allowed to send: Please add the address to authorized recipients"),
            MailRefused,
        ),
        (answer(400, "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters"), MailRefused),
        (Answer(400, {}, b"\xff"), MailRefused),
        (Answer(401, {}, b"Forbidden"), ProviderMisconfigured),
        (answer(402, "parameters were valid but the request failed"), ProviderMisconfigured),
        (answer(403, "You are not allowed to send large batches yet"), MailRefused),
        (answer(403, "This IP cannot be used"), ProviderMisconfigured),
        (answer(404, "Domain not found: mg.example.com"), ProviderMisconfigured),
        (answer(413, "Request Entity Too Large"), MailRefused),
        (answer(500, "oh"), OutcomeUnknown),
        (answer(503, "oh"), ProviderUnavailable),
        (Answer(200, {}, b"Mailgun Magnificent API"), ProviderMisconfigured),
    ],
)
def test_a_refusal_has_the_outcome_that_mailgun_means(said: Answer, outcome: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as caught:
        receipt(said)
    assert type(caught.value) is outcome


def test_the_receipt_has_mailguns_id() -> None:
    assert receipt(Answer(200, {}, b'{"id": "<1@a>", "message": "Queued. Thank you."}')) == Receipt("<1@a>")


def wait(said: str) -> float | None:
    with pytest.raises(ProviderUnavailable) as caught:
        receipt(answer(429, said))
    assert caught.value.throttled
    return caught.value.retry_after


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("limit exceeded, try again after 120 seconds", 120),
        ("try again after Mon, 20 Dec 2021 20:33:21 UTC", 0),
        ("try again after Mon, never GMT", None),
        ("too fast", None),
    ],
)
def test_the_wait_that_mailgun_asks_for_is_heard(said: str, seconds: float | None) -> None:
    assert wait(said) == seconds


def test_mailgun_may_say_when_the_wait_ends() -> None:
    then = time.gmtime(time.time() + 100)
    assert 90 <= (wait(f"try again after {time.strftime('%a, %d %b %Y %H:%M:%S UTC', then)}") or 0) <= 100


# Settings and the live check


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with open_fault_server(otherwise=acts.answer(200, body=b'{"domain": {"state": "active"}}')) as server:
        yield server


async def test_the_live_check_looks_at_the_domain(server: FaultServer) -> None:
    async with open_mailgun(server.url, ClientFactory()) as mailgun:
        assert isinstance(mailgun, LiveCheck)
        assert await mailgun.check() == "the key may see the domain mg.example.com, which can send"
    [request] = server.requests
    assert (request.method, request.path) == ("GET", "/v3/domains/mg.example.com")
    assert request.headers["authorization"] == "Basic YXBpOnRoZS1rZXk="


async def test_the_live_check_tries_a_sending_key_on_an_empty_mail(server: FaultServer) -> None:
    server.script(
        acts.answer(401, body=b"Forbidden"), acts.answer(400, body=b'{"message": "from parameter is missing"}')
    )
    async with open_mailgun(server.url, ClientFactory()) as mailgun:
        assert await mailgun.check() == "the key may send for the domain mg.example.com"
    assert server.requests[1].path == "/v3/mg.example.com/messages"
    assert b'name="to"' not in server.requests[1].body


@pytest.mark.parametrize(
    "answers",
    [
        [acts.answer(200, body=b'{"domain": {"state": "unverified"}}')],
        [acts.answer(401, body=b"Forbidden"), acts.answer(401, body=b"Forbidden")],
        [acts.answer(404, body=b'{"message": "Domain not found"}')],
    ],
    ids=["unverified", "wrong key", "wrong domain"],
)
async def test_the_live_check_fails_for_a_domain_or_key_that_cannot_send(
    server: FaultServer, answers: list[Act]
) -> None:
    server.script(*answers)
    async with open_mailgun(server.url, ClientFactory()) as mailgun:
        with pytest.raises(ProviderMisconfigured):
            await mailgun.check()


def test_the_account_is_the_domain() -> None:
    settings = Settings(api_key=Secret("the-key"), domain="mg.example.com")
    assert account(settings) == "https://api.mailgun.net mg.example.com"


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match="base-url"):
        Settings(api_key=Secret("key"), domain="mg.example.com", base_url="api.mailgun.net")
    with pytest.raises(msgspec.ValidationError, match="domain"):
        msgspec.convert({"api-key": Secret("key"), "domain": "a/../b"}, Settings)


async def test_it_is_a_provider() -> None:
    async with open_mailgun("https://api.mailgun.net", ClientFactory()) as mailgun:
        provider: Provider = mailgun
        assert provider
    kind = postman_register()
    assert (kind.name, kind.marks, kind.delivers) == ("mailgun", True, True)
