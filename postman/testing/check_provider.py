"""What every HTTP provider must do, whatever its vendor and the network do: `PROVIDER_CHECKS`.

A plugin's tests say how to open it and what its vendor answers, and run every check:

    @pytest.mark.parametrize("check", PROVIDER_CHECKS, ids=lambda check: check.__name__)
    async def test_it_ends_every_call_rightly(check: Check) -> None:
        await check(Subject(open=..., success=acts.answer(202), message_id="..."))

A failing check raises AssertionError. Each injects faults on loopback and takes less than a second or two.
"""

from __future__ import annotations

import email.utils
import functools
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import trio

from postman.answer import STATUSES
from postman.errors import (
    MailRefused,
    NotAccepted,
    OutcomeUnknown,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    TooLate,
)
from postman.mail import Letter
from postman.provider import Attempt, Phase, Provider, Receipt
from postman.testing import acts
from postman.testing.fault_server import Act, FaultServer, open_fault_server
from postman.testing.letters import LETTERS, a_large_letter, a_letter, an_attempt
from postman.wire import ClientFactory

IN_TIME = 10.0
"""Seconds that no call of a check may take."""


@dataclass(frozen=True)
class Subject:
    """What a plugin tells of itself.

    Attributes:
        open: opens the provider on a base URL, with the given factory in its surroundings.
        success: how the vendor says that it took a mail.
        message_id: what the receipt must then say.
        statuses: outcomes of statuses where they differ from `postman.answer.STATUSES`.
        unreadable: answers with 2xx that are no receipt.
        refuses: the `postman.testing.letters.LETTERS` that end with MailRefused, since the vendor cannot carry them.
    """

    open: Callable[[str, ClientFactory], AbstractAsyncContextManager[Provider]]
    success: Act
    message_id: str | None
    statuses: Mapping[int, type[ProviderError]] = field(default_factory=dict)
    unreadable: Sequence[Act] = ()
    refuses: frozenset[str] = frozenset()


type Check = Callable[[Subject], Awaitable[None]]


@dataclass(frozen=True)
class Ended:
    """How a call ended: with a receipt, an error, or cut (neither)."""

    phase: Phase
    receipt: Receipt | None = None
    error: ProviderError | None = None

    def must_be(self, outcome: type[ProviderError], phase: Phase) -> None:
        """Assert both."""
        assert type(self.error) is outcome, f"ended with {self.receipt or self.error!r}, not with {outcome.__name__}"
        assert self.phase is phase, f"the phase is {self.phase}, not {phase}"


@functools.cache
def _factory() -> ClientFactory:
    """One for all checks: reading the system's authorities takes a while."""
    return ClientFactory(connect_timeout=0.5)


@asynccontextmanager
async def _opened(subject: Subject) -> AsyncIterator[tuple[FaultServer, Provider]]:
    async with (
        open_fault_server(otherwise=subject.success) as server,
        subject.open(server.url, _factory()) as provider,
    ):
        yield server, provider


async def _send(provider: Provider, letter: Letter | None = None, cut_after: float | None = None) -> Ended:
    attempt = an_attempt()
    with trio.fail_after(IN_TIME), trio.move_on_after(IN_TIME if cut_after is None else cut_after):
        try:
            receipt = await provider.send(letter or LETTERS["text"], attempt)
        except ProviderError as error:
            return Ended(attempt.phase, error=error)
        return Ended(attempt.phase, receipt=receipt)
    return Ended(attempt.phase)


async def _under(subject: Subject, act: Act, letter: Letter | None = None, cut_after: float | None = None) -> Ended:
    """One call that meets `act`: asked once, and never told "not accepted" of a mail that was accepted."""
    async with _opened(subject) as (server, provider):
        server.script(act)
        ended = await _send(provider, letter, cut_after)
        assert len(server.requests) <= 1, f"the vendor was asked {len(server.requests)} times"
        assert not (server.accepted and isinstance(ended.error, NotAccepted)), "accepted, but said not to be"
    return ended


async def it_returns_the_vendors_receipt(subject: Subject) -> None:
    """The happy path: a receipt with the vendor's id; the request carries our tracking id."""
    async with _opened(subject) as (server, provider):
        ended = await _send(provider)
        assert ended.receipt == Receipt(subject.message_id), f"ended with {ended.receipt or ended.error!r}"
        assert ended.phase is Phase.HANDED_OVER
        [request] = server.requests
        assert LETTERS["text"].id.encode() in request.body, "the tracking id is not in the request"


