"""What a vendor answered over HTTP, and which of the closed list of outcomes that is. Pure: no I/O.

A plugin reads a receipt out of a 2xx; for all else it raises `failure(answer, ...)`, by `STATUSES` unless it knows
better. What the table does not name is `OutcomeUnknown`: not known is not "not accepted".
"""

from __future__ import annotations

import email.utils
import http
import re
import time
import zlib
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from postman.errors import (
    MailRefused,
    MailRejected,
    OutcomeUnknown,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
)
from postman.secret import hide

MAX_BODY = 1_048_576
"""Bytes of an answer's body, decoded."""
MAX_DETAIL = 200
"""Characters of a vendor's words in a reason."""
MAX_REASON = 500
"""Characters of a reason, whoever gave it."""

STATUSES: Mapping[int, type[ProviderError]] = MappingProxyType(
    {
        **dict.fromkeys((401, 402, 403, 404, 405, 406, 410, 415, *range(300, 400)), ProviderMisconfigured),
        400: MailRejected,
        422: MailRejected,
        413: MailRefused,
        429: ProviderUnavailable,
        503: ProviderUnavailable,
    }
)
"""What a status means unless a plugin knows better; every other one is `OutcomeUnknown`."""


class Answer(msgspec.Struct, frozen=True):
    """A vendor's answer.

    Attributes:
        status: 200 .. 599.
        headers: names in lower case; of a repeated one the last.
        body: decoded; empty when a refusal's body did not come whole, since its status is enough.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the vendor says that it took what it was given."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body for a person; what is not UTF-8 is replaced."""
        return self.body.decode(errors="replace")

    def decode[T](self, type: type[T]) -> T | None:
        """The body's JSON as `type`; None when it is something else."""
        try:
            return msgspec.json.decode(self.body, type=type)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None


def failure(
    answer: Answer, detail: str = "", *, outcome: type[ProviderError] | None = None, retry_after: float | None = None
) -> ProviderError:
    """The outcome of an answer that is no receipt, ready to be raised.

    Args:
        answer: a refusal, or a success that cannot be read.
        detail: the vendor's words; addresses and control characters are taken out.
        outcome: when the plugin knows better than `STATUSES`.
        retry_after: seconds, when the vendor says them elsewhere than in the header.
    """
    outcome = outcome or STATUSES.get(answer.status, OutcomeUnknown)
    phrase = http.HTTPStatus(answer.status).phrase if answer.status in http.HTTPStatus else ""
    said = f"the provider answered {answer.status} {phrase}".rstrip()
    reason = f"{said}: {words}" if (words := without_addresses(detail)) else said
    if issubclass(outcome, ProviderUnavailable):
        wait = wait_asked(answer.headers) if retry_after is None else retry_after
        return outcome(reason, retry_after=wait, throttled=answer.status == http.HTTPStatus.TOO_MANY_REQUESTS)
    return outcome(reason)


def wait_asked(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """The seconds of a Retry-After, given as seconds or as an HTTP date; None for none, a past one or garbage."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,12}", value):
        return float(value)
    try:
        seconds = email.utils.parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
    except (ValueError, OverflowError):
        return None
    return seconds if seconds >= 0 else None


def without_addresses(text: str, most: int = MAX_DETAIL) -> str:
    """A vendor's words on one line, without mail addresses and secrets of ours, at most `most` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in hide(text)[: 8 * most]).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def decoded(headers: Mapping[str, str], body: bytes) -> bytes:
    """The body without its content coding. We ask for none; gzip is borne, up to `MAX_BODY`.

    Raises:
        ValueError: another coding, not whole, or too long.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return body
    if coding not in {"gzip", "x-gzip"}:
        raise ValueError("a content coding that was not asked for")
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise ValueError("broken gzip") from error
    if not inflater.eof:
        raise ValueError(f"gzip of more than {MAX_BODY} bytes, or cut")
    return plain
