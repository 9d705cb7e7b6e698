"""A call that is cut, at every moment, leaves nothing behind."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from postman.mail import Attachment
from postman.provider import Phase, Receipt
from postman.secret import Secret
from postman.testing.letters import a_letter, an_attempt
from postman.testing.smtp_fault_server import Fault, open_smtp_fault_server
from postman_plugin_smtp import SmtpProvider

type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]

MOMENTS = {
    "banner": Phase.UNMARKED,
    "EHLO 1": Phase.UNMARKED,
    "STARTTLS": Phase.UNMARKED,
    "TLS": Phase.UNMARKED,
    "EHLO 2": Phase.UNMARKED,
    "AUTH": Phase.UNMARKED,
    "MAIL": Phase.STARTED,
    "RCPT": Phase.STARTED,
    "DATA": Phase.STARTED,
    "message": Phase.STARTED,
    ".": Phase.HANDED_OVER,
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_cut_call_closes_its_connection_and_the_next_letter_goes(
    moment: str, server_tls: ssl.SSLContext, ca_file: Path, open_provider: OpenProvider
) -> None:
    large = Attachment(filename="large", type="application/octet-stream", content=b"x" * 12_000_000)
    letter = a_letter(attachments=(large,) if moment == "message" else ())
    attempt = an_attempt()
    async with (
        open_smtp_fault_server({moment: Fault.STALL}, tls=server_tls) as server,
        open_provider(
            server.port, security="starttls", ca_file=ca_file, username="user", password=Secret("password")
        ) as provider,
    ):
        server.extensions = ("AUTH PLAIN",)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.send, letter, attempt)
            await server.wait_reached(moment)
            nursery.cancel_scope.cancel()
        assert attempt.phase is MOMENTS[moment]
        await server.wait_closed()
        assert len(server.taken) == (moment == ".")
        server.script.clear()
        assert await provider.send(a_letter(), an_attempt()) == Receipt("FA01")
        assert server.open == 1
    await server.wait_closed()


async def test_a_provider_that_is_closed_under_cancellation_closes_its_connections(open_provider: OpenProvider) -> None:
    async with open_smtp_fault_server() as server:
        with trio.CancelScope() as scope:
            async with open_provider(server.port) as provider:
                await provider.send(a_letter(), an_attempt())
                scope.cancel()
        await server.wait_closed()
    assert server.heard[-1] == "QUIT"
