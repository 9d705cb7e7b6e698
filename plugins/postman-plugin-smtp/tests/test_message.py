"""What is rendered, read back by a parser that is not ours."""

from __future__ import annotations

import email
import email.policy
import email.utils
import quopri
import re
from base64 import b64decode
from email.message import EmailMessage, Message
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postman.errors import MailRejected
from postman.mail import Address, Attachment, Content, Id
from postman.testing.letters import a_letter
from postman_plugin_smtp.message import render
from postman_plugin_smtp.provider import Transaction

NASTY = [
    "a\r\nBcc: evil@example.org",
    "a\nb",
    "a\rb",
    "a\x00b",
    "a\x0bb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\x1bb",
    "a\ud800b",
    "\n",
]


def parsed(message: bytes) -> EmailMessage:
    return email.message_from_bytes(message, policy=email.policy.default)


def fields_of(message: bytes) -> list[tuple[str, str]]:
    """Name and unfolded raw value of each field, by a reader that knows nothing of MIME: the second parser."""
    head = message.partition(b"\r\n\r\n")[0].decode("ascii")
    lines = re.sub(r"\r\n(?=[ \t])", "", head).split("\r\n")
    return [(line.partition(":")[0], line.partition(":")[2].removeprefix(" ")) for line in lines]


def decoded(value: str) -> str:
    """Encoded words, decoded by hand."""
    value = re.sub(r"\?= +=\?", "?==?", value)
    raw = re.sub(r"=\?utf-8\?b\?([^?]*)\?=", lambda m: b64decode(m[1]).decode("latin-1"), value)
    return raw.encode("latin-1").decode()


