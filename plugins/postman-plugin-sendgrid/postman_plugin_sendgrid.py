"""SendGrid, through its v3 Mail Send API: https://www.twilio.com/docs/sendgrid/api-reference/mail-send.

SendGrid has no idempotency key and no look-up by our id that every account has: a call in doubt stays in doubt.
Recipients on its suppression lists are accepted with 202 and dropped later, which only its webhooks tell.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from postman.hookspecs import hookimpl
from postman.kind import FEATURES, Kind, ProviderSettings, Surroundings
from postman.mail import Address, Attachment, Letter, Mail
from postman.provider import (
    Attempt,
    MailRefused,
    MailRejected,
    ProviderError,
    ProviderMisconfigured,
    Receipt,
)
from postman.secret import Secret
from postman.wire import Answer, Client, bearer, check_base_url, failure

MAX_RECIPIENTS = 1_000
MAX_BYTES = 31_457_280

_OWN_HEADERS = ("x-sg-", "x-smtpapi", "x-postman-id")
"""What a client must not say to SendGrid by way of a header."""
_ABOUT_AN_ADDRESS = re.compile(r"(from|reply_to|reply_to_list\.\d+|personalizations\.\d+\.(to|cc|bcc)\.\d+)\.email")
_SENDER_NOT_OURS = re.compile("verified sender identity", re.IGNORECASE)


class Settings(ProviderSettings, frozen=True, kw_only=True):
    """`settings` of a provider with `plugin = "sendgrid"`."""

    api_key: Secret
    base_url: str = "https://api.sendgrid.com"  # subusers in the EU: https://api.eu.sendgrid.com

    def __post_init__(self) -> None:
        """Check what can be checked without asking."""
        check_base_url(self.base_url)


def account(settings: Settings) -> str:
    """The base URL and the key's public id: in SG.<id>.<secret> the id is what SendGrid's console and API show.

    A key of another shape is told by 32 bits of its hash: enough to tell two keys apart, too few to confirm a guess.
    """
    key = settings.api_key.reveal()
    shape = re.fullmatch(r"SG\.([A-Za-z0-9_-]{8,})\.[A-Za-z0-9_-]{8,}", key)
    return f"{settings.base_url} {shape[1] if shape else hashlib.sha256(key.encode()).hexdigest()[:8]}"


def payload(letter: Letter) -> dict[str, Any]:
    """The body of the request.

    Raises:
        MailRefused: SendGrid cannot carry it; nothing was sent.
    """
    mail = letter.mail
    _check_limits(mail)
    to, cc, bcc = _each_once(mail.to, mail.cc, mail.bcc)
    reply_to = [_address(address) for address in mail.reply_to]
    return _without_empty(
        {
            "personalizations": [
                _without_empty(
                    {
                        "to": to,
                        "cc": cc,
                        "bcc": bcc,
                        "custom_args": {**mail.metadata, "postman_id": letter.id},
                    }
                )
            ],
            "from": _address(mail.from_),
            "reply_to": reply_to[0] if len(reply_to) == 1 else None,
            "reply_to_list": reply_to if len(reply_to) > 1 else None,
            "subject": mail.subject or " ",  # SendGrid takes no empty one
            "content": [{"type": c.type, "value": c.value} for c in mail.content if c.value]
            or [{"type": mail.content[0].type, "value": " "}],
            "attachments": [_attachment(file) for file in mail.attachments],
            "headers": {
                **{name: value for name, value in mail.headers.items() if not name.lower().startswith(_OWN_HEADERS)},
                "X-Postman-Id": letter.id,
            },
            "categories": list(dict.fromkeys(mail.tags)),
        }
    )


def receipt(answer: Answer) -> Receipt:
    """What SendGrid's answer means.

    Raises:
        ProviderError: it is no receipt.
    """
    if answer.status == 202:
        return Receipt(answer.headers.get("x-message-id"))
    errors = answer.decode(_Errors)
    found = errors.errors if errors else ()
    detail = "; ".join(f"{error.field}: {error.message}" if error.field else error.message for error in found)
    raise failure(answer, detail, outcome=_outcome(answer.status, found), retry_after=_limit_ends(answer))


class SendGrid:
    """One SendGrid account."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        """See `postman.provider.Provider`."""
        return receipt(await self._client.post("/v3/mail/send", attempt=attempt, json=payload(letter)))

    async def check(self) -> str:
        """See `postman.provider.LiveCheck`."""
        answer = await self._client.get("/v3/scopes")
        scopes = answer.decode(_Scopes) if answer.ok else None
        if scopes is None:
            raise failure(answer)
        if "mail.send" not in scopes.scopes:
            raise ProviderMisconfigured("the key may not send mail: give it the scope mail.send")
        return "the key may send mail"


@hookimpl
def postman_register() -> Kind[Settings, SendGrid]:
    """See `postman.hookspecs`."""
    return Kind("sendgrid", Settings, _open, account=account, marks=True, features=frozenset(FEATURES))


@asynccontextmanager
async def _open(settings: Settings, surroundings: Surroundings) -> AsyncIterator[SendGrid]:
    headers = {"Authorization": bearer(settings.api_key)}
    async with surroundings.client(base_url=settings.base_url, headers=headers) as client:
        yield SendGrid(client)


class _Error(msgspec.Struct):
    message: str = ""
    field: str | None = None


class _Errors(msgspec.Struct):
    errors: list[_Error]


class _Scopes(msgspec.Struct):
    scopes: list[str]


def _outcome(status: int, errors: Iterable[_Error]) -> type[ProviderError] | None:
    """Where SendGrid's meaning differs from the usual one of a status."""
    if status == 400:  # of many things that only SendGrid minds, an address alone is wrong everywhere
        return MailRejected if any(_ABOUT_AN_ADDRESS.match(e.field or "") for e in errors) else MailRefused
    if status == 403 and any(_SENDER_NOT_OURS.search(e.message) for e in errors):
        return MailRefused
    return None


