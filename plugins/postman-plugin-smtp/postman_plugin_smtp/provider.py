"""One letter, one transaction: MAIL, RCPT for each recipient, DATA, the message, the dot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from postman.errors import MailRefused, MailRejected, NotAccepted, OutcomeUnknown, ProviderUnavailable
from postman.kind import Surroundings
from postman.mail import Letter
from postman.provider import Attempt, Receipt, Refusal
from postman_plugin_smtp import header
from postman_plugin_smtp.connection import Connection
from postman_plugin_smtp.message import render
from postman_plugin_smtp.pool import Pool
from postman_plugin_smtp.reply import Reply, account_refusal, refusal, takes_fewer
from postman_plugin_smtp.session import Dialler
from postman_plugin_smtp.settings import SmtpSettings, trust

_CONNECT: Final = 10.0
"""Seconds for finding the host and connecting to it; a host that is dead must not cost the time of a whole call."""
_LARGE: Final = 1_000_000
_RESET: Final = 2.0
"""Seconds for the answer to RSET."""


@dataclass(frozen=True)
class Transaction:
    """What one letter says to the server. Pure."""

    sender: str
    recipients: tuple[str, ...]
    message: bytes

    @classmethod
    def of(cls, letter: Letter) -> Transaction:
        """Render `letter`.

        Raises:
            MailRejected: a value of it could break out of its command or header.
        """
        recipients = (header.email("the recipients", address) for address in letter.mail.recipients)
        return cls(header.email("from", letter.mail.from_), tuple(dict.fromkeys(recipients)), render(letter))

    @property
    def stuffed(self) -> bytes:
        """The message as DATA wants it; every line ends in CRLF before dots are doubled."""
        message = self.message.replace(b"\r\n.", b"\r\n..")
        return b"." + message if message.startswith(b".") else message


class SmtpProvider:
    """Letters through one account; see `postman.provider.Provider` for the outcomes.

    A letter that no recipient may have is refused as a whole; one that some may not have is sent to the others. Only
    what goes wrong after the final dot is unknown.
    """

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._pool = Pool(dialler.open)
        self._threads = trio.CapacityLimiter(2)

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        """Hand `letter` over in one transaction; a connection that died while it idled is replaced once."""
        transaction = await self._transaction(letter)
        fresh = False
        while True:
            async with self._pool.lend(fresh=fresh) as connection:
                try:
                    await _begin(connection, transaction, attempt)
                except ProviderUnavailable:
                    if connection.letters == 1 or not connection.broken:
                        raise
                    fresh = True
                    continue
                refused = await _name_recipients(connection, transaction)
                return await _hand_over(connection, transaction, attempt, refused)

    async def _transaction(self, letter: Letter) -> Transaction:
        """Render `letter`, in a thread if that would hold the loop for long (about 10 ms a megabyte)."""
        mail = letter.mail
        size = sum(len(content.value) for content in mail.content) + sum(len(file.content) for file in mail.attachments)
        if size < _LARGE:
            return Transaction.of(letter)
        return await trio.to_thread.run_sync(Transaction.of, letter, limiter=self._threads, abandon_on_cancel=True)

    async def check(self) -> str:
        """Connect, encrypt, sign in, NOOP, QUIT."""
        connection = await self._dialler.open()
        try:
            reply = await connection.command("NOOP")
        finally:
            await connection.quit()
        if not reply.good:
            raise account_refusal(reply, "NOOP")
        settings = self._dialler.settings
        signed_in = "signed in" if settings.username else "no sign-in"
        return f"{settings.host}:{settings.service} is ready ({settings.security}, {signed_in})"

    async def close(self) -> None:
        """Close all that idles; calls under way close what they use when they end."""
        await self._pool.close()


@asynccontextmanager
async def open_smtp(settings: SmtpSettings, surroundings: Surroundings) -> AsyncIterator[SmtpProvider]:
    """Read the certificates and open the account; no connection is made before the first letter.

    Raises:
        ConfigError: `ca-file` cannot be read.
    """
    context = await trio.to_thread.run_sync(trust, settings, limiter=trio.CapacityLimiter(1))
    provider = SmtpProvider(Dialler(settings, context, min(_CONNECT, surroundings.timeout)))
    try:
        yield provider
    finally:
        await provider.close()


async def _begin(connection: Connection, transaction: Transaction, attempt: Attempt) -> None:
    size = len(transaction.message)
    limit = connection.extensions.get("SIZE", "").strip()
    if limit.isdecimal() and 0 < int(limit) < size:
        connection.resting = True
        raise MailRefused(f"the message has {size} bytes, the server takes {limit}")
    attempt.starting()
    connection.letters += 1
    parameter = f" SIZE={size}" if "SIZE" in connection.extensions else ""
    reply = await connection.command("MAIL", f"FROM:<{transaction.sender}>{parameter}")
    if not reply.good:
        connection.resting = reply.code >= 400
        raise refusal(reply, "MAIL")


async def _name_recipients(connection: Connection, transaction: Transaction) -> tuple[Refusal, ...]:
    """The recipients that the server does not want, if it wants any; a delay for one is a delay for the letter."""
    refused: list[Refusal] = []
    ends: list[NotAccepted] = []
    for count, recipient in enumerate(transaction.recipients):
        reply = await connection.command("RCPT", f"TO:<{recipient}>")
        if reply.good:
            continue
        if count > len(refused) and takes_fewer(reply):
            await _reset(connection, reply)
            raise MailRefused(f"the server takes fewer than {len(transaction.recipients)} recipients: {reply.sentence}")
        end = refusal(reply, "RCPT")
        if reply.code < 500:
            await _reset(connection, reply)
            raise end
        refused.append(Refusal(recipient, reply.sentence))
        ends.append(end)
    if len(refused) == len(transaction.recipients):
        await _reset(connection, reply)
        raise next((end for end in ends if not isinstance(end, MailRejected)), ends[0])
    return tuple(refused)


async def _hand_over(
    connection: Connection, transaction: Transaction, attempt: Attempt, refused: tuple[Refusal, ...]
) -> Receipt:
    reply = await connection.command("DATA")
    if reply.code != 354:
        await _reset(connection, reply)
        raise refusal(reply, "DATA")
    await connection.send(transaction.stuffed)
    if not await connection.is_quiet():
        raise ProviderUnavailable("DATA: the server did not wait for the end of the message")
    attempt.handed_over()
    try:
        reply = await connection.command(".")
    except ProviderUnavailable as error:
        raise OutcomeUnknown(error.reason) from None
    if reply.good:
        connection.resting = True
        return Receipt(reply.queue_id, refused)
    if reply.code < 400:
        raise OutcomeUnknown(f"the reply to the message makes no sense: {reply.sentence}")
    connection.resting = True
    raise refusal(reply, "message")


async def _reset(connection: Connection, reply: Reply) -> None:
    """Leave the transaction after a refusal, if the server is in step and stays.

    The letter's end is known already: a failure only costs the connection.
    """
    if connection.broken or reply.code < 400:
        return
    with trio.move_on_after(_RESET), suppress(ProviderUnavailable):
        connection.resting = (await connection.command("RSET")).good