def test_a_plain_mail_is_read_back_as_it_was_asked() -> None:
    letter = a_letter(
        to=(Address(email="to@example.net", name="Doe, John"), Address(email="two@example.net")),
        cc=(Address(email="cc@example.net", name="Jörg Müller"),),
        bcc=(Address(email="hidden@example.net"),),
        reply_to=(Address(email="r1@example.net"), Address(email="r2@example.net", name='"Q" \\ uote')),
        subject="Grüße aus Köln",
        headers={"X-Campaign": "autumn", "List-Unsubscribe": "<https://example.com/u>"},
        tags=("welcome",),
        metadata={"invoice": "17"},
    )
    message = render(letter)
    read = parsed(message)
    assert set(read.keys()) == {
        *("Date", "Message-ID", "X-Postman-Id", "Subject", "From", "To", "Cc", "Reply-To", "X-Campaign"),
        *("List-Unsubscribe", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    }
    assert [(a.display_name, a.addr_spec) for a in read["To"].addresses] == [
        ("Doe, John", "to@example.net"),
        ("", "two@example.net"),
    ]
    assert [(a.display_name, a.addr_spec) for a in read["Cc"].addresses] == [("Jörg Müller", "cc@example.net")]
    assert [a.display_name for a in read["Reply-To"].addresses] == ["", '"Q" \\ uote']
    assert read["Subject"] == "Grüße aus Köln"
    assert read["Message-ID"] == letter.message_id
    assert read["X-Postman-Id"] == letter.id
    assert read["Date"].datetime == letter.accepted
    assert read["List-Unsubscribe"] == "<https://example.com/u>"
    assert read.get_content() == letter.mail.content[0].value.replace("\n", "\r\n")
    assert b"hidden" not in message
    assert b"welcome" not in message
    assert b"invoice" not in message


def test_the_bytes_are_the_same_on_every_attempt() -> None:
    image = Attachment(filename="a.png", type="image/png", content=b"png", disposition="inline", content_id="a")
    content = (Content(type="text/plain", value="a"), Content(type="text/html", value="<b>a</b>"))
    assert render(a_letter(content=content, attachments=(image,))) == render(
        a_letter(content=content, attachments=(image,))
    )


type Tree = str | dict[str, list[Tree]]


def _tree(part: Message) -> Tree:
    kind = part.get_content_type()
    return {kind: [_tree(cast(Message, sub)) for sub in part.get_payload()]} if part.is_multipart() else kind


def test_text_html_inline_images_and_attachments_form_the_usual_tree() -> None:
    text, html = Content(type="text/plain", value="t"), Content(type="text/html", value="<img src='cid:i'>")
    inline = Attachment(filename="i.png", type="image/png", content=b"i", disposition="inline", content_id="i@x")
    attached = Attachment(filename="r.pdf", type="application/pdf", content=b"p")
    related = {"multipart/related": ["text/html", "image/png"]}

    def tree(*contents: Content, attachments: tuple[Attachment, ...] = ()) -> Tree:
        return _tree(parsed(render(a_letter(content=contents, attachments=attachments))))

    assert tree(text) == "text/plain"
    assert tree(html) == "text/html"
    assert tree(text, html) == {"multipart/alternative": ["text/plain", "text/html"]}
    assert tree(html, attachments=(inline,)) == related
    assert tree(text, html, attachments=(inline, attached)) == {
        "multipart/mixed": [{"multipart/alternative": ["text/plain", related]}, "application/pdf"]
    }
    assert tree(text, attachments=(inline, attached)) == {
        "multipart/mixed": ["text/plain", "image/png", "application/pdf"]
    }


@pytest.mark.parametrize(
    "filename", ["plain.txt", 'a "b"; c\\d.txt', "Übersicht €.pdf", "=?utf-8?q?x?=.txt", "长" * 255, "a" * 990 + ".txt"]
)
def test_an_attachment_keeps_its_name_type_and_bytes(filename: str) -> None:
    content = bytes(range(256)) * 9
    file = Attachment(filename=filename, type='text/csv; charset="utf-8"', content=content)
    (part,) = parsed(render(a_letter(attachments=(file,)))).iter_attachments()
    assert part.get_filename() == filename
    assert part.get_content_type() == "text/csv"
    assert part.get_payload(decode=True) == content
    assert part.get_content_disposition() == "attachment"


def test_an_inline_image_keeps_its_content_id() -> None:
    image = Attachment(filename="i.png", type="image/png", content=b"i", disposition="inline", content_id="i@x")
    read = parsed(render(a_letter(content=(Content(type="text/html", value="h"),), attachments=(image,))))
    part = next(part for part in read.walk() if part.get_content_type() == "image/png")
    assert part["Content-ID"] == "<i@x>"
    assert part.get_content_disposition() == "inline"


def test_an_attached_message_travels_as_octets_because_it_may_not_be_encoded() -> None:
    file = Attachment(filename="m.eml", type="message/rfc822", content=b"Subject: \xff\r\n\r\n")
    (part,) = parsed(render(a_letter(attachments=(file,)))).iter_attachments()
    assert part.get_content_type() == "application/octet-stream"
    assert part.get_payload(decode=True) == file.content


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
@pytest.mark.parametrize(
    "place",
    ["subject", "name", "to", "from", "bcc", "reply-to", "header", "header name", "filename", "type", "content-id"],
)
def test_what_could_break_out_of_a_header_or_command_is_rejected(place: str, nasty: str) -> None:
    fields: dict[str, dict[str, Any]] = {
        "subject": {"subject": nasty},
        "name": {"to": (Address(email="to@example.net", name=nasty),)},
        "to": {"to": (Address(email=f"{nasty}@example.net"),)},
        "from": {"from_": Address(email=f"from@example.com{nasty}")},
        "bcc": {"bcc": (Address(email=f"{nasty}@example.net"),)},
        "reply-to": {"reply_to": (Address(email="r@example.net", name=nasty),)},
        "header": {"headers": {"X-A": nasty}},
        "header name": {"headers": {nasty: "a"}},
        "filename": {"attachments": (Attachment(filename=nasty, type="text/csv", content=b""),)},
        "type": {"attachments": (Attachment(filename="a", type=f"text/{nasty}", content=b""),)},
        "content-id": {"attachments": (Attachment(filename="a", type="image/png", content=b"", content_id=nasty),)},
    }
    with pytest.raises(MailRejected):
        Transaction.of(a_letter(**fields[place]))


@pytest.mark.parametrize(
    "address", ["a b@example.net", "a@b> SIZE=1", "<a@example.net", "a@example.net,b@example.net", "a"]
)
def test_an_envelope_address_is_one_mailbox(address: str) -> None:
    with pytest.raises(MailRejected):
        Transaction.of(a_letter(bcc=(Address(email=address),)))


@pytest.mark.parametrize("name", ["Bcc", "to", "Content-Type", "X-Postman-Id", "Subject", "Message-ID"])
def test_headers_that_are_ours_cannot_be_set(name: str) -> None:
    with pytest.raises(MailRejected, match="is set by Postman"):
        render(a_letter(headers={name: "x"}))


@pytest.mark.parametrize("name", ["X-SMTPAPI", "x-mailgun-drop-message", "X-SES-Configuration-Set"])
def test_a_header_that_a_vendors_relay_would_obey_is_left_out(name: str) -> None:
    message = render(a_letter(headers={name: '{"to": ["evil@example.org"]}', "X-Other": "kept"}))
    assert b"evil" not in message
    assert b"X-Other: kept" in message


def test_a_body_with_half_a_character_is_rejected() -> None:
    with pytest.raises(MailRejected, match="half a character"):
        render(a_letter(content=(Content(type="text/plain", value="\ud800"),)))


def test_a_tracking_id_that_is_none_is_rejected() -> None:
    with pytest.raises(MailRejected):
        render(msgspec.structs.replace(a_letter(), id=Id("0x1\r\nBcc: evil@example.org")))


@pytest.mark.parametrize(("text", "encoding"), [("Größe\n" * 9, "quoted-printable"), ("日本語\n" * 99, "base64")])
def test_a_body_travels_in_the_shorter_encoding(text: str, encoding: str) -> None:
    read = parsed(render(a_letter(content=(Content(type="text/plain", value=text),))))
    assert read["Content-Transfer-Encoding"] == encoding
    assert read.get_content() == text.replace("\n", "\r\n")


def test_an_encoded_word_in_a_subject_stays_text() -> None:
    subject = "=?utf-8?q?a=0D=0ABcc:_evil=40example.org?="
    message = render(a_letter(subject=subject))
    assert decoded(dict(fields_of(message))["Subject"]) == subject
    assert b"\r\nBcc" not in message


TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=200)
NAMES = TEXT | st.sampled_from(
    ["a, b", 'q"q', "=?utf-8?q?=0D=0AX:_1?=", "<a@b>", " lead", "trail ", "a  b", ";", "a" * 990, '"' * 600, "é" * 90]
)


