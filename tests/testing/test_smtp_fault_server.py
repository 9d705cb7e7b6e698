"""The server that fails on cue does what its script says, seen by a client that is not ours."""

from __future__ import annotations

import smtplib
import ssl

import pytest
import trio
import trustme

from postman.testing.smtp_fault_server import Fault, TakenMail, open_smtp_fault_server


def _client(port: int) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", port, local_hostname="us.example", timeout=5)


def _send(port: int) -> dict[str, tuple[int, bytes]]:
    with _client(port) as client:
        client.login("user", "password")
        return client.sendmail("a@example.com", ["b@example.net", "c@example.net"], "Subject: x\r\n\r\n.\r\n..\r\n")


async def test_a_script_without_faults_takes_the_mail_dots_unstuffed() -> None:
    async with open_smtp_fault_server() as server:
        assert await trio.to_thread.run_sync(_send, server.port) == {}
        await server.wait_closed()
        message = b"Subject: x\r\n\r\n.\r\n..\r\n"
        assert server.taken == [TakenMail("a@example.com", ("b@example.net", "c@example.net"), message)]
        verbs = [line.split()[0].upper() for line in server.heard]
        assert verbs == ["EHLO", "AUTH", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
        assert (server.accepted, server.open) == (1, 0)


async def test_a_numbered_moment_goes_before_the_plain_one() -> None:
    script = {"RCPT": b"450 later\r\n", "RCPT 2": b"250 Ok\r\n"}
    async with open_smtp_fault_server(script) as server:
        assert await trio.to_thread.run_sync(_send, server.port) == {"b@example.net": (450, b"later")}
        assert server.taken[0].recipients == ("c@example.net",)


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.RESET])
async def test_a_connection_that_is_cut_after_the_end_leaves_the_mail_taken(fault: Fault) -> None:
    async with open_smtp_fault_server({".": fault}) as server:
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
            await trio.to_thread.run_sync(_send, server.port)
        assert len(server.taken) == 1


async def test_a_refused_mail_is_not_taken() -> None:
    async with open_smtp_fault_server({".": b"554 no\r\n"}) as server:
        with pytest.raises(smtplib.SMTPDataError):
            await trio.to_thread.run_sync(_send, server.port)
        assert server.taken == []


async def test_a_stall_says_nothing_until_the_client_leaves() -> None:
    async with open_smtp_fault_server({"banner": Fault.STALL}) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await server.wait_reached("banner")
        assert server.open == 1
        await stream.aclose()
        await server.wait_closed()


async def test_starttls_is_offered_and_spoken_with_the_given_certificate() -> None:
    authority = trustme.CA()
    tls, trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.configure_trust(trust)

    def encrypt(port: int) -> int:
        with _client(port) as client:
            client.starttls(context=trust)
            return client.ehlo()[0]

    async with open_smtp_fault_server(tls=tls) as server:
        assert await trio.to_thread.run_sync(encrypt, server.port) == 250
    assert server.heard[:3] == ["ehlo us.example", "STARTTLS", "ehlo us.example"]
