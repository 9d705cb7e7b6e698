"""Bytes to mails, strictly."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postman.config import Http
from postman.http.parse import MAX_ATTACHED, Invalid, parse
from postman.http.reader import MAX_FAULTS
from postman.mail import Address, Mail, OnDoubt, Priority

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LIMITS = Http(max_batch=3, max_recipients=4)
MAIL: dict[str, Any] = {
    "to": [{"email": "ann@example.com"}],
    "from": {"email": "shop@example.org"},
    "subject": "Your order",
    "content": [{"type": "text/plain", "value": "It is on its way."}],
}
FILE = {"filename": "a.png", "type": "image/png", "content": "AAEC"}


def read(**fields: object) -> Mail:
    """A mail with some of its fields set; those that are `...` left out."""
    mail = {name.replace("_", "-"): value for name, value in {**MAIL, **fields}.items() if value is not ...}
    [read] = parse(json.dumps([mail]).encode(), LIMITS, NOW)
    return read


def faults(body: object) -> dict[str, str]:
    """What is wrong with a body: path -> message."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Invalid) as caught:
        parse(raw, LIMITS, NOW)
    return {fault.path: fault.message for fault in caught.value.errors}


def places(**fields: object) -> set[str]:
    """Where a mail with these fields is wrong, below `[0]`."""
    mail = {name.replace("_", "-"): value for name, value in {**MAIL, **fields}.items() if value is not ...}
    return {path.removeprefix("[0].") for path in faults([mail])}


def addresses(*emails: str) -> list[dict[str, str]]:
    return [{"email": email} for email in emails]


# --- what is read --------------------------------------------------------------------------------------------------


def test_a_mail_with_everything_is_read_whole() -> None:
    mail = read(
        cc=addresses("bob@example.com"),
        bcc=addresses("eve@example.com"),
        reply_to=[{"email": "help@Example.org", "name": "Hjälp"}],
        headers={"X-Order": "1", "List-Unsubscribe": "<https://example.org/u?a=1>", "in-reply-to": "<a@b>"},
        attachments=[{**FILE, "disposition": "inline", "content-id": "logo"}],
        tags=["a.b", "c:d", "a.b"],
        metadata={"order": "1"},
        priority="high",
        send_at="2026-11-24T13:00:00+01:00",
        expires_at="2026-11-25T00:00:00Z",
        on_doubt="resend",
    )
    assert mail.recipients == tuple(Address(email=f"{name}@example.com") for name in ("ann", "bob", "eve"))
    assert mail.reply_to == (Address(email="help@example.org", name="Hjälp"),)
    assert mail.headers["List-Unsubscribe"] == "<https://example.org/u?a=1>"
    assert mail.attachments[0].content == b"\0\1\2"
    assert mail.attachments[0].content_id == "logo"
    assert mail.tags == ("a.b", "c:d")
    assert mail.priority is Priority.HIGH
    assert mail.send_at == NOW
    assert mail.send_at.tzinfo is UTC
    assert mail.on_doubt is OnDoubt.RESEND


def test_the_plain_body_comes_first() -> None:
    mail = read(content=[{"type": "text/html", "value": "<b>"}, {"type": "text/plain", "value": "b"}])
    assert [content.type for content in mail.content] == ["text/plain", "text/html"]
    assert (mail.text, mail.html) == ("b", "<b>")


def test_the_same_address_twice_in_one_mail_stays_where_it_came_first() -> None:
    mail = read(
        to=[{"email": "ann@example.com", "name": "Ann"}, *addresses("bob@example.com", "ann@EXAMPLE.com")],
        cc=addresses("bob@example.com", "cat@example.com", "cat@example.com"),
        bcc=addresses("cat@example.com", "ann@example.com"),
    )
    assert mail.to == (Address(email="ann@example.com", name="Ann"), Address(email="bob@example.com"))
    assert mail.cc == (Address(email="cat@example.com"),)
    assert mail.bcc == ()


def test_local_parts_that_differ_in_case_are_two_addresses() -> None:
    assert len(read(to=addresses("ann@example.com", "Ann@example.com")).to) == 2


