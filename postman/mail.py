"""What a client asks to be sent (`Mail`), and what we carry (`Letter`: a mail with its tracking id).

These are plain values. How they are read from untrusted bytes, and every rule they obey, is in `postman.http.parse`;
whoever holds a `Mail` may rely on it: addresses are ASCII with A-label domains and unique within their field order,
no text holds control characters outside bodies, and every bound that stands there holds.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Literal, NewType

import msgspec

Id = NewType("Id", str)
"""A tracking id, `0x` and 16 lower-case hex digits; as text it sorts by time."""


class OnDoubt(enum.StrEnum):
    """What to do with a letter that a provider may have taken, when nobody can tell."""

    HOLD = "hold"
    """Wait for a person: at most one copy."""
    RESEND = "resend"
    """Send again after `resend-after`: at least one copy, perhaps two."""


class Priority(enum.StrEnum):
    """The lane of a letter; lanes are served by weight, so that a password reset overtakes a newsletter."""

    HIGH = "high"
    NORMAL = "normal"
    BULK = "bulk"

    @property
    def lane(self) -> int:
        """The lane's number in notes and rows: 0 high, 1 normal, 2 bulk."""
        return (Priority.HIGH, Priority.NORMAL, Priority.BULK).index(self)


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="kebab", kw_only=True):
    """A frozen value; on the wire its names are kebab-case and defaults are left out.

    A newer Postman may have put fields into a ledger that this one does not know; without them the mail is another one.
    """


class Address(_Value, frozen=True, kw_only=True):
    """One mailbox. The domain is an A-label (IDNA 2008), the local part ASCII."""

    email: str
    name: str = ""

    @property
    def domain(self) -> str:
        """The part after the @."""
        return self.email.rpartition("@")[2]


class Content(_Value, frozen=True, kw_only=True):
    """One body. A mail has one or two, each type once, text/plain first."""

    type: Literal["text/plain", "text/html"]
    value: str


class Attachment(_Value, frozen=True, kw_only=True):
    """A file. `content` is the decoded bytes (base64 in JSON)."""

    filename: str
    type: str
    content: bytes
    disposition: Literal["attachment", "inline"] = "attachment"
    content_id: str | None = None
    """For inline images: the X of `<img src="cid:X">`."""


class Mail(_Value, frozen=True, kw_only=True):
    """A mail as a client posted it, checked and normalised."""

    to: tuple[Address, ...]
    from_: Address = msgspec.field(name="from")
    subject: str
    content: tuple[Content, ...]
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    headers: dict[str, str] = {}
    attachments: tuple[Attachment, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    priority: Priority = Priority.NORMAL
    send_at: datetime | None = None
    expires_at: datetime | None = None
    on_doubt: OnDoubt | None = None

    @property
    def recipients(self) -> tuple[Address, ...]:
        """To, cc and bcc, in this order."""
        return self.to + self.cc + self.bcc

    @property
    def text(self) -> str | None:
        """The plain body, if there is one."""
        return next((c.value for c in self.content if c.type == "text/plain"), None)

    @property
    def html(self) -> str | None:
        """The HTML body, if there is one."""
        return next((c.value for c in self.content if c.type == "text/html"), None)


class Letter(_Value, frozen=True, kw_only=True):
    """A mail with its tracking id; everything a provider may depend on, so that each attempt's bytes are the same."""

    id: Id
    mail: Mail
    accepted: datetime
    """When it was accepted, UTC; the Date of the message."""

    @property
    def message_id(self) -> str:
        """The Message-ID header, brackets included: the same on every attempt and at every provider."""
        return f"<{self.id}@{self.mail.from_.domain}>"
