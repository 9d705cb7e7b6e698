"""Bytes to mails: `parse` reads the body of a `POST /mail` strictly, or names every place that is wrong with it.

One walk over the decoded JSON checks and builds the mails. Typed decoding first, with a second reader for the errors,
was not taken: the two would have to agree on every rule for ever, and one walk is fast enough.
"""

from __future__ import annotations

import binascii
import enum
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from postman.address import BadAddress, check_name, parse_email
from postman.config import Http
from postman.http.reader import Fault, Fields, Invalid, Reader, Value, at, decode
from postman.mail import Address, Attachment, Content, Mail, OnDoubt, Priority
from postman.text import UNSEEN, flaw

__all__ = ["Fault", "Invalid", "parse"]

MAX_SUBJECT = 998
MAX_HEADERS = 50
MAX_HEADER = 995
MAX_HEADER_BYTES = 16_384
"""Names and values of the headers of one mail."""
MAX_ATTACHMENTS = 100
MAX_ATTACHED = 26_214_400
"""Bytes of all attachments of one mail, decoded."""
MAX_FILENAME = 255
MAX_TAGS = 10
MAX_METADATA = 10
MAX_METADATA_VALUE = 80
FARTHEST = timedelta(days=366)
"""How far ahead `send-at` may be."""

_HEADER = re.compile(
    r"(?!x-postman-)(?:(?:x|list)-[a-z0-9-]{1,70}"
    r"|in-reply-to|references|auto-submitted|precedence|feedback-id|importance)",
    re.ASCII | re.IGNORECASE,
)
_HEADER_WANTED = (
    "is not a header that may be set; X-* (but not X-Postman-*), List-*, In-Reply-To, References, Auto-Submitted,"
    " Precedence, Feedback-ID and Importance may"
)
_TAG = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_TAG_WANTED = "must be 1 to 64 of A-Z a-z 0-9 _ . : -"
_KEY = re.compile(r"(?!postman[-_])[A-Za-z0-9_.-]{1,20}", re.ASCII | re.IGNORECASE)
_KEY_WANTED = "must have a key of 1 to 20 of A-Z a-z 0-9 _ . - that does not begin with postman- or postman_"
_MIME_TYPE = re.compile(r"(?!multipart/)[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}", re.ASCII | re.IGNORECASE)
_MIME_TYPE_WANTED = "must be a MIME type without parameters, as image/png; multipart is none of a file"
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,255}")
_CONTENT_ID_WANTED = "must be the bare id of a cid: link, without < and >"
_NOT_IN_BODY = re.compile("[\0\ud800-\udfff]")


class _Type(enum.StrEnum):
    TEXT = "text/plain"
    HTML = "text/html"


class _Disposition(enum.StrEnum):
    ATTACHMENT = "attachment"
    INLINE = "inline"


def parse(body: bytes, limits: Http, now: datetime | None = None, *, repeatable: bool = False) -> tuple[Mail, ...]:
    """The mails of a request.

    Args:
        body: JSON, an array of mails.
        limits: `max_batch` and `max_recipients` count.
        now: the time; for tests.
        repeatable: this may be a request that came before, and was accepted then: `expires-at` may be over.

    Returns:
        Mails that keep all that `postman.mail` promises, in their order.

    Raises:
        Invalid: with every place that is wrong. Nothing else is raised, whatever `body` is.
    """
    tree = decode(body, most_values=limits.max_batch * (1_000 + 10 * limits.max_recipients))
    reader = _MailReader(limits, now or datetime.now(UTC), repeatable=repeatable)
    mails: tuple[Mail, ...] = reader.items(tree, "", reader.mail, most=limits.max_batch, least=1)
    if reader.faults:
        raise Invalid(tuple(reader.faults))
    return mails


