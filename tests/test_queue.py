from __future__ import annotations

import msgspec
import pytest

from postman.mail import Id
from postman.queue import VERSION, Note, read_note

NOTE = Note(Id("0x0000000000000001"), 2, 10)


def test_a_note_is_read_as_it_was_written() -> None:
    data = msgspec.json.encode(NOTE)
    assert read_note(data) == NOTE
    assert len(data) < 100


@pytest.mark.parametrize("data", [b"", b"no", b"[]", b"{}", b'{"v":1}', b'{"v":1,"id":"0x01","lane":3}', b'{"v":"2"}'])
def test_what_is_no_note_is_told(data: bytes) -> None:
    assert read_note(data) is None


@pytest.mark.parametrize(
    "data", [b'{"v":2,"id":"0x01","lane":3}', b'{"v":2,"letters":["0x01"]}', b'{"v":2,"id":"0x01","lane":1,"to":[]}']
)
def test_a_note_of_a_newer_version_is_known_as_such_whatever_else_is_in_it(data: bytes) -> None:
    note = read_note(data)
    assert note is not None
    assert note.version == VERSION + 1
