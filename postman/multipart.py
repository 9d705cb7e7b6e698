"""multipart/form-data (RFC 7578), with bytes that depend on the content alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file in a form."""

    field: str
    filename: str
    type: str
    content: bytes


def encode(fields: Sequence[tuple[str, str]], files: Sequence[File] = ()) -> tuple[str, bytes]:
    """A form's content type and body; the same form gives the same bytes.

    The boundary is a hash of all that it parts, so that nobody can write content that holds it.
    """
    parts = [(_head(name), value.encode()) for name, value in fields]
    parts += [(_head(file.field, file.filename, file.type), file.content) for file in files]
    digest = hashlib.blake2b(digest_size=24)
    for head, content in parts:
        digest.update(head)
        digest.update(content)
    boundary = b"form-" + digest.hexdigest().encode()
    body = [piece for head, content in parts for piece in (b"--", boundary, b"\r\n", head, content, b"\r\n")]
    return f"multipart/form-data; boundary={boundary.decode()}", b"".join([*body, b"--", boundary, b"--\r\n"])


def _head(field: str, filename: str | None = None, type: str | None = None) -> bytes:
    head = f'Content-Disposition: form-data; name="{_quoted(field)}"'
    if filename is not None:
        head += f'; filename="{_quoted(filename)}"'  # raw UTF-8, as browsers do; RFC 7578 forbids filename*
    if type is not None:
        head += f"\r\nContent-Type: {' '.join(type.split())}"
    return f"{head}\r\n\r\n".encode()


def _quoted(text: str) -> str:
    """The escapes that browsers and RFC 7578 section 2 use in place of backslashes."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
