"""A server's reply, and the outcome that a refusal stands for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from postman.answer import without_addresses
from postman.errors import MailRefused, MailRejected, NotAccepted, ProviderMisconfigured, ProviderUnavailable

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_LIMIT = re.compile(r"throttl|too many|\brate\b|\bquota\b", re.IGNORECASE)

_OUR_ACCOUNT = frozenset({530, 534, 535, 538})
"""Authentication required, mechanism too weak, credentials invalid, encryption required (RFC 4954)."""

_SENDER = frozenset({"1.7", "1.8"})
"""The only codes of x.1 that speak of the sender, which another provider may know better (RFC 3463)."""

_GREYLIST = re.compile(r"gr[ea]y-?\s?list", re.IGNORECASE)

_QUEUE_ID = re.compile(
    r"queued as ([\w.-]{4,})"  # Postfix, Amavis, many relays
    r"|\bid=([\w-]{6,})"  # Exim
    r"|\[InternalId=(\d+)"  # Exchange
    r"|^(\w{6,}) Message accepted"  # Sendmail, OpenSMTPD
    r"|^Ok ([\w-]{16,})$"  # Amazon SES
    r"|Queued \(([\w.-]{8,})\)",  # Haraka
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reply:
    """One reply, its lines without the code.

    Attributes:
        code: 200 .. 599.
        lines: at least one; undecodable bytes replaced.
    """

    code: int
    lines: tuple[str, ...]

    @property
    def good(self) -> bool:
        """2xx."""
        return self.code // 100 == 2

    @property
    def enhanced(self) -> str:
        """The status code of RFC 3463, `5.1.1`, or nothing."""
        match = _ENHANCED.match(self.lines[0])
        return match[1] if match else ""

    @property
    def queue_id(self) -> str | None:
        """The server's own name of the letter, if its reply is one of the usual sentences."""
        text = _ENHANCED.sub("", self.lines[0], count=1).strip()
        match = _QUEUE_ID.search(text)
        return next(filter(None, match.groups())) if match else None

    @property
    def sentence(self) -> str:
        """Code and first line for the history: short, printable, without addresses."""
        return f"{self.code} {without_addresses(self.lines[0])}".strip()


def refusal(reply: Reply, said_to: str) -> NotAccepted:
    """What a reply that is not the hoped one means for a letter that was surely not accepted.

    Args:
        reply: any but the success of its command.
        said_to: the command, for the sentence.
    """
    reason = f"{said_to}: {reply.sentence}"
    if reply.code // 100 == 4 or reply.code < 400:  # a success of another command: the server is out of step
        mail_only = _is_about_a_recipient(reply)
        return ProviderUnavailable(reason, throttled=_says_limit(reply) and not mail_only, mail_only=mail_only)
    if reply.code in _OUR_ACCOUNT:
        return ProviderMisconfigured(reason)
    if reply.enhanced.startswith("5.1.") and reply.enhanced[2:] not in _SENDER:
        return MailRejected(reason)
    return MailRefused(reason)


def account_refusal(reply: Reply, said_to: str) -> NotAccepted:
    """The same for commands that no mail is to blame for. What AUTH was told is left out: it may echo secrets."""
    reason = f"{said_to}: {reply.code if said_to == 'AUTH' else reply.sentence}"
    if reply.code // 100 == 5 and not (said_to == "greeting" or _says_limit(reply)):
        return ProviderMisconfigured(reason)
    return ProviderUnavailable(reason, throttled=_says_limit(reply))


def takes_fewer(reply: Reply) -> bool:
    """Whether RCPT was refused because the transaction has too many recipients already."""
    return reply.enhanced in {"4.5.3", "5.5.3"} or (reply.code == 452 and not reply.enhanced)


def _is_about_a_recipient(reply: Reply) -> bool:
    """Whether an address or a mailbox is what delays (RFC 3463, x.1 and x.2), or greylisting: the server works."""
    about = reply.enhanced.startswith(("4.1.", "4.2.")) and reply.enhanced[2:] not in _SENDER
    return about or any(_GREYLIST.search(line) for line in reply.lines)


def _says_limit(reply: Reply) -> bool:
    return any(_LIMIT.search(line) for line in reply.lines)
