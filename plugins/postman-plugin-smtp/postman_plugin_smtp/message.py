"""A letter as a message of RFC 5322: CRLF, 7-bit, the same bytes on every attempt. Pure.

Bodies are always quoted-printable or base64, so nothing hangs on 8BITMIME, no line is long, no line is a lone dot, and
no body can hold a boundary (`=_` stands in neither encoding). Bcc, tags and metadata are not in it: whoever gets the
mail could read them.
"""

from __future__ import annotations

from base64 import b64encode
from binascii import b2a_qp
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime

from postman.errors import MailRejected
from postman.mail import Attachment, Letter, Mail
from postman_plugin_smtp import header

_OURS = {
    "from",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "sender",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "x-postman-id",
}

_COMMANDS = tuple("x-smtpapi x-sg- x-msys- x-mailgun- x-mc- x-mj- x-pm- x-mt- x-ses- x-mailin-".split())  # noqa: SIM905  # half as long
"""What vendors' relays obey, other recipients among it; left out, since a client gives orders to us alone."""


@dataclass(frozen=True)
class _Part:
    """A MIME part: its header fields, and its body, which may lack the last CRLF."""

    fields: bytes
    body: bytes

    def __bytes__(self) -> bytes:
        return self.fields + b"\r\n" + self.body


def render(letter: Letter) -> bytes:
    """The message, ending in CRLF, not yet dot-stuffed.

    Raises:
        MailRejected: a value cannot be written without harm; names the field.
    """
    mail = letter.mail
    fields = [
        header.field("Date", format_datetime(letter.accepted.astimezone(UTC))),
        header.field("Message-ID", letter.message_id),
        header.field("X-Postman-Id", letter.id),
        header.field("Subject", header.unstructured("Subject", mail.subject)),
    ]
    lists = (("From", (mail.from_,)), ("To", mail.to), ("Cc", mail.cc), ("Reply-To", mail.reply_to))
    fields += [header.field(name, header.mailboxes(name, addresses)) for name, addresses in lists if addresses]
    for name, value in mail.headers.items():
        if name.lower() in _OURS or name.lower().startswith("content-"):
            raise MailRejected(f"header {name} is set by Postman")
        if name.lower().startswith(_COMMANDS):
            continue
        fields.append(header.field(name, header.unstructured(f"header {name}", value)))
    fields.append(header.field("MIME-Version", "1.0"))
    message = b"".join(fields) + bytes(_content(mail, f"=_{letter.id}"))
    return message if message.endswith(b"\r\n") else message + b"\r\n"


def _content(mail: Mail, boundary: str) -> _Part:
    """The tree: mixed(alternative(text, related(html, inline images)), attachments), without what is not needed."""
    related = [a for a in mail.attachments if a.disposition == "inline" and mail.html is not None]
    attached = [a for a in mail.attachments if a.disposition != "inline" or mail.html is None]
    bodies = [_text(content.type, content.value) for content in mail.content]
    if related:
        bodies[-1] = _multipart("related", f"{boundary}_r", [bodies[-1], *map(_file, related)], '; type="text/html"')
    content = bodies[0] if len(bodies) == 1 else _multipart("alternative", f"{boundary}_a", bodies)
    return _multipart("mixed", f"{boundary}_m", [content, *map(_file, attached)]) if attached else content


def _multipart(subtype: str, boundary: str, parts: list[_Part], parameters: str = "") -> _Part:
    fields = header.field("Content-Type", f'multipart/{subtype}; boundary="{boundary}"{parameters}')
    delimiter = f"--{boundary}".encode()
    body = b"".join(delimiter + b"\r\n" + bytes(part) + b"\r\n" for part in parts)
    return _Part(fields, body + delimiter + b"--\r\n")


def _text(media_type: str, text: str) -> _Part:
    """A body, its line breaks made CRLF; base64 where quoted-printable would be longer."""
    try:
        raw = text.replace("\r\n", "\n").replace("\r", "\n").encode()
    except UnicodeEncodeError:
        raise MailRejected("a body holds half a character") from None
    kind = header.field("Content-Type", f"{media_type}; charset=utf-8")
    readable = b2a_qp(raw)
    if len(readable) > len(raw) * 3 // 2 + 100:
        return _base64(kind, raw.replace(b"\n", b"\r\n"))
    body = readable.replace(b"\n", b"\r\n")
    return _Part(kind + header.field("Content-Transfer-Encoding", "quoted-printable"), body)


def _file(attachment: Attachment) -> _Part:
    fields = header.field("Content-Type", header.media_type(attachment.type))
    fields += header.field("Content-Disposition", header.disposition(attachment.disposition, attachment.filename))
    if attachment.content_id is not None:
        fields += header.field("Content-ID", header.content_id(attachment.content_id))
    return _base64(fields, attachment.content)


def _base64(fields: bytes, raw: bytes) -> _Part:
    encoded = b64encode(raw)
    lines = [encoded[at : at + 76] for at in range(0, len(encoded), 76)]
    return _Part(fields + header.field("Content-Transfer-Encoding", "base64"), b"\r\n".join(lines))