class _MailReader(Reader):
    """One method for each kind of field; what it returns counts only if nothing was wrong."""

    def __init__(self, limits: Http, now: datetime, *, repeatable: bool) -> None:
        super().__init__()
        self._earliest = datetime.min.replace(tzinfo=UTC) if repeatable else now
        self._most = limits.max_recipients
        self._now = now

    def mail(self, value: Value, path: str) -> Mail | None:
        read = self.fields(value, path, _MAIL, ("to", "from", "subject", "content"))
        if read is None:
            return None
        if "expires_at" in read and read["expires_at"] <= max(self._earliest, read.get("send_at", self._earliest)):
            self.fault(f"{path}.expires-at", "must be in the future, and after send-at")
            return None
        if len(read["to"]) > 1 or "cc" in read or "bcc" in read:
            _drop_repeated(read)
        return Mail(**read)

    def to(self, value: Value, path: str) -> tuple[Address, ...]:
        return self.items(value, path, self.address, most=self._most, least=1)

    def addresses(self, value: Value, path: str) -> tuple[Address, ...]:
        return self.items(value, path, self.address, most=self._most)

    def address(self, value: Value, path: str) -> Address | None:
        read = self.fields(value, path, _ADDRESS, ("email",))
        if read is None:
            return None
        address = Address(**read)
        if address.name:
            try:
                check_name(address.name, address.domain)
            except BadAddress as error:
                self.fault(f"{path}.name", str(error))
        return address

    def email(self, value: Value, path: str) -> str:
        try:
            return parse_email(value) if isinstance(value, str) else self.text(value, path)
        except BadAddress as error:
            self.fault(path, str(error))
            return ""

    def subject(self, value: Value, path: str) -> str:
        return self.line(value, path, most=MAX_SUBJECT)

    def contents(self, value: Value, path: str) -> tuple[Content, ...]:
        contents = self.items(value, path, self.content, most=len(_Type), least=1)
        if None in contents or len(contents) < len(_Type):
            return contents
        first, second = contents
        if first.type == second.type:
            self.fault(f"{path}[1].type", "is the same as that of [0]; each may be there once")
        return contents if first.type == _Type.TEXT else (second, first)

    def content(self, value: Value, path: str) -> Content | None:
        read = self.fields(value, path, _CONTENT, ("type", "value"))
        return Content(**read) if read else None

    def body_type(self, value: Value, path: str) -> _Type | None:
        return self.choice(value, path, _Type)

    def body(self, value: Value, path: str) -> str:
        return self.text(value, path, _body_flaw)

    def headers(self, value: Value, path: str) -> dict[str, str]:
        headers = self.mapping(value, path, most=MAX_HEADERS)
        for name, text in headers.items():
            self.pattern(name, at(path, name), _HEADER, _HEADER_WANTED)
            self.line(text, at(path, name), most=MAX_HEADER, least=1)
        if sum(len(name) + _bytes(text) for name, text in headers.items()) > MAX_HEADER_BYTES:
            self.fault(path, f"must not take more than {MAX_HEADER_BYTES} bytes")
        return self._once(headers, path)

    def metadata(self, value: Value, path: str) -> dict[str, str]:
        metadata = self.mapping(value, path, most=MAX_METADATA)
        for key, text in metadata.items():
            self.pattern(key, at(path, key), _KEY, _KEY_WANTED)
            self.line(text, at(path, key), most=MAX_METADATA_VALUE)
        return self._once(metadata, path)

    def tags(self, value: Value, path: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.items(value, path, self.tag, most=MAX_TAGS)))

    def tag(self, value: Value, path: str) -> str:
        return self.pattern(value, path, _TAG, _TAG_WANTED)

    def attachments(self, value: Value, path: str) -> tuple[Attachment, ...]:
        files = self.items(value, path, self.attachment, most=MAX_ATTACHMENTS)
        ids = [file.content_id for file in files if file and file.content_id]
        if len(set(ids)) < len(ids):
            self.fault(path, "has a content-id twice")
        if sum(len(file.content) for file in files if file) > MAX_ATTACHED:
            self.fault(path, f"must not take more than {MAX_ATTACHED} bytes, decoded")
        return files

    def attachment(self, value: Value, path: str) -> Attachment | None:
        read = self.fields(value, path, _ATTACHMENT, ("filename", "type", "content"))
        return Attachment(**read) if read else None

    def filename(self, value: Value, path: str) -> str:
        return self.text(value, path, _filename_flaw)

    def mime_type(self, value: Value, path: str) -> str:
        return self.pattern(value, path, _MIME_TYPE, _MIME_TYPE_WANTED).lower()

    def file(self, value: Value, path: str) -> bytes:
        try:
            return binascii.a2b_base64(self.text(value, path), strict_mode=True)
        except ValueError as error:
            self.fault(path, f"is not base64: {error}")
        return b""

    def disposition(self, value: Value, path: str) -> _Disposition | None:
        return self.choice(value, path, _Disposition)

    def content_id(self, value: Value, path: str) -> str:
        return self.pattern(value, path, _CONTENT_ID, _CONTENT_ID_WANTED)

    def priority(self, value: Value, path: str) -> Priority | None:
        return self.choice(value, path, Priority)

    def on_doubt(self, value: Value, path: str) -> OnDoubt | None:
        return self.choice(value, path, OnDoubt)

    def send_at(self, value: Value, path: str) -> datetime | None:
        time = self.time(value, path)
        if time and time > self._now + FARTHEST:
            self.fault(path, "must be at most a year ahead")
        return time

    def _once(self, fields: dict[str, str], path: str) -> dict[str, str]:
        if len({name.lower() for name in fields}) < len(fields):
            self.fault(path, "has a name twice; upper and lower case are the same here")
        return fields


