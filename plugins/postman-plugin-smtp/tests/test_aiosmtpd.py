"""Against a server that is not ours: aiosmtpd, in a thread of its own."""

from __future__ import annotations

import email
import email.policy
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword

from postman.mail import Address, Attachment, Content, Letter
from postman.provider import MailRejected, Receipt
from postman.secret import Secret
from postman.testing.letters import a_letter, an_attempt
from postman.testing.ports import free_port
from postman_plugin_smtp import SmtpProvider

type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]
type Send = Callable[..., Awaitable[list[Receipt]]]


class Mailbox:
    """A handler of aiosmtpd that keeps what it gets."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: object, _session: object, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: object, _session: object, envelope: Envelope) -> str:  # noqa: N802  # the same
        self.envelopes.append(envelope)
        return f"250 2.0.0 Ok: queued as A{len(self.envelopes):04}"


def _authenticator(
    _server: object, _session: object, _envelope: object, mechanism: str, login: LoginPassword
) -> AuthResult:
    return AuthResult(success=mechanism == "PLAIN" and (login.login, login.password) == (b"user", "pässword".encode()))


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def port(mailbox: Mailbox, server_tls: ssl.SSLContext) -> Iterator[int]:
    """aiosmtpd that asks for STARTTLS and a password."""
    number = free_port()
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=number,
        tls_context=server_tls,
        require_starttls=True,
        auth_required=True,
        authenticator=_authenticator,
        data_size_limit=30_000_000,
    )
    controller.start()
    try:
        yield number
    finally:
        controller.stop()


@pytest.fixture
def send(port: int, ca_file: Path, open_provider: OpenProvider) -> Callable[..., Any]:
    """Send letters over one provider."""

    async def send(*letters: Letter) -> list[Receipt]:
        settings = {"security": "starttls", "ca_file": ca_file, "username": "user", "password": Secret("pässword")}
        async with open_provider(port, **settings) as provider:
            return [await provider.send(letter, an_attempt()) for letter in letters]

    return send


def _read(envelope: Envelope) -> EmailMessage:
    return email.message_from_bytes(cast(bytes, envelope.content), policy=email.policy.default)


TEXT = Content(type="text/plain", value="Dear you,\n\nGrüße 🌍\n")
HTML = Content(type="text/html", value="<p>Grüße</p>\n<img src='cid:logo'>\n")
LOGO = Attachment(
    filename="logo.png", type="image/png", content=b"\x89PNG" * 99, disposition="inline", content_id="logo"
)
FILE = Attachment(filename="Rechnung März.pdf", type="application/pdf", content=bytes(range(256)) * 300)

MATRIX: dict[str, dict[str, Any]] = {
    "text": {},
    "html": {"content": (HTML,)},
    "both": {"content": (TEXT, HTML)},
    "unicode": {"subject": "日本語の件名 " * 12, "content": (Content(type="text/plain", value="日本語\n" * 200),)},
    "names": {
        "to": (Address(email="a@example.net", name='Doe, "J" \\ (x)'), Address(email="b@example.net", name="Ü, Ö"))
    },
    "cc and bcc": {"cc": (Address(email="cc@example.net"),), "bcc": (Address(email="hidden@example.net"),)},
    "reply-to": {"reply_to": (Address(email="r@example.net", name="R"), Address(email="s@example.net"))},
    "attachments": {"content": (TEXT, HTML), "attachments": (LOGO, FILE)},
    "headers": {
        "headers": {"X-Long": "word " * 300 + "end", "List-Id": "<list.example.com>", "X-Ü".replace("Ü", "U"): "ü"}
    },
    "empty": {"subject": "", "content": (Content(type="text/plain", value=""),)},
    "hundred recipients": {"to": tuple(Address(email=f"u{at}@example.net", name=f"Nr. {at}, é") for at in range(100))},
}


@pytest.mark.parametrize("fields", MATRIX.values(), ids=MATRIX)
async def test_a_mail_arrives_as_it_was_asked(fields: dict[str, Any], send: Send, mailbox: Mailbox) -> None:
    letter = a_letter(**fields)
    mail = letter.mail
    assert await send(letter) == [Receipt("A0001")]
    (envelope,) = mailbox.envelopes
    assert envelope.mail_from == mail.from_.email
    assert envelope.rcpt_tos == [address.email for address in mail.recipients]
    read = _read(envelope)
    assert read.defects == []
    assert read["Subject"] == mail.subject
    for name, addresses in (("To", mail.to), ("Cc", mail.cc), ("Reply-To", mail.reply_to), ("From", (mail.from_,))):
        shown = [Address(email=a.addr_spec, name=a.display_name) for a in read[name].addresses] if name in read else []
        assert shown == list(addresses)
    assert {name: read[name] for name in mail.headers} == mail.headers
    bodies = {
        part.get_content_type(): cast(bytes, part.get_payload(decode=True))
        for part in read.walk()
        if not part.is_multipart()
    }
    for content in mail.content:
        assert bodies[content.type].rstrip() == content.value.replace("\n", "\r\n").encode().rstrip()
    for attachment in mail.attachments:
        assert bodies[attachment.type] == attachment.content
    assert b"hidden" not in cast(bytes, envelope.content)


DOTS = [
    "\n.\n",
    "\r.\r",
    "\n.\r\n",
    "\r\n.\r\n",
    ".",
    ".\n.",
    "..",
    "\n.\nMAIL FROM:<evil@example.org>\n",
    "\r\n.\rx\r.\r\n",
]


async def test_lone_dots_and_bare_line_breaks_arrive_as_one_mail_each(send: Send, mailbox: Mailbox) -> None:
    texts = [f"a{dots}b{dots}" for dots in DOTS]
    letters = [a_letter(content=(Content(type="text/plain", value=text),)) for text in texts]
    assert len(await send(*letters)) == len(DOTS)
    assert [_read(envelope).get_content().removesuffix("\r\n") for envelope in mailbox.envelopes] == [
        re.sub("\r\n|\r|\n", "\r\n", text).removesuffix("\r\n") for text in texts
    ]


async def test_refused_recipients_are_named_and_the_others_get_it(send: Send, mailbox: Mailbox) -> None:
    to = (Address(email="a@example.net"), Address(email="nobody@example.net"))
    (receipt,) = await send(a_letter(to=to))
    assert [refusal.recipient for refusal in receipt.refused] == ["nobody@example.net"]
    assert mailbox.envelopes[0].rcpt_tos == ["a@example.net"]
    with pytest.raises(MailRejected):
        await send(a_letter(to=to[1:]))
    assert len(mailbox.envelopes) == 1


async def test_a_large_attachment_arrives_whole(send: Send, mailbox: Mailbox) -> None:
    file = Attachment(filename="f", type="application/octet-stream", content=b"\r\n.\r\n" * 1_000_000)
    await send(a_letter(attachments=(file,)))
    (part,) = _read(mailbox.envelopes[0]).iter_attachments()
    assert part.get_payload(decode=True) == file.content
