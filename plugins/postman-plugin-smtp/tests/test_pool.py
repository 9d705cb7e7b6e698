"""Connections between letters."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
import trio.testing

from postman.provider import ProviderUnavailable, Receipt
from postman.testing.letters import a_letter, an_attempt
from postman.testing.smtp_fault_server import Act, Fault, open_smtp_fault_server
from postman_plugin_smtp import SmtpProvider
from postman_plugin_smtp.connection import Connection
from postman_plugin_smtp.pool import MAX_IDLE, MAX_LETTERS, Pool

type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]
type Send = Callable[[SmtpProvider], Awaitable[Receipt]]


@pytest.fixture
def send() -> Send:
    """Send one letter through a provider."""

    async def send(provider: SmtpProvider) -> Receipt:
        return await provider.send(a_letter(), an_attempt())

    return send


async def test_letters_one_after_another_share_a_connection(open_provider: OpenProvider, send: Send) -> None:
    async with open_smtp_fault_server() as server, open_provider(server.port) as provider:
        for _ in range(3):
            await send(provider)
    assert server.accepted == 1
    assert len(server.taken) == 3


async def test_letters_at_the_same_time_have_connections_of_their_own_and_keep_them(
    open_provider: OpenProvider, send: Send
) -> None:
    async with open_smtp_fault_server() as server:
        async with open_provider(server.port) as provider:
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for _ in range(64):
                        nursery.start_soon(send, provider)
        await server.wait_closed()
    assert server.accepted == 64
    assert len(server.taken) == 3 * 64


async def test_a_connection_that_idled_too_long_is_left(
    open_provider: OpenProvider, send: Send, mock_clock: trio.testing.MockClock
) -> None:
    async with open_smtp_fault_server() as server, open_provider(server.port) as provider:
        await send(provider)
        mock_clock.jump(MAX_IDLE + 1)
        await send(provider)
        await server.wait_reached("QUIT")
    assert server.accepted == 2


async def test_a_connection_carries_a_hundred_letters(open_provider: OpenProvider, send: Send) -> None:
    async with open_smtp_fault_server() as server, open_provider(server.port) as provider:
        for _ in range(MAX_LETTERS + 1):
            await send(provider)
    assert server.accepted == 2


@pytest.mark.parametrize("act", [Fault.DROP, Fault.RESET, b"421 4.4.2 timeout\r\n", b"\x00\r\n"], ids=repr)
async def test_a_connection_that_died_while_it_idled_is_replaced_once(
    act: Act, open_provider: OpenProvider, send: Send
) -> None:
    async with open_smtp_fault_server({"MAIL 2": act}) as server, open_provider(server.port) as provider:
        await send(provider)
        await send(provider)
        assert len(server.taken) == 2
        assert server.accepted == 2


async def test_a_new_connection_that_fails_as_well_is_not_replaced(open_provider: OpenProvider, send: Send) -> None:
    script: dict[str, Act] = {"MAIL 2": Fault.DROP, "MAIL 3": Fault.DROP}
    async with open_smtp_fault_server(script) as server, open_provider(server.port) as provider:
        await send(provider)
        with pytest.raises(ProviderUnavailable):
            await send(provider)
    assert server.accepted == 2


@pytest.mark.parametrize(("moment", "act"), [("RCPT 2", Fault.DROP), ("DATA 2", Fault.DROP), ("MAIL 2", b"451 no\r\n")])
async def test_what_fails_after_mail_or_by_an_answer_is_not_tried_again(
    moment: str, act: Act, open_provider: OpenProvider, send: Send
) -> None:
    async with open_smtp_fault_server({moment: act}) as server, open_provider(server.port) as provider:
        await send(provider)
        with pytest.raises(ProviderUnavailable):
            await send(provider)
    assert server.accepted == 1


@pytest.mark.parametrize("security", ["none", "tls"])
@pytest.mark.parametrize("more", [b"250 Ok\r\n", b"421 4.4.2 timeout\r\n", Fault.DROP, Fault.RESET], ids=repr)
async def test_a_server_that_speaks_or_hangs_up_between_letters_is_not_believed(
    more: bytes | Fault,
    security: str,
    server_tls: ssl.SSLContext,
    ca_file: Path,
    open_provider: OpenProvider,
    send: Send,
) -> None:
    secure = security == "tls"
    script: dict[str, Act] = {". 1": (b"250 Ok\r\n", more)}
    async with (
        open_smtp_fault_server(script, tls=server_tls if secure else None, implicit=secure) as server,
        open_provider(server.port, security=security, ca_file=ca_file if secure else None) as provider,
    ):
        await send(provider)
        await trio.testing.wait_all_tasks_blocked()
        await send(provider)
    assert server.accepted == 2
    assert len(server.taken) == 2
    assert len([line for line in server.heard if line.startswith("MAIL")]) == 2


async def test_an_end_that_is_known_survives_a_cancellation() -> None:
    async with open_smtp_fault_server() as server:

        async def dial() -> Connection:
            connection = Connection(await trio.open_tcp_stream("127.0.0.1", server.port))
            await connection.reply()
            return connection

        pool = Pool(dial)
        ends = []
        for letters, resting in ((MAX_LETTERS, True), (1, True), (1, False)):
            with trio.CancelScope() as scope:
                async with pool.lend(fresh=True) as connection:
                    connection.letters, connection.resting = letters, resting
                    scope.cancel()
                ends.append((letters, resting))
        assert ends == [(MAX_LETTERS, True), (1, True), (1, False)]
        await pool.close()
        await server.wait_closed()


async def test_a_connection_that_comes_back_after_the_provider_was_closed_is_closed(
    open_provider: OpenProvider,
) -> None:
    async with open_smtp_fault_server({"DATA": Fault.STALL}) as server:
        async with trio.open_nursery() as nursery:
            async with open_provider(server.port) as provider:
                nursery.start_soon(provider.send, a_letter(), an_attempt())
                await server.wait_reached("DATA")
                server.script.clear()
            nursery.cancel_scope.cancel()
        await server.wait_closed()
