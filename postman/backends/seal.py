"""What ledgers store of rows and letters: sealed with a checksum, so that damage is known.

What cannot be read stays as it is, and must not stop the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec
import structlog

from postman.errors import DamagedRow, NewerRow
from postman.mail import Id, Letter
from postman.row import Row

UNREADABLE = (msgspec.DecodeError, ValueError, TypeError, OverflowError)
"""What decoding damaged bytes may raise."""

_SEAL = b"\x01"
"""The first byte of what is stored with its checksum; what an early version stored without one begins otherwise."""

_log = structlog.get_logger()
_encoder = msgspec.msgpack.Encoder()
_letter_decoder = msgspec.msgpack.Decoder(Letter)
_row_decoder = msgspec.msgpack.Decoder(Row)


def sealed(stored: Row | Letter) -> bytes:
    """What a ledger keeps of a row or a letter: its checksum, and MessagePack.

    So damage is told from what a newer Postman wrote, and a mail in which a byte changed is not sent.
    """
    encoded = _encoder.encode(stored)
    return _SEAL + zlib.crc32(encoded).to_bytes(4) + encoded


def read(id: Id, stored: bytes) -> Row:
    """A row as it is stored. One that cannot be read stays as it is, and must not stop the others.

    Raises:
        DamagedRow: it is not what was stored.
        NewerRow: it is, but says something that only a newer Postman understands.
    """
    try:
        return row_of(id, stored)
    except DamagedRow as error:
        tell(id, error)
        raise


def decoded(id: Id, stored: bytes) -> Row | None:
    """The same for a list, which goes on without it."""
    try:
        return read(id, stored)
    except (NewerRow, DamagedRow):
        return None


def row_of(id: Id, stored: bytes) -> Row:
    """As `read`, for who tells the log of damage, see `tell`."""
    try:
        row = _unsealed(id, stored, _row_decoder)
        if row.id == id:
            return row
        reason = "it names another letter"
    except UNREADABLE as error:
        reason = str(error)
    raise DamagedRow(f"what the ledger has of {id} is damaged: {reason}")


def tell(id: Id, error: DamagedRow) -> None:
    """Tell the log."""
    _log.error("what the ledger has of a mail is damaged", id=id, reason=str(error))


def _unsealed[T](id: Id, stored: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """What was stored; raises one of UNREADABLE when it is damaged."""
    if stored[:1] != _SEAL:
        return decoder.decode(stored)
    encoded = memoryview(stored)[5:]
    if zlib.crc32(encoded).to_bytes(4) != stored[1:5]:
        raise ValueError("its checksum is wrong")
    try:
        return decoder.decode(encoded)
    except UNREADABLE as error:
        raise NewerRow(f"{id} was written by a newer Postman: {error}") from error


def letter_of(id: Id, body: bytes | None) -> Letter | None:
    """The letter; None when its bytes are damaged.

    Raises:
        NewerRow: see `read`.
    """
    try:
        letter = _unsealed(id, body or b"", _letter_decoder)
    except UNREADABLE:
        return None
    return letter if letter.id == id else None


def readable(bodies: Iterable[tuple[Id, bytes | None]]) -> Mapping[Id, Letter]:
    """The letters, but for those that are damaged, or that only a newer Postman understands."""
    found: dict[Id, Letter] = {}
    for id, body in bodies:
        with suppress(NewerRow):
            letter = letter_of(id, body)
            if letter is not None:
                found[id] = letter
    return found
