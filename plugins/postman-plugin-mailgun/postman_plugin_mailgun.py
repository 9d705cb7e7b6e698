"""Mailgun, through its v3 Messages API: https://documentation.mailgun.com/docs/mailgun/api-reference.

Mailgun has no idempotency key. Recipients on its suppression lists are accepted with 200 and fail later, which only its
events and webhooks tell.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec

from postman.hookspecs import hookimpl
from postman.kind import FEATURES, Kind, ProviderSettings, Surroundings
from postman.mail import Address, Letter, Mail
from postman.provider import (
    Attempt,
    MailRefused,
    MailRejected,
    ProviderError,
    ProviderMisconfigured,
    Receipt,
)
from postman.secret import Secret
from postman.wire import Answer, Client, File, basic, check_base_url, failure

MAX_RECIPIENTS = 1_000
MAX_BYTES = 26_214_400
MAX_EXTRAS = 16_384
"""Bytes of all o:, h: and v: fields together."""
MAX_TAGS = 3

_OWN_HEADERS = ("x-mailgun-", "x-postman-id")
"""What a client must not say to Mailgun by way of a header."""
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_WAIT = re.compile(r"after (?:(?P<seconds>[0-9]{1,9}) seconds|(?P<date>\w{3}, .+? (?:UTC|GMT)))")


class Settings(ProviderSettings, frozen=True, kw_only=True):
    """`settings` of a provider with `plugin = "mailgun"`."""

    api_key: Secret
    domain: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.-]{1,253}$")]
    base_url: str = "https://api.mailgun.net"  # domains in the EU: https://api.eu.mailgun.net

    def __post_init__(self) -> None:
        """Check what can be checked without asking."""
        check_base_url(self.base_url)


def account(settings: Settings) -> str:
    """The base URL and the domain: a domain belongs to one account."""
    return f"{settings.base_url} {settings.domain}"


def payload(letter: Letter) -> tuple[list[tuple[str, str]], list[File]]:
    """The fields and files of the request.

    Raises:
        MailRefused: Mailgun cannot carry it; nothing was sent.
    """
    mail = letter.mail
    fields = list(_fields(mail))
    extras = list(_extras(letter))
    _check_limits(mail, extras)
    return fields + extras, list(_files(mail))


def receipt(answer: Answer) -> Receipt:
    """What Mailgun's answer means.

    Raises:
        ProviderError: it is no receipt.
    """
    taken = answer.decode(_Taken)
    if answer.ok and taken and taken.id:
        return Receipt(taken.id)
    said = _said(answer)
    raise failure(answer, said, outcome=_outcome(answer, said), retry_after=_wait(said))


class Mailgun:
    """One domain at Mailgun."""

    def __init__(self, client: Client, domain: str) -> None:
        self._client = client
        self._domain = domain

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        """See `postman.provider.Provider`."""
        form, files = payload(letter)
        return receipt(await self._client.post(self._messages, attempt=attempt, form=form, files=files))

    async def check(self) -> str:
        """See `postman.provider.LiveCheck`. A sending key may ask nothing but to send: it is tried on an empty mail."""
        answer = await self._client.get(f"/v3/domains/{self._domain}")
        found = answer.decode(_Domain) if answer.ok else None
        if found and found.domain.state not in {"", "active"}:
            raise ProviderMisconfigured(f"the domain {self._domain} is {found.domain.state} at Mailgun")
        if found:
            return f"the key may see the domain {self._domain}, which can send"
        if answer.status not in {401, 403}:
            raise failure(answer, _said(answer))
        answer = await self._client.post(self._messages, attempt=None, form=[("o:testmode", "yes")])
        if answer.status == 400:
            return f"the key may send for the domain {self._domain}"
        raise failure(answer, _said(answer))

    @property
    def _messages(self) -> str:
        return f"/v3/{self._domain}/messages"


@hookimpl
def postman_register() -> Kind[Settings, Mailgun]:
    """See `postman.hookspecs`."""
    return Kind("mailgun", Settings, _open, account=account, marks=True, features=frozenset(FEATURES))


@asynccontextmanager
async def _open(settings: Settings, surroundings: Surroundings) -> AsyncIterator[Mailgun]:
    headers = {"Authorization": basic("api", settings.api_key)}
    async with surroundings.client(base_url=settings.base_url, headers=headers) as client:
        yield Mailgun(client, settings.domain)


class _Taken(msgspec.Struct):
    id: str


class _Message(msgspec.Struct):
    message: str


class _DomainState(msgspec.Struct):
    state: str = ""


class _Domain(msgspec.Struct):
    domain: _DomainState


def _outcome(answer: Answer, said: str) -> type[ProviderError] | None:
    """Where Mailgun's meaning differs from the usual one of a status."""
    said = said.lower()
    if answer.ok and answer.text.strip() == "Mailgun Magnificent API":  # what any unknown path answers, with 200
        return ProviderMisconfigured
    if answer.status == 400 and "not a valid address" in said:
        return MailRejected
    if answer.status == 400 and "not allowed to send" in said and "authorized recipients" not in said:
        return ProviderMisconfigured
    if answer.status == 400 or (answer.status == 403 and "not allowed to send large batches" in said):
        return MailRefused
    return None