@settings(max_examples=100, deadline=None)
@given(subject=NAMES, names=st.lists(NAMES, min_size=1, max_size=12), value=NAMES)
def test_two_parsers_read_back_exactly_the_headers_that_were_asked(subject: str, names: list[str], value: str) -> None:
    letter = a_letter(
        subject=subject,
        to=tuple(Address(email=f"u{at}@example.net", name=name) for at, name in enumerate(names)),
        headers={"X-Value": value},
    )
    message = render(letter)
    assert message.isascii()
    assert all(len(line) <= 998 for line in message.split(b"\r\n"))
    assert message.count(b"\n") == message.count(b"\r") == message.count(b"\r\n")
    fields = fields_of(message)
    ours = ["Date", "Message-ID", "X-Postman-Id", "Subject", "From", "To", "X-Value", "MIME-Version", "Content-Type"]
    assert [name for name, _ in fields] == [*ours, "Content-Transfer-Encoding"]
    assert parsed(message).keys() == [name for name, _ in fields]
    lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert all(len(line) <= 76 for line in lines if b"=?" in line)
    assert decoded(dict(fields)["Subject"]) == subject
    assert decoded(dict(fields)["X-Value"]) == value
    assert [address for _, address in email.utils.getaddresses([dict(fields)["To"]])] == [
        a.email for a in letter.mail.to
    ]
    shown = [decoded(name) for name, _ in email.utils.getaddresses([dict(fields)["To"]])]
    assert shown == names


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("a.=\r\n \té€=_-"), max_size=300) | st.text(st.characters(codec="utf-8"), max_size=300))
def test_a_body_is_read_back_with_its_line_breaks_made_crlf(text: str) -> None:
    message = Transaction.of(a_letter(content=(Content(type="text/plain", value=text),))).message
    head, _, body = message.partition(b"\r\n\r\n")
    assert b"\r\n.\r\n" not in message
    assert all(len(line) <= 76 for line in body.split(b"\r\n"))
    raw = b64decode(body) if b"base64" in head else quopri.decodestring(body)
    want = re.sub(r"\r\n|\r|\n", "\r\n", text).encode()
    assert raw.removesuffix(b"\r\n") == want.removesuffix(b"\r\n")


def test_dots_are_doubled_at_the_start_of_lines_alone() -> None:
    stuffed = Transaction("a@b.c", ("d@e.f",), b".one\r\n..two\r\nth.ree\r\n.\r\n").stuffed
    assert stuffed == b"..one\r\n...two\r\nth.ree\r\n..\r\n"