async def it_carries_every_letter(subject: Subject) -> None:
    """Each letter is taken, or refused as the plugin says; the vendor's strict simulator judges how it is said."""
    assert subject.refuses <= LETTERS.keys(), f"no letters: {sorted(subject.refuses - LETTERS.keys())}"
    async with _opened(subject) as (server, provider):
        for name, letter in LETTERS.items():
            ended = await _send(provider, letter)
            if name in subject.refuses:
                assert isinstance(ended.error, MailRefused), f"the letter {name!r} was sent, or ended otherwise"
                assert not server.requests or letter.id.encode() not in server.requests[-1].body
            else:
                assert ended.receipt, f"the letter {name!r} was not sent: {ended.error!r}"


async def every_attempt_sends_the_same_bytes(subject: Subject) -> None:
    """Bytes depend on letter and settings alone, also in another process with a provider opened anew."""
    sent = []
    *_, richest = (letter for name, letter in LETTERS.items() if name not in subject.refuses)
    for _ in range(2):
        async with _opened(subject) as (server, provider):
            await _send(provider, richest)
            [request] = server.requests
            sent.append((request.path, request.body, {**request.headers, "host": ""}))
    assert sent[0] == sent[1]


async def each_status_has_its_outcome(subject: Subject) -> None:
    """Statuses of refusal, and those that nobody expects."""
    for status in (*STATUSES, 408, 409, 418, 421, 425, 451, 499, 500, 501, 502, 504, 520, 599):
        ended = await _under(subject, acts.answer(status, body=b"<html>no</html>"))
        ended.must_be({**STATUSES, **subject.statuses}.get(status, OutcomeUnknown), Phase.HANDED_OVER)


async def retry_after_is_heard(subject: Subject) -> None:
    """As seconds or a date; garbage counts as nothing said, and what is too long is for the caller to clamp."""
    soon = email.utils.formatdate(time.time() + 100, usegmt=True)
    past = email.utils.formatdate(0, usegmt=True)
    for value, low, high in (("7", 7, 7), ("315360000", 315360000, 315360000), (soon, 90, 101)):
        ended = await _under(subject, acts.answer(429, {"Retry-After": value}))
        assert isinstance(ended.error, ProviderUnavailable)
        assert ended.error.throttled
        assert low <= (ended.error.retry_after or -1) <= high, f"{value!r} gave {ended.error.retry_after}"
    for value in ("soon", "-5", "1e9", "", past):
        ended = await _under(subject, acts.answer(503, {"Retry-After": value}))
        assert isinstance(ended.error, ProviderUnavailable)
        assert not ended.error.throttled
        assert ended.error.retry_after is None, f"{value!r} gave {ended.error.retry_after}"


async def no_connection_is_not_accepted(subject: Subject) -> None:
    """Refused, reset at once, no TLS where TLS was asked for: another provider may be asked."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with subject.open(url, _factory()) as provider:
            (await _send(provider)).must_be(ProviderUnavailable, Phase.UNMARKED)
    async with (
        open_fault_server(otherwise=acts.reset_on_request()) as server,
        subject.open(server.url.replace("http:", "https:"), _factory()) as provider,
    ):
        (await _send(provider)).must_be(ProviderUnavailable, Phase.UNMARKED)


async def a_break_before_the_last_byte_is_not_accepted(subject: Subject) -> None:
    """The vendor cannot have the mail; nor when the call is cut in the middle of its body."""
    letter = a_large_letter()
    (await _under(subject, acts.reset_in_body(), letter)).must_be(ProviderUnavailable, Phase.STARTED)
    cut = await _under(subject, acts.stall_before_reading(), letter, cut_after=0.3)
    assert (cut.error, cut.receipt, cut.phase) == (None, None, Phase.STARTED)


async def a_lost_answer_is_in_doubt(subject: Subject) -> None:
    """Whatever happens to the answer of a mail that may have been accepted, nobody else may be asked."""
    for accept in (True, False):
        for act in (
            acts.reset_after_request(accept=accept),
            acts.close_after_request(accept=accept),
            acts.garbage(accept=accept),
            acts.truncated(202, accept=accept),
            acts.endless_headers(accept=accept),
            acts.endless_continue(accept=accept),
            acts.endless_chunks(accept=accept),
            acts.huge(accept=accept),
            acts.gzip_bomb(accept=accept),
            *(acts.answer(status, accept=accept) for status in (500, 502, 504)),
        ):
            (await _under(subject, act)).must_be(OutcomeUnknown, Phase.HANDED_OVER)


async def a_call_cut_while_it_waits_is_in_doubt(subject: Subject) -> None:
    """The caller's deadline ends a vendor that is silent or too slow; the phase then says that it may have accepted."""
    for act in (acts.hang(accept=True), acts.drip()):
        cut = await _under(subject, act, cut_after=0.2)
        assert (cut.error, cut.receipt, cut.phase) == (None, None, Phase.HANDED_OVER)