def test_an_empty_subject_is_a_subject() -> None:
    assert read(subject="").subject == ""


def test_a_send_at_that_is_over_is_read_and_due_at_once() -> None:
    assert read(send_at="2026-01-01T00:00:00Z").send_at is not None


# --- what is refused, one place at a time --------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, object], set[str]]] = [
    (
        "each field that must be there",
        {"to": ..., "from": ..., "subject": ..., "content": ...},
        {"to", "from", "subject", "content"},
    ),
    ("nobody to send to", {"to": []}, {"to"}),
    ("too many to send to", {"to": addresses(*(f"a{i}@b.com" for i in range(5)))}, {"to"}),
    ("too many copies", {"cc": addresses(*(f"a{i}@b.com" for i in range(5)))}, {"cc"}),
    ("one address where a list belongs", {"to": {"email": "a@b.com"}}, {"to"}),
    ("text where an address belongs", {"to": ["a@b.com"], "from": "a@b.com"}, {"to[0]", "from"}),
    ("a list where an address belongs", {"from": addresses("a@b.com")}, {"from"}),
    ("an address without email", {"to": [{"name": "Ann"}]}, {"to[0].email"}),
    ("an email that is none", {"bcc": addresses("a@b.com", "nobody")}, {"bcc[1].email"}),
    ("an email that is no text", {"to": [{"email": None}], "from": {"email": 1}}, {"to[0].email", "from.email"}),
    ("a name that is no text", {"from": {"email": "a@b.com", "name": None}}, {"from.name"}),
    ("a name that ends the header", {"from": {"email": "a@b.com", "name": "a\r\nBcc: c@d.com"}}, {"from.name"}),
    ("a name with another address", {"from": {"email": "a@b.com", "name": "c@d.com"}}, {"from.name"}),
    ("an unknown field of an address", {"from": {"email": "a@b.com", "nmae": "A"}}, {"from.nmae"}),
    ("a subject that is null", {"subject": None}, {"subject"}),
    ("a subject that ends the header", {"subject": "a\nBcc: c@d.com"}, {"subject"}),
    ("a subject that does so when decoded", {"subject": "=?utf-8?q?a=0ABcc:_c?="}, {"subject"}),
    ("a subject with a lone surrogate", {"subject": "\ud800"}, {"subject"}),
    ("a subject that is too long", {"subject": "s" * 999}, {"subject"}),
    ("no content", {"content": []}, {"content"}),
    ("three contents", {"content": [MAIL["content"][0]] * 3}, {"content"}),
    ("one type twice", {"content": [MAIL["content"][0]] * 2}, {"content[1].type"}),
    ("another type", {"content": [{"type": "text/x", "value": "a"}]}, {"content[0].type"}),
    ("a body that is empty", {"content": [{"type": "text/html", "value": ""}]}, {"content[0].value"}),
    ("a body with NUL", {"content": [{"type": "text/html", "value": "a\0"}]}, {"content[0].value"}),
    ("a body with a lone surrogate", {"content": [{"type": "text/html", "value": "\udfff"}]}, {"content[0].value"}),
    ("headers that are a list", {"headers": []}, {"headers"}),
    ("a header that is not ours to set", {"headers": {"Bcc": "a@b.com"}}, {"headers.Bcc"}),
    ("a header with a line end in its name", {"headers": {"X-A\r\nBcc": "a"}}, {'headers["X-A\\r\\nBcc"]'}),
    ("a header with a line end in its value", {"headers": {"X-A": "a\r\nBcc: c@d.com"}}, {"headers.X-A"}),
    ("a header with a number", {"headers": {"X-A": 1}}, {"headers.X-A"}),
    ("an empty header", {"headers": {"X-A": ""}}, {"headers.X-A"}),
    ("a header twice", {"headers": {"X-A": "1", "x-a": "2"}}, {"headers"}),
    ("our own header", {"headers": {"X-Postman-Id": "1"}}, {"headers.X-Postman-Id"}),
    ("a header that is too long", {"headers": {"X-A": "a" * 996}}, {"headers.X-A"}),
    ("too many headers", {"headers": {f"X-{i}": "a" for i in range(51)}}, {"headers"}),
    ("headers that are too much in all", {"headers": {f"X-{i}": "a" * 900 for i in range(20)}}, {"headers"}),
    ("a file without content", {"attachments": [{"filename": "a", "type": "a/b"}]}, {"attachments[0].content"}),
    ("a file that is not base64", {"attachments": [{**FILE, "content": "a-b_"}]}, {"attachments[0].content"}),
    ("a file that is base64 cut short", {"attachments": [{**FILE, "content": "AAE"}]}, {"attachments[0].content"}),
    ("a file that is base64 in lines", {"attachments": [{**FILE, "content": "AA\nEC"}]}, {"attachments[0].content"}),
    ("a file that is base64 and more", {"attachments": [{**FILE, "content": "AA==AAEC"}]}, {"attachments[0].content"}),
    ("a file that is not ASCII", {"attachments": [{**FILE, "content": "ä"}]}, {"attachments[0].content"}),
    ("a type without a slash", {"attachments": [{**FILE, "type": "png"}]}, {"attachments[0].type"}),
    ("a type with a line end", {"attachments": [{**FILE, "type": "a/b\r\nX: y"}]}, {"attachments[0].type"}),
    ("a type with parameters", {"attachments": [{**FILE, "type": "a/b; c=d"}]}, {"attachments[0].type"}),
    ("a multipart file", {"attachments": [{**FILE, "type": "Multipart/mixed"}]}, {"attachments[0].type"}),
    ("a disposition", {"attachments": [{**FILE, "disposition": "outline"}]}, {"attachments[0].disposition"}),
    ("a content-id in brackets", {"attachments": [{**FILE, "content-id": "<a>"}]}, {"attachments[0].content-id"}),
    ("one content-id twice", {"attachments": [{**FILE, "content-id": "a"}] * 2}, {"attachments"}),
    ("too many files", {"attachments": [FILE] * 101}, {"attachments"}),
    ("too many tags", {"tags": [f"t{i}" for i in range(11)]}, {"tags"}),
    ("tags that are none", {"tags": ["", "a b", "ä", "t" * 65, 1]}, {f"tags[{i}]" for i in range(5)}),
    ("tags that are text", {"tags": "a"}, {"tags"}),
    (
        "metadata of ours",
        {"metadata": {"postman-id": "1", "Postman_x": "1"}},
        {"metadata.postman-id", "metadata.Postman_x"},
    ),
    ("a key that is too long", {"metadata": {"k" * 21: "1"}}, {f"metadata.{'k' * 21}"}),
    ("a value that is too long", {"metadata": {"k": "1" * 81}}, {"metadata.k"}),
    ("a value that is a number", {"metadata": {"k": 1}}, {"metadata.k"}),
    ("too much metadata", {"metadata": {f"k{i}": "1" for i in range(11)}}, {"metadata"}),
    ("a priority", {"priority": "urgent"}, {"priority"}),
    ("a priority that is null", {"priority": None}, {"priority"}),
    ("a doubt", {"on_doubt": "maybe"}, {"on-doubt"}),
    ("a time without offset", {"send_at": "2026-12-01T00:00:00"}, {"send-at"}),
    ("a time that is a number", {"send_at": 1_800_000_000}, {"send-at"}),
    ("a time that never was", {"send_at": "2026-02-30T00:00:00Z"}, {"send-at"}),
    ("a time beyond time", {"send_at": "9999-12-31T23:59:59-23:59"}, {"send-at"}),
    ("a week", {"send_at": "2026-W50-1T00:00:00Z"}, {"send-at"}),
    ("a time more than a year ahead", {"send_at": "2027-11-26T00:00:00Z"}, {"send-at"}),
    ("an end that is over", {"expires_at": "2026-11-24T12:00:00Z"}, {"expires-at"}),
    (
        "an end before the beginning",
        {"send_at": "2026-12-02T00:00:00Z", "expires_at": "2026-12-01T00:00:00Z"},
        {"expires-at"},
    ),
    (
        "an end that is over, before a beginning that is",
        {"send_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z"},
        {"expires-at"},
    ),
    ("a field in another spelling", {"Subject": "a", "sendat": "b"}, {"Subject", "sendat"}),
]


