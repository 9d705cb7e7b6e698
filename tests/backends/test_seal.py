"""What ledgers store of rows and letters: damage is known as such, and told from what a newer Postman wrote."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest

from postman.backends import seal
from postman.errors import DamagedRow, NewerRow
from postman.mail import Id, Letter
from postman.row import Policy, Row, State, present
from postman.testing.letters import a_letter
from postman.transitions import accepted_row

LETTER = a_letter(7)
ROW = accepted_row(LETTER, "shop", 100, Policy(), present())


def read_row(id: Id, stored: bytes) -> Row | None:
    with suppress(DamagedRow):
        return seal.read(id, stored)
    return None


CASES = [
    pytest.param(ROW, read_row, id="a row"),
    pytest.param(LETTER, seal.letter_of, id="a letter"),
]

type Reading = Callable[[Id, bytes], Row | Letter | None]


@pytest.mark.parametrize(("whole", "read"), CASES)
def test_what_was_stored_is_read_again_and_also_what_has_no_checksum(whole: Row | Letter, read: Reading) -> None:
    assert read(whole.id, seal.sealed(whole)) == whole
    assert read(whole.id, msgspec.msgpack.encode(whole)) == whole


@pytest.mark.parametrize(("whole", "read"), CASES)
def test_whichever_byte_is_changed_or_lost_it_is_damage(whole: Row | Letter, read: Reading) -> None:
    stored = seal.sealed(whole)
    for place in range(len(stored)):
        for byte in (stored[place] ^ 1, stored[place] ^ 0x80):
            assert read(whole.id, stored[:place] + bytes([byte]) + stored[place + 1 :]) is None
        assert read(whole.id, stored[:place]) is None
    assert read(Id("0x0000000000000008"), stored) is None, "it is another one's"


def test_what_is_whole_and_not_understood_is_of_a_newer_postman() -> None:
    row = msgspec.structs.replace(ROW, state="asleep")  # a word that nobody knows yet
    with pytest.raises(NewerRow, match="0x0000000000000007 was written by a newer Postman"):
        seal.read(row.id, seal.sealed(row))
    mail = msgspec.structs.replace(LETTER.mail, on_doubt="ask")
    with pytest.raises(NewerRow):
        seal.letter_of(LETTER.id, seal.sealed(msgspec.structs.replace(LETTER, mail=mail)))
    assert seal.decoded(row.id, seal.sealed(row)) is None, "lists go on without it"


def test_a_row_with_fields_that_are_not_known_yet_is_read_without_them() -> None:
    fields = [*msgspec.structs.astuple(ROW), "a field of the next version"]
    assert seal.read(ROW.id, seal.sealed(fields)) == ROW  # type: ignore[arg-type]  # a row of the next version
    assert ROW.state is State.QUEUED