_ADDRESS: Fields = {
    "email": ("email", _MailReader.email),
    "name": ("name", _MailReader.text),
}
_CONTENT: Fields = {
    "type": ("type", _MailReader.body_type),
    "value": ("value", _MailReader.body),
}
_ATTACHMENT: Fields = {
    "filename": ("filename", _MailReader.filename),
    "type": ("type", _MailReader.mime_type),
    "content": ("content", _MailReader.file),
    "disposition": ("disposition", _MailReader.disposition),
    "content-id": ("content_id", _MailReader.content_id),
}
_MAIL: Fields = {
    "to": ("to", _MailReader.to),
    "from": ("from_", _MailReader.address),
    "subject": ("subject", _MailReader.subject),
    "content": ("content", _MailReader.contents),
    "cc": ("cc", _MailReader.addresses),
    "bcc": ("bcc", _MailReader.addresses),
    "reply-to": ("reply_to", _MailReader.addresses),
    "headers": ("headers", _MailReader.headers),
    "attachments": ("attachments", _MailReader.attachments),
    "tags": ("tags", _MailReader.tags),
    "metadata": ("metadata", _MailReader.metadata),
    "priority": ("priority", _MailReader.priority),
    "send-at": ("send_at", _MailReader.send_at),
    "expires-at": ("expires_at", _MailReader.time),
    "on-doubt": ("on_doubt", _MailReader.on_doubt),
}
"""What a mail may have: its name in JSON, its name in `Mail`, and who reads it."""


def _drop_repeated(read: dict[str, Any]) -> None:
    """The same address twice in one mail: the first stays. So `to` never becomes empty."""
    seen: set[str] = set()
    for field in ("to", "cc", "bcc"):
        kept = []
        for address in read.get(field, ()):
            if address.email not in seen:
                seen.add(address.email)
                kept.append(address)
        read[field] = tuple(kept)


def _body_flaw(body: str) -> str | None:
    if not body:
        return "must not be empty"
    if "\0" in body or not body.isascii():
        found = _NOT_IN_BODY.search(body)
        return found and f"holds the character U+{ord(found[0]):04X}, which is not allowed here"
    return None


def _filename_flaw(name: str) -> str | None:
    if not name or len(name) > MAX_FILENAME:
        return f"must have 1 to {MAX_FILENAME} characters, not {len(name)}"
    if "/" in name or "\\" in name or name in {".", ".."}:
        return "must be the name of a file without a path"
    return flaw(name, UNSEEN)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
