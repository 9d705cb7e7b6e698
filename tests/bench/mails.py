"""The mails of the benchmark: alike but for their recipients, and exactly as long as each other."""

from __future__ import annotations

import msgspec

TEXT = 2_048
"""Characters of a mail's body."""


def _template() -> bytes:
    paragraph = "Your order has left our warehouse and will be with you on one of the next three working days.\r\n\r\n"
    mail = {
        "to": [{"email": "customer-%08d@example.com", "name": "Customer"}],
        "from": {"email": "orders@shop.example", "name": "The Shop"},
        "subject": "Your order is on its way",
        "content": [{"type": "text/plain", "value": (paragraph * (TEXT // len(paragraph) + 1))[:TEXT]}],
    }
    return msgspec.json.encode(mail)


_TEMPLATE = _template()


def batch(first: int, size: int) -> bytes:
    """The body of a POST of `size` mails, to the customers from `first` on."""
    return b"[" + b",".join([_TEMPLATE % number for number in range(first, first + size)]) + b"]"