async def a_success_that_cannot_be_read_is_in_doubt(subject: Subject) -> None:
    """2xx that is no receipt of this vendor."""
    for act in subject.unreadable:
        (await _under(subject, act)).must_be(OutcomeUnknown, Phase.HANDED_OVER)


async def no_redirect_is_followed(subject: Subject) -> None:
    """Neither mail nor key goes to an address that an answer names."""
    async with open_fault_server(otherwise=subject.success) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            ended = await _under(subject, acts.redirect(elsewhere.url, status))
            ended.must_be(ProviderMisconfigured, Phase.HANDED_OVER)
        assert elsewhere.connections == 0, "the redirect was followed"


async def reasons_are_short_and_hold_no_address(subject: Subject) -> None:
    """What a vendor says back is cleaned before it goes to history and logs."""
    said = f"to <ann@example.org> is bad\\u0000\\n; {500 * 'x'}"
    for body in (said, f'{{"message": "{said}"}}', f'{{"errors": [{{"message": "{said}", "field": "a"}}]}}'):
        for status in (400, 401, 403, 422, 500):
            error = (await _under(subject, acts.answer(status, body=body.encode()))).error
            assert error, f"{status} is no receipt"
            assert "ann@" not in error.reason, error.reason
            assert error.reason.isprintable(), error.reason
            assert len(error.reason) <= 400, error.reason


async def nothing_is_sent_when_it_is_too_late(subject: Subject) -> None:
    """The lease is over: TooLate passes through, and not one byte goes out."""
    async with _opened(subject) as (server, provider):
        late = Attempt("the-key", lease_ends=0.0, clock=lambda: 0.0)
        try:
            await provider.send(LETTERS["text"], late)
        except TooLate:
            assert server.requests == []
        else:
            raise AssertionError("it sent though the lease was over")


async def an_idle_connection_closed_by_the_vendor_is_no_fault(subject: Subject) -> None:
    """The next call opens another, without doubt and without a second request."""
    async with _opened(subject) as (server, provider):
        await _send(provider)
        server.hang_up()
        await trio.sleep(0.01)  # the FIN comes in
        assert (await _send(provider)).receipt
        assert len(server.requests) == 2


async def a_connection_closed_as_the_request_arrives_is_in_doubt(subject: Subject) -> None:
    """The race that short keeping makes rare: the bytes were handed over."""
    async with _opened(subject) as (server, provider):
        await _send(provider)
        server.script(acts.reset_on_request())
        (await _send(provider)).must_be(OutcomeUnknown, Phase.HANDED_OVER)


async def cancelled_calls_spoil_no_later_one(subject: Subject) -> None:
    """100 calls cut at random; then ten letters give ten requests, each with its own id and a receipt."""
    chance = random.Random(7)
    async with _opened(subject) as (server, provider):
        for _ in range(100):
            await _send(provider, cut_after=chance.uniform(0, 0.004))
        for number in range(1_000, 1_010):
            letter = a_letter(number)
            assert (await _send(provider, letter)).receipt == Receipt(subject.message_id)
            assert letter.id.encode() in server.requests[-1].body


PROVIDER_CHECKS: tuple[Check, ...] = (
    it_returns_the_vendors_receipt,
    it_carries_every_letter,
    every_attempt_sends_the_same_bytes,
    each_status_has_its_outcome,
    retry_after_is_heard,
    no_connection_is_not_accepted,
    a_break_before_the_last_byte_is_not_accepted,
    a_lost_answer_is_in_doubt,
    a_call_cut_while_it_waits_is_in_doubt,
    a_success_that_cannot_be_read_is_in_doubt,
    no_redirect_is_followed,
    reasons_are_short_and_hold_no_address,
    nothing_is_sent_when_it_is_too_late,
    an_idle_connection_closed_by_the_vendor_is_no_fault,
    a_connection_closed_as_the_request_arrives_is_in_doubt,
    cancelled_calls_spoil_no_later_one,
)