def _said(answer: Answer) -> str:
    message = answer.decode(_Message)
    return message.message if message else ""


def _wait(said: str) -> float | None:
    """Seconds, from "try again after 120 seconds" or "... after Mon, 20 Dec 2021 20:33:21 UTC"."""
    found = _WAIT.search(said)
    if not found:
        return None
    if found["seconds"]:
        return float(found["seconds"])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(found["date"]).timestamp() - time.time())
    except ValueError:
        return None


def _check_limits(mail: Mail, extras: list[tuple[str, str]]) -> None:
    if len(mail.recipients) > MAX_RECIPIENTS:
        raise MailRefused(f"Mailgun takes at most {MAX_RECIPIENTS} recipients")
    if sum(len(file.content) for file in mail.attachments) + sum(len(c.value) for c in mail.content) > MAX_BYTES:
        raise MailRefused(f"Mailgun takes at most {MAX_BYTES} bytes")
    if sum(len(name.encode()) + len(value.encode()) for name, value in extras) > MAX_EXTRAS:
        raise MailRefused(f"Mailgun takes at most {MAX_EXTRAS} bytes of headers, tags and metadata together")


def _fields(mail: Mail) -> Iterator[tuple[str, str]]:
    yield "from", _mailbox(mail.from_)
    for name, addresses in (("to", mail.to), ("cc", mail.cc), ("bcc", mail.bcc)):
        for address in addresses:
            yield name, _mailbox(address)
    yield "subject", mail.subject
    for content in mail.content:
        yield content.type.removeprefix("text/").replace("plain", "text"), content.value


def _extras(letter: Letter) -> Iterator[tuple[str, str]]:
    mail = letter.mail
    if mail.reply_to:
        yield "h:Reply-To", ", ".join(map(_mailbox, mail.reply_to))
    for name, value in mail.headers.items():
        if not name.lower().startswith(_OWN_HEADERS):
            yield f"h:{name}", value
    yield "h:Message-Id", letter.message_id
    yield "h:X-Postman-Id", letter.id
    for name, value in mail.metadata.items():
        yield f"v:{name}", value
    yield "v:postman_id", letter.id
    yield "o:suppress-headers", "X-Mailgun-Variables"  # which would show the metadata to the recipients
    for tag in tuple(dict.fromkeys(mail.tags))[:MAX_TAGS]:
        yield "o:tag", tag


def _files(mail: Mail) -> Iterator[File]:
    """The files. An inline one is found by its name, which is therefore its content id."""
    for file in mail.attachments:
        inline = file.disposition == "inline"
        yield File(
            field="inline" if inline else "attachment",
            filename=(inline and file.content_id) or file.filename,
            type=file.type,
            content=file.content,
        )


def _mailbox(address: Address) -> str:
    """`name <address>`, quoted where a comma or the like would part it in two."""
    if not address.name:
        return address.email
    name = address.name
    if not _ATOMS.fullmatch(name):
        name = '"' + name.replace("\\", r"\\").replace('"', r"\"") + '"'
    return f"{name} <{address.email}>"