def _limit_ends(answer: Answer) -> float | None:
    """Seconds until X-RateLimit-Reset, an epoch time; SendGrid promises no Retry-After."""
    reset = answer.headers.get("x-ratelimit-reset", "")
    if "retry-after" in answer.headers or not re.fullmatch(r"[0-9]{1,12}", reset):
        return None
    return max(0.0, int(reset) - time.time())


def _check_limits(mail: Mail) -> None:
    if len(mail.recipients) > MAX_RECIPIENTS:
        raise MailRefused(f"SendGrid takes at most {MAX_RECIPIENTS} recipients")
    if not all(file.content for file in mail.attachments):
        raise MailRefused("SendGrid takes no empty file")
    size = sum(len(file.content) * 4 // 3 for file in mail.attachments) + sum(len(c.value) for c in mail.content)
    if size > MAX_BYTES:
        raise MailRefused(f"SendGrid takes at most {MAX_BYTES} bytes")


def _each_once(*fields: Iterable[Address]) -> Iterable[list[dict[str, str]]]:
    """Recipients; SendGrid refuses an address that comes twice, in whatever case."""
    seen: set[str] = set()
    for field in fields:
        kept = []
        for address in field:
            if address.email.lower() not in seen:
                seen.add(address.email.lower())
                kept.append(_address(address, forbidden=",;"))
        yield kept


def _address(address: Address, forbidden: str = "") -> dict[str, str]:
    """An address; `forbidden` are characters that SendGrid does not take in the names of recipients."""
    name = " ".join("".join(" " if c in forbidden else c for c in address.name).split())
    return {"email": address.email, "name": name} if name else {"email": address.email}


def _attachment(file: Attachment) -> dict[str, Any]:
    return _without_empty(
        {
            "content": file.content,
            "type": file.type,
            "filename": file.filename,
            "disposition": file.disposition,
            "content_id": file.content_id,
        }
    )


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
