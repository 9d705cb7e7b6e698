from __future__ import annotations

import email.message
import email.policy
from email.parser import BytesParser

from hypothesis import given, settings
from hypothesis import strategies as st

from postman.multipart import File, encode


def read(kind: str, body: bytes) -> list[email.message.EmailMessage]:
    """The parts as the standard library, which we do not use to write them, reads them."""
    parsed = BytesParser(policy=email.policy.HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    assert not parsed.defects
    return [part for part in parsed.iter_parts() if isinstance(part, email.message.EmailMessage)]


def test_fields_and_files_arrive_in_their_order() -> None:
    file = File(field="attachment", filename="bill.pdf", type="application/pdf", content=b"%PDF\r\n\x00\xff")
    first, second, third = read(*encode([("to", "ann"), ("to", "bob")], [file]))
    assert [part.get_param("name", header="content-disposition") for part in (first, second, third)] == [
        "to",
        "to",
        "attachment",
    ]
    assert [part.get_payload(decode=True) for part in (first, second)] == [b"ann", b"bob"]
    assert (third.get_filename(), third.get_content_type()) == ("bill.pdf", "application/pdf")
    assert third.get_payload(decode=True) == b"%PDF\r\n\x00\xff"


def test_names_cannot_break_out_of_their_quotes() -> None:
    kind, body = encode(
        [('a"; b="c\r\nX: y', "v")], [File(field="f", filename='"\r\n', type="a/b\r\nX: y", content=b"")]
    )
    assert b'name="a%22; b=%22c%0D%0AX: y"' in body
    assert b'filename="%22%0D%0A"\r\nContent-Type: a/b X: y\r\n\r\n' in body
    assert kind.startswith("multipart/form-data; boundary=form-")


def test_the_same_form_gives_the_same_bytes_and_another_form_another_boundary() -> None:
    assert encode([("a", "b")]) == encode([("a", "b")])
    assert encode([("a", "b")])[0] != encode([("a", "c")])[0]


def test_content_that_holds_the_boundary_of_an_earlier_form_adds_no_field() -> None:
    kind, _ = encode([("text", "hello")])
    boundary = kind.partition("boundary=")[2]
    attack = f'hello\r\n--{boundary}\r\nContent-Disposition: form-data; name="to"\r\n\r\neve@example.org'
    [part] = read(*encode([("text", attack)]))
    assert part.get_payload(decode=True) == attack.encode()


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_content_arrives(contents: list[bytes]) -> None:
    files = [File(field=f"f{n}", filename="x", type="a/b", content=content) for n, content in enumerate(contents)]
    kind, body = encode([], files)
    parts = body.split(b"--" + kind.partition("boundary=")[2].encode())
    assert [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:-1]] == contents
