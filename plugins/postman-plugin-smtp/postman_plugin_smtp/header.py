"""One header field as bytes: 7-bit, folded, and impossible to break out of. Pure.

Not by `email.message`: it decodes encoded words that stand in a value literally (a subject `=?utf-8?q?=0D=0AX:_1?=`
becomes a line break), passes line breaks in names, and has lost separators when it folded lists (CVE-2025-1795).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from postman.errors import MailRejected
from postman.mail import Address

_MAX_LINE = 998  # RFC 5322, 2.1.1; without CRLF
_FOLD_AT = 76  # RFC 2047, 2
_LONG = 400  # characters that are surely within a line, also when each is quoted
_WORD = 30  # bytes in an encoded word: 52 characters, so that name and word share a line

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NAME = re.compile(r"[!-9;-~]{1,100}")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,250}")
_PRINTABLE = re.compile(r"[ -~]*")
_EMAIL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,255}")
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"  # noqa: S105  # a token of MIME
_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:; ?{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*')


def field(name: str, value: str) -> bytes:
    """`Name: value` and CRLF, folded; `value` is ready: ASCII, its parts encoded.

    Raises:
        MailRejected: the name is no name, the value holds control characters, or a line cannot be folded.
    """
    if not _NAME.fullmatch(name):
        raise MailRejected(f"{name[:100]!a} is not a name of a header")
    checked(name, value)
    lines = [f"{name}:"]
    for word in re.findall(r" *[^ ]+", f" {value}"):
        if len(lines[-1]) + len(word) > _FOLD_AT and lines[-1] != f"{name}:":
            lines.append(word)
        else:
            lines[-1] += word
    if any(len(line) > _MAX_LINE for line in lines):
        raise MailRejected(f"header {name} has a word of more than {_MAX_LINE} characters")
    return "\r\n".join(lines).encode("ascii") + b"\r\n"


def checked(what: str, text: str) -> str:
    """`text`, if it holds no control characters, line separators and lone surrogates.

    Raises:
        MailRejected: it does.
    """
    if _CONTROL.search(text):
        raise MailRejected(f"{what} holds a control character or half a character")
    return text


def unstructured(what: str, text: str) -> str:
    """The value of Subject and of headers that a client sets: plain if it may stand so, else encoded words."""
    if (
        _is_plain(checked(what, text))
        and text == text.strip(" ")
        and len(max(text.split(" "), key=len)) < _MAX_LINE - 102
    ):
        return text
    return _encoded(text)


def mailboxes(what: str, addresses: Sequence[Address]) -> str:
    """The value of From, To, Cc and Reply-To."""
    return ", ".join(_mailbox(what, address) for address in addresses)


def email(what: str, address: Address) -> str:
    """The bare address, safe in an envelope.

    Raises:
        MailRejected: it is not one mailbox of visible ASCII characters.
    """
    if not _EMAIL.fullmatch(address.email):
        raise MailRejected(f"an address in {what} is not a mailbox")
    return address.email


def media_type(text: str) -> str:
    """The type of an attachment; messages and multiparts may not be encoded (RFC 2046, 5.2.1) and travel as octets."""
    if not _TYPE.fullmatch(text):
        raise MailRejected("the type of an attachment is not a media type")
    return "application/octet-stream" if text.lower().startswith(("message/", "multipart/")) else text


def content_id(text: str) -> str:
    """The value of Content-ID."""
    if not _CONTENT_ID.fullmatch(text):
        raise MailRejected("the content-id of an attachment is not visible ASCII")
    return f"<{text}>"


def disposition(kind: str, filename: str) -> str:
    """The value of Content-Disposition; long names and names beyond ASCII as RFC 2231 wants them."""
    checked("the name of an attachment", filename)
    if _is_plain(filename) and len(filename) <= _LONG:
        return f"{kind}; filename={_quoted(filename)}"
    pieces = re.findall("(?:%..|[^%]){1,20}", f"utf-8''{quote(filename, safe='')}")
    if len(pieces) == 1:
        return f"{kind}; filename*={pieces[0]}"
    return "; ".join([kind, *(f"filename*{number}*={piece}" for number, piece in enumerate(pieces))])


def _mailbox(what: str, address: Address) -> str:
    bare = email(what, address)
    name = checked(f"a name in {what}", address.name)
    if not name:
        return bare
    if not _is_plain(name) or len(name) > _LONG:
        return f"{_encoded(name)} <{bare}>"
    return f"{name if _ATOMS.fullmatch(name) else _quoted(name)} <{bare}>"


def _is_plain(text: str) -> bool:
    """Printable ASCII without what a reader may take for an encoded word."""
    return _PRINTABLE.fullmatch(text) is not None and "=?" not in text


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


def _encoded(text: str) -> str:
    return " ".join(f"=?utf-8?b?{b64encode(chunk).decode()}?=" for chunk in _chunks(text))


def _chunks(text: str) -> Iterator[bytes]:
    """`text` in UTF-8 in pieces of whole characters."""
    chunk = b""
    for character in text:
        encoded = character.encode()
        if len(chunk) + len(encoded) > _WORD:
            yield chunk
            chunk = b""
        chunk += encoded
    yield chunk
