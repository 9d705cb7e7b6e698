"""Letters that try a provider: every feature of a mail, alone and together, with what is awkward about it.

And `an_attempt` to send one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from postman.mail import Address, Attachment, Content, Id, Letter, Mail
from postman.provider import Attempt

_ACCEPTED = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
_TEXT = Content(type="text/plain", value="Hello,\n\nyour order is on its way.\n")
_HTML = Content(type="text/html", value="<p>Hello,</p><p>your order is <b>on its way</b>.</p>")
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da63fccf500f00038601c8d6d1f4e20000000049454e44ae426082"
)


def a_letter(id: int = 1, **fields: Any) -> Letter:  # noqa: ANN401  # what Mail takes
    """A letter that differs from a plain one in `fields`."""
    plain = {"to": (Address(email="ann@example.org"),), "from_": Address(email="shop@example.com")}
    mail = Mail(**{**plain, "subject": "Your order", "content": (_TEXT,), **fields})
    return Letter(id=Id(f"0x{id:016x}"), mail=mail, accepted=_ACCEPTED)


def an_attempt() -> Attempt:
    """An attempt whose lease does not end."""
    return Attempt("the-key", lease_ends=1.0, clock=lambda: 0.0)


def a_large_letter(size: int = 12_582_912) -> Letter:
    """A letter that no kernel takes in one go when the vendor does not read."""
    return a_letter(content=(Content(type="text/plain", value="x" * size),))


def _many(count: int, name: str = "") -> tuple[Address, ...]:
    return tuple(Address(email=f"reader{n}@example.org", name=name and f"{name} {n}") for n in range(count))


_EVERYTHING: dict[str, dict[str, Any]] = {
    "text": {},
    "html": {"content": (_HTML,)},
    "text and html": {"content": (_TEXT, _HTML)},
    "unicode": {
        "subject": "Bestellung für Zoë: 東京 🚚",
        "content": (Content(type="text/plain", value="Grüße aus 東京 🚚\n"),),
        "to": (Address(email="zoe@xn--mnchen-3ya.example", name="Zoë Großmann"),),
        "from_": Address(email="shop@example.com", name="Café 東京"),
    },
    "names with commas and quotes": {
        "to": (
            Address(email="ann@example.org", name='Smith, Ann "Annie"; PhD'),
            Address(email="bob@example.org", name="O'Neil \\ Bob (sales) <x>"),
        ),
        "from_": Address(email="shop@example.com", name='Shop, "The"'),
    },
    "cc and bcc": {"cc": (Address(email="cc@example.org", name="Copy"),), "bcc": (Address(email="bcc@example.org"),)},
    "one reply-to": {"reply_to": (Address(email="help@example.com", name="Help, please"),)},
    "several reply-to": {"reply_to": (Address(email="help@example.com", name="Help"), Address(email="b@example.com"))},
    "attachments": {
        "attachments": (
            Attachment(filename="bill.pdf", type="application/pdf", content=b"%PDF-1.7\r\n\x00\xff"),
            Attachment(filename='Rechnung "März".csv', type="text/csv", content="a;ä\r\n".encode()),
        )
    },
    "inline image": {
        "content": (_TEXT, Content(type="text/html", value='<img src="cid:logo@1">')),
        "attachments": (
            Attachment(filename="l.png", type="image/png", content=_PIXEL, disposition="inline", content_id="logo@1"),
        ),
    },
    "headers": {
        "headers": {
            "X-Campaign": "autumn",
            "List-Unsubscribe": "<https://example.com/u?a=1&b=2>",
            "In-Reply-To": "<1@example.org>",
        }
    },
    "tags": {"tags": ("order", "eu", "a:b.c-d_e", "four", "five")},
    "metadata": {"metadata": {"order": "4711", "note": 'naïve, "quoted" & 100 %'}},
    "a hundred recipients": {"to": _many(100, "Reader")},
    "empty subject": {"subject": ""},
    "empty body": {"content": (Content(type="text/plain", value=""),)},
}  # fmt: skip

LETTERS: Mapping[str, Letter] = MappingProxyType(
    {
        name: a_letter(number, **fields)
        for number, (name, fields) in enumerate(
            [
                *_EVERYTHING.items(),
                ("everything", {k: v for fields in _EVERYTHING.values() for k, v in fields.items()}),
            ],
            1,
        )
    }
)
"""By what is special about each."""