@pytest.mark.parametrize(("fields", "where"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_is_refused_at_its_place_alone(fields: dict[str, object], where: set[str]) -> None:
    assert places(**fields) == where


AT_THE_BOUND: list[dict[str, object]] = [
    {"to": addresses(*(f"a{i}@b.com" for i in range(4)))},
    {"cc": addresses(*(f"a{i}@b.com" for i in range(4)))},
    {"cc": [], "bcc": [], "reply_to": [], "tags": [], "attachments": [], "headers": {}, "metadata": {}},
    {"from": {"email": "a@b.com", "name": "n" * 256}},
    {"subject": "s" * 998},
    {"headers": {f"X-{i}": "a" for i in range(50)}},
    {"headers": {"X-" + "a" * 70: "a" * 995}},
    {"tags": [f"{i}" * 64 for i in range(10)]},
    {"metadata": {f"{i}" * 20: "v" * 80 for i in range(10)}},
    {"attachments": [FILE] * 100},
    {"attachments": [{**FILE, "content": ""}]},
    {"expires_at": "2026-11-24T12:00:00.001Z"},
    {"send_at": "2027-11-25T12:00:00Z"},
]


@pytest.mark.parametrize("fields", AT_THE_BOUND, ids=range(len(AT_THE_BOUND)))
def test_what_is_just_within_its_bounds_is_read(fields: dict[str, object]) -> None:
    assert read(**fields).to


def test_a_full_batch_is_read() -> None:
    assert len(parse(json.dumps([MAIL] * 3).encode(), LIMITS, NOW)) == 3


FILENAMES = [
    "",
    ".",
    "..",
    "a/b",
    "../a",
    "a\\b",
    "a\nb",
    "a\0b",
    "a\u202egpj.exe",
    "a\u200bb",
    "f" * 256,
    "=?utf-8?q?a=0Ab?=",
]


@pytest.mark.parametrize("name", FILENAMES)
def test_a_filename_with_a_path_or_a_trick_is_refused(name: str) -> None:
    assert places(attachments=[{**FILE, "filename": name}]) == {"attachments[0].filename"}


@pytest.mark.parametrize(
    "name", ["a", "Rechnung März.pdf", "a b.tar.gz", ".profile", "f" * 255, "請求書.pdf", 'a"b.txt']
)
def test_a_plain_filename_is_kept(name: str) -> None:
    assert read(attachments=[{**FILE, "filename": name}]).attachments[0].filename == name


HEADERS = [
    "To", "Cc", "Bcc", "From", "Sender", "Subject", "Reply-To", "Return-Path", "Received", "DKIM-Signature", "Date",
    "MIME-Version", "Content-Type", "Message-ID", "X-", "List-", "X-Ä", "X A", "X:A", "", " X-A", "X-A ", "Xa",
    "x-postman-id", "X-A\n", "\u212a-A",
]  # fmt: skip  # a table


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_outside_the_list_is_refused(name: str) -> None:
    assert len(places(headers={name: "a"})) == 1


@pytest.mark.parametrize(
    "name",
    [
        "X-Mailer",
        "x-a",
        "List-Id",
        "In-Reply-To",
        "REFERENCES",
        "Auto-Submitted",
        "Precedence",
        "Feedback-ID",
        "Importance",
    ],
)
def test_a_header_of_the_list_is_kept(name: str) -> None:
    assert read(headers={name: "a b"}).headers == {name: "a b"}


def test_attachments_are_bounded_by_their_decoded_bytes() -> None:
    large = {**FILE, "content": base64.b64encode(bytes(MAX_ATTACHED - 3)).decode()}
    assert len(read(attachments=[large, FILE]).attachments) == 2
    assert places(attachments=[large, {**FILE, "content": "AAECAw=="}]) == {"attachments"}


# --- whole documents -----------------------------------------------------------------------------------------------


def test_every_bad_place_of_every_mail_is_named() -> None:
    body = [
        {**MAIL, "to": addresses("a", "b@c.com", "d")},
        MAIL,
        {**MAIL, "content": [{"type": "x", "value": 1}], "a": 1},
    ]
    assert set(faults(body)) == {
        "[0].to[0].email",
        "[0].to[2].email",
        "[2].content[0].type",
        "[2].content[0].value",
        "[2].a",
    }


def test_a_misspelt_field_is_told_the_right_one() -> None:
    assert faults([{**MAIL, "subjekt": "a"}]) == {"[0].subjekt": "is not known; did you mean 'subject'?"}


def test_a_field_that_came_twice_is_refused_even_with_one_value() -> None:
    raw = json.dumps([MAIL]).replace('"subject"', '"subject": "Your order", "subject"').encode()
    assert faults(raw) == {"[0].subject": "is there twice"}
    escaped = json.dumps([MAIL]).replace('"subject"', '"subject": "a", "\\u0073ubject"').encode()
    assert faults(escaped) == {"[0].subject": "is there twice"}
    deep = json.dumps([MAIL]).replace('"email"', '"email": "x@y.com", "email"', 1).encode()
    assert faults(deep) == {"[0].to[0].email": "is there twice"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not JSON: Expecting value at line 1, column 1"),
        (b"[{]", "is not JSON: Expecting property name enclosed in double quotes at line 1, column 3"),
        (b"[] x", "is not JSON: Extra data at line 1, column 4"),
        (b"\xff", "is not UTF-8 at byte 0"),
        (b'["\xed\xa0\x80"]', "is not UTF-8 at byte 2"),
        (b"[" * 200_000, "holds more than 3120 values"),
        (b"[]", "must not be empty"),
        (b"{}", "must be a list, not an object"),
        (b"[NaN]", "is not JSON: NaN is not a value at line 1, column 1"),
        (b"[{},{},{},{}]", "has 4 entries; at most 3 are allowed"),
    ],
    ids=range(10),
)
def test_a_document_that_is_none_is_refused_with_one_sentence(body: bytes, message: str) -> None:
    assert faults(body) == {"": message}


def test_a_document_that_is_nested_as_deeply_as_its_bounds_allow_is_refused() -> None:
    for body in (b"[" * 1_000_000, b'[{"to":' * 1_000_000):
        with pytest.raises(Invalid) as caught:
            parse(body, Http(max_batch=1_000, max_recipients=1_000), NOW)
        assert caught.value.errors[0].message == "is nested too deeply"


def test_values_are_counted_before_they_take_memory() -> None:
    assert "values" in faults(b"[" + b"[]," * 100_000 + b"[]]")[""]
    assert read(content=[{"type": "text/html", "value": "{,[" * 100_000}]).html == "{,[" * 100_000


def test_the_list_of_faults_is_bounded() -> None:
    body = [{**MAIL, **{f"x{i}": 1 for i in range(1_000)}}]
    with pytest.raises(Invalid) as caught:
        parse(json.dumps(body).encode(), LIMITS, NOW)
    assert len(caught.value.errors) == MAX_FAULTS


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 40))
def test_a_mutated_request_is_mails_or_invalid(junk: bytes, at: int, cut: int) -> None:
    raw = json.dumps(
        [{**MAIL, "attachments": [FILE], "headers": {"X-A": "b"}, "send-at": "2026-12-01T00:00:00Z"}]
    ).encode()
    try:
        mails = parse(raw[:at] + junk + raw[at + cut :], LIMITS, NOW)
    except Invalid as error:
        assert error.errors  # noqa: PT017  # either end is right
    else:
        assert mails


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.binary(max_size=60))
def test_what_is_accepted_keeps_what_mail_promises(subject: str, name: str, file: bytes) -> None:
    fields = {
        "subject": subject,
        "from": {"email": "a@b.com", "name": name},
        "attachments": [{**FILE, "content": base64.b64encode(file).decode()}],
    }
    try:
        mail = read(**fields)
    except Invalid:
        return
    for text in (mail.subject, mail.from_.name):
        assert not any(ord(character) < 32 or ord(character) in {127, 0x2028, 0x2029} for character in text)
        text.encode()
    assert mail.attachments[0].content == file


def test_a_year_ahead_is_near_enough() -> None:
    assert read(send_at=(NOW + timedelta(days=365)).isoformat()).send_at == NOW + timedelta(days=365)
