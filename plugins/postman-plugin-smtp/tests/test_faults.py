"""Each command and each way it can go wrong, with the outcome and the phase that must follow."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import pytest

from postman.mail import Address, Attachment
from postman.provider import (
    Attempt,
    MailRefused,
    MailRejected,
    OutcomeUnknown,
    Phase,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    Receipt,
    Refusal,
    TooLate,
)
from postman.secret import Secret
from postman.testing.letters import a_letter, an_attempt
from postman.testing.smtp_fault_server import Act, Fault, open_smtp_fault_server
from postman_plugin_smtp import SmtpProvider

type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]

DROP, RESET = Fault.DROP, Fault.RESET
GARBAGE = b"\x00\xffnonsense\r\n"
ENDLESS_LINE = b"250 " + b"x" * 80_000
ENDLESS_LINES = b"250-x\r\n" * 200
TWO_CODES = b"250-fault.example\r\n550 or not\r\n"
TWO_REPLIES = b"250 Ok\r\n250 Ok\r\n"

UNMARKED, STARTED, HANDED_OVER = Phase.UNMARKED, Phase.STARTED, Phase.HANDED_OVER
ONE = ("a@example.net",)
TWO = ("a@example.net", "b@example.net")


class Row(NamedTuple):
    """A fault and what must come of it.

    Attributes:
        moment: where it goes wrong.
        act: how.
        end: the outcome.
        phase: of the attempt.
        taken: mails that the server may have.
        recipients: of the letter.
    """

    moment: str
    act: Act
    end: type[ProviderError]
    phase: Phase
    taken: int = 0
    recipients: tuple[str, ...] = ONE


FAULTS = [
    Row("banner", b"421 4.3.2 closing\r\n", ProviderUnavailable, UNMARKED),
    Row("banner", b"450 busy\r\n", ProviderUnavailable, UNMARKED),
    Row("banner", b"554 no service here\r\n", ProviderUnavailable, UNMARKED),
    Row("banner", b"SSH-2.0-OpenSSH_9\r\n", ProviderUnavailable, UNMARKED),
    Row("banner", DROP, ProviderUnavailable, UNMARKED),
    Row("banner", RESET, ProviderUnavailable, UNMARKED),
    Row("EHLO", b"421 4.3.2 closing\r\n", ProviderUnavailable, UNMARKED),
    Row("EHLO", b"451 later\r\n", ProviderUnavailable, UNMARKED),
    Row("EHLO", b"550 5.7.1 not with that name\r\n", ProviderMisconfigured, UNMARKED),
    Row("EHLO", DROP, ProviderUnavailable, UNMARKED),
    Row("EHLO", RESET, ProviderUnavailable, UNMARKED),
    Row("EHLO", GARBAGE, ProviderUnavailable, UNMARKED),
    Row("EHLO", ENDLESS_LINE, ProviderUnavailable, UNMARKED),
    Row("EHLO", ENDLESS_LINES, ProviderUnavailable, UNMARKED),
    Row("EHLO", TWO_CODES, ProviderUnavailable, UNMARKED),
    Row("EHLO", (b"250-fault.example\r\n250-SI", DROP), ProviderUnavailable, UNMARKED),
    Row("AUTH", b"535 5.7.8 wrong\r\n", ProviderMisconfigured, UNMARKED),
    Row("AUTH", b"534 5.7.9 too weak\r\n", ProviderMisconfigured, UNMARKED),
    Row("AUTH", b"530 5.7.0 encryption first\r\n", ProviderMisconfigured, UNMARKED),
    Row("AUTH", b"504 unknown\r\n", ProviderMisconfigured, UNMARKED),
    Row("AUTH", b"535 5.7.0 Too many connections per account\r\n", ProviderUnavailable, UNMARKED),
    Row("AUTH", b"454 4.7.0 later\r\n", ProviderUnavailable, UNMARKED),
    Row("AUTH", b"421 4.3.2 closing\r\n", ProviderUnavailable, UNMARKED),
    Row("AUTH", b"334 \r\n", ProviderUnavailable, UNMARKED),
    Row("AUTH", DROP, ProviderUnavailable, UNMARKED),
    Row("AUTH", GARBAGE, ProviderUnavailable, UNMARKED),
    Row("MAIL", b"421 4.3.2 closing\r\n", ProviderUnavailable, STARTED),
    Row("MAIL", b"451 4.3.0 later\r\n", ProviderUnavailable, STARTED),
    Row("MAIL", b"550 5.7.1 not your address\r\n", MailRefused, STARTED),
    Row("MAIL", b"552 5.3.4 too large\r\n", MailRefused, STARTED),
    Row("MAIL", b"553 5.1.8 no such domain of a sender\r\n", MailRefused, STARTED),
    Row("MAIL", b"530 5.7.0 sign in first\r\n", ProviderMisconfigured, STARTED),
    Row("MAIL", b"354 go ahead\r\n", ProviderUnavailable, STARTED),
    Row("MAIL", TWO_REPLIES, ProviderUnavailable, STARTED),
    Row("MAIL", DROP, ProviderUnavailable, STARTED),
    Row("MAIL", RESET, ProviderUnavailable, STARTED),
    Row("MAIL", GARBAGE, ProviderUnavailable, STARTED),
    Row("RCPT", b"421 4.3.2 closing\r\n", ProviderUnavailable, STARTED),
    Row("RCPT", b"450 4.2.0 greylisted\r\n", ProviderUnavailable, STARTED),
    Row("RCPT", b"452 4.3.1 disk full\r\n", ProviderUnavailable, STARTED),
    Row("RCPT", b"550 5.1.1 no such user\r\n", MailRejected, STARTED),
    Row("RCPT", b"553 5.1.3 malformed\r\n", MailRejected, STARTED),
    Row("RCPT", b"550 no\r\n", MailRefused, STARTED),
    Row("RCPT", b"554 5.7.1 relay access denied\r\n", MailRefused, STARTED),
    Row("RCPT", b"530 5.7.0 sign in first\r\n", ProviderMisconfigured, STARTED),
    Row("RCPT", TWO_REPLIES, ProviderUnavailable, STARTED),
    Row("RCPT", DROP, ProviderUnavailable, STARTED),
    Row("RCPT", RESET, ProviderUnavailable, STARTED),
    Row("RCPT", GARBAGE, ProviderUnavailable, STARTED),
    Row("RCPT 2", b"450 4.2.0 greylisted\r\n", ProviderUnavailable, STARTED, recipients=TWO),
    Row("RCPT 2", b"421 4.3.2 closing\r\n", ProviderUnavailable, STARTED, recipients=TWO),
    Row("RCPT 2", b"452 4.5.3 too many\r\n", MailRefused, STARTED, recipients=TWO),
    Row("RCPT 2", b"452 too many\r\n", MailRefused, STARTED, recipients=TWO),
    Row("RCPT 2", b"554 5.5.3 too many\r\n", MailRefused, STARTED, recipients=TWO),
    Row("RCPT 2", DROP, ProviderUnavailable, STARTED, recipients=TWO),
    Row("RCPT", b"550 5.1.1 no such user\r\n", MailRejected, STARTED, recipients=TWO),
    Row("DATA", b"421 4.3.2 closing\r\n", ProviderUnavailable, STARTED),
    Row("DATA", b"451 4.3.0 later\r\n", ProviderUnavailable, STARTED),
    Row("DATA", b"554 5.5.1 no valid recipients\r\n", MailRefused, STARTED),
    Row("DATA", b"250 out of step\r\n", ProviderUnavailable, STARTED),
    Row("DATA", b"354 go ahead\r\n250 2.0.0 Ok\r\n", ProviderUnavailable, STARTED),
    Row("DATA", DROP, ProviderUnavailable, STARTED),
    Row("DATA", RESET, ProviderUnavailable, STARTED),
    Row("DATA", GARBAGE, ProviderUnavailable, STARTED),
    Row(".", b"421 4.3.2 closing\r\n", ProviderUnavailable, HANDED_OVER),
    Row(".", b"451 4.3.0 later\r\n", ProviderUnavailable, HANDED_OVER),
    Row(".", b"452 4.3.1 disk full\r\n", ProviderUnavailable, HANDED_OVER),
    Row(".", b"550 5.1.1 no such user\r\n", MailRejected, HANDED_OVER),
    Row(".", b"554 5.7.1 looks like spam\r\n", MailRefused, HANDED_OVER),
    Row(".", b"552 5.3.4 too large\r\n", MailRefused, HANDED_OVER),
    Row(".", b"535 5.7.8 no more\r\n", ProviderMisconfigured, HANDED_OVER),
    Row(".", DROP, OutcomeUnknown, HANDED_OVER, taken=1),
    Row(".", RESET, OutcomeUnknown, HANDED_OVER, taken=1),
    Row(".", GARBAGE, OutcomeUnknown, HANDED_OVER, taken=1),
    Row(".", b"354 again\r\n", OutcomeUnknown, HANDED_OVER, taken=1),
    Row(".", (b"250 2.0.0 O", DROP), OutcomeUnknown, HANDED_OVER, taken=1),
    Row(".", ENDLESS_LINE, OutcomeUnknown, HANDED_OVER, taken=1),
]


def _name(row: Row) -> str:
    acts = row.act if isinstance(row.act, tuple) else (row.act,)
    words = [act.name if isinstance(act, Fault) else act[:12].decode("latin-1") for act in acts]
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{row.moment} {' '.join(words)} {len(row.recipients)}")


@pytest.mark.parametrize("row", FAULTS, ids=_name)
async def test_a_fault_ends_the_call_as_the_table_says_and_the_next_letter_goes(
    row: Row, open_provider: OpenProvider
) -> None:
    letter = a_letter(to=tuple(Address(email=email) for email in row.recipients))
    attempt = an_attempt()
    async with (
        open_smtp_fault_server({row.moment: row.act}) as server,
        open_provider(server.port, username="user", password=Secret("password")) as provider,
    ):
        with pytest.raises(row.end) as caught:
            await provider.send(letter, attempt)
        assert type(caught.value) is row.end
        assert attempt.phase is row.phase
        assert len(server.taken) == row.taken
        assert not [line for line in server.heard if "Subject" in line]
        assert "@" not in caught.value.reason
        assert "password" not in caught.value.reason
        server.script.clear()
        assert await provider.send(letter, an_attempt()) == Receipt("FA01")
        assert len(server.taken) == row.taken + 1
    assert server.taken[-1].recipients == row.recipients


@pytest.mark.parametrize(
    "act", [DROP, RESET, b"552 5.3.4 too large\r\n", b"250 2.0.0 Ok\r\n", b"421 closing\r\n"], ids=repr
)
async def test_what_happens_before_the_end_of_a_long_message_is_surely_not_accepted(
    act: Act, open_provider: OpenProvider
) -> None:
    large = Attachment(filename="large", type="application/octet-stream", content=b"x" * 12_000_000)
    attempt = an_attempt()
    async with open_smtp_fault_server({"message": act}) as server, open_provider(server.port) as provider:
        server.extensions = ()
        with pytest.raises(ProviderUnavailable):
            await provider.send(a_letter(attachments=(large,)), attempt)
    assert attempt.phase is Phase.STARTED
    assert server.taken == []


async def test_a_letter_that_some_recipients_may_not_have_is_sent_to_the_others(open_provider: OpenProvider) -> None:
    letter = a_letter(
        to=(Address(email="a@example.net"),),
        cc=(Address(email="b@example.net"),),
        bcc=(Address(email="c@example.net"),),
    )
    async with (
        open_smtp_fault_server({"RCPT 2": b"550 5.1.1 <b@example.net>: no such user\r\n"}) as server,
        open_provider(server.port) as provider,
    ):
        receipt = await provider.send(letter, an_attempt())
    assert receipt == Receipt("FA01", (Refusal("b@example.net", "550 5.1.1 <(address)>: no such user"),))
    assert server.taken[0].recipients == ("a@example.net", "c@example.net")


async def test_when_all_are_refused_for_different_reasons_another_provider_may_be_asked(
    open_provider: OpenProvider,
) -> None:
    script: dict[str, Act] = {"RCPT 1": b"550 5.1.1 no such user\r\n", "RCPT 2": b"554 5.7.1 relay denied\r\n"}
    letter = a_letter(to=tuple(Address(email=email) for email in TWO))
    async with open_smtp_fault_server(script) as server, open_provider(server.port) as provider:
        with pytest.raises(MailRefused, match="relay denied"):
            await provider.send(letter, an_attempt())


@pytest.mark.parametrize("moment", ["QUIT", "RSET"])
@pytest.mark.parametrize("act", [DROP, RESET, GARBAGE, b"421 closing\r\n", b"500 what\r\n"], ids=repr)
async def test_a_failing_farewell_changes_no_outcome(moment: str, act: Act, open_provider: OpenProvider) -> None:
    async with open_smtp_fault_server({moment: act, "RCPT 1": b"550 5.1.1 no\r\n"}) as server:
        async with open_provider(server.port) as provider:
            with pytest.raises(MailRejected):
                await provider.send(a_letter(), an_attempt())
            assert await provider.send(a_letter(), an_attempt()) == Receipt("FA01")
        await server.wait_closed()
    assert len(server.taken) == 1


async def test_a_server_that_never_answers_rset_costs_two_seconds_and_a_connection(
    open_provider: OpenProvider, autojump_clock: object
) -> None:
    script: dict[str, Act] = {"RSET": Fault.STALL, "RCPT 1": b"450 4.2.0 later\r\n"}
    async with open_smtp_fault_server(script) as server, open_provider(server.port) as provider:
        with pytest.raises(ProviderUnavailable):
            await provider.send(a_letter(), an_attempt())
        assert await provider.send(a_letter(), an_attempt()) == Receipt("FA01")
        assert server.accepted == 2


@pytest.mark.parametrize(
    ("said", "message_id"),
    [
        (b"250 2.0.0 Ok: queued as 4Yabc12345\r\n", "4Yabc12345"),
        (b"250 OK id=1tExAm-000PLe-2x\r\n", "1tExAm-000PLe-2x"),
        (b"250 2.0.0 4AOAA1bc012345 Message accepted for delivery\r\n", "4AOAA1bc012345"),
        (b"250 Ok 0100018f2b3c4d5e-6f708192-a3b4\r\n", "0100018f2b3c4d5e-6f708192-a3b4"),
        (b"250 2.6.0 <x@y> [InternalId=12345, Hostname=z] Queued mail for delivery\r\n", "12345"),
        (b"250-2.0.0 thank\r\n250 2.0.0 you\r\n", None),
        (b"250\r\n", None),
        (b"250 \xff\xfe\r\n", None),
        (b"250 Great success\n", None),
    ],
)
async def test_the_receipt_names_the_queue_id_when_the_server_says_one(
    said: bytes, message_id: str | None, open_provider: OpenProvider
) -> None:
    async with open_smtp_fault_server({".": said}) as server, open_provider(server.port) as provider:
        assert await provider.send(a_letter(), an_attempt()) == Receipt(message_id)


@pytest.mark.parametrize(
    "script",
    [
        {"MAIL": TWO_REPLIES, "RCPT": b"550 5.1.1 no such user\r\n"},
        {"MAIL": b"354 go ahead\r\n"},
        {"RCPT": b"354 go ahead\r\n"},
        {"DATA": b"250 2.1.5 Ok\r\n"},
    ],
    ids=["a reply too many", "MAIL", "RCPT", "DATA"],
)
async def test_a_server_that_is_out_of_step_is_not_believed_and_its_connection_not_kept(
    script: dict[str, Act], open_provider: OpenProvider
) -> None:
    async with open_smtp_fault_server(script) as server, open_provider(server.port) as provider:
        with pytest.raises(ProviderUnavailable):
            await provider.send(a_letter(), an_attempt())
        server.script.clear()
        await provider.send(a_letter(), an_attempt())
        assert server.accepted == 2
        assert "RSET" not in server.heard


async def test_a_message_larger_than_the_server_takes_is_refused_before_it_hears_of_it(
    open_provider: OpenProvider,
) -> None:
    attempt = an_attempt()
    async with open_smtp_fault_server() as server, open_provider(server.port) as provider:
        server.extensions = ("SIZE 200",)
        with pytest.raises(MailRefused, match="the server takes 200"):
            await provider.send(a_letter(), attempt)
    assert attempt.phase is Phase.UNMARKED
    assert [line.split()[0] for line in server.heard] == ["EHLO", "QUIT"]


async def test_a_lease_that_is_over_sends_nothing(open_provider: OpenProvider) -> None:
    async with open_smtp_fault_server() as server, open_provider(server.port) as provider:
        with pytest.raises(TooLate):
            await provider.send(a_letter(), Attempt("key-1", lease_ends=0.0, clock=lambda: 1.0))
    assert not [line for line in server.heard if line.startswith("MAIL")]


@pytest.mark.parametrize(
    "said", [b"454 Throttling failure: Maximum sending rate exceeded.\r\n", b"421 4.7.0 Too many\r\n"]
)
async def test_a_limit_is_told_apart_from_a_fault(said: bytes, open_provider: OpenProvider) -> None:
    async with open_smtp_fault_server({"MAIL": said}) as server, open_provider(server.port) as provider:
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.send(a_letter(), an_attempt())
    assert caught.value.throttled


@pytest.mark.parametrize(
    ("moment", "said", "mail_only"),
    [
        ("RCPT", b"452 4.2.2 the mailbox is over quota\r\n", True),
        ("RCPT", b"450 4.1.1 unverified address\r\n", True),
        ("RCPT", b"450 4.7.1 Greylisted, try again later\r\n", True),
        (".", b"451 4.7.1 Greylisting in action\r\n", True),
        ("RCPT", b"450 4.1.8 the domain of the sender is not found\r\n", False),
        ("RCPT", b"450 4.7.25 your host has no name\r\n", False),
        ("RCPT", b"451 4.3.0 a look-up failed\r\n", False),
        (".", b"452 4.3.1 the disk is full\r\n", False),
    ],
)
async def test_a_recipient_that_has_to_wait_is_told_apart_from_a_fault_of_the_server(
    moment: str, said: bytes, mail_only: bool, open_provider: OpenProvider
) -> None:
    async with open_smtp_fault_server({moment: said}) as server, open_provider(server.port) as provider:
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.send(a_letter(), an_attempt())
    assert (caught.value.mail_only, caught.value.throttled) == (mail_only, False)


async def test_nobody_listening_is_unavailable(open_provider: OpenProvider) -> None:
    async with open_smtp_fault_server() as server:
        port = server.port
    attempt = an_attempt()
    async with open_provider(port) as provider:
        with pytest.raises(ProviderUnavailable, match="no connection: connection refused"):
            await provider.send(a_letter(), attempt)
    assert attempt.phase is Phase.UNMARKED
