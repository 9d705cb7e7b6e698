"""Encryption is verified, and never given up."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from postman.provider import NotAccepted, Phase, ProviderMisconfigured, ProviderUnavailable, Receipt
from postman.secret import Secret
from postman.testing.letters import a_letter, an_attempt
from postman.testing.smtp_fault_server import Act, Fault, open_smtp_fault_server
from postman_plugin_smtp import SmtpProvider

type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]

USER: dict[str, Any] = {"username": "user", "password": Secret("password")}


def _side(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_nothing_but_ehlo_and_starttls_is_said_in_clear_text(
    security: str, authority: trustme.CA, ca_file: Path, open_provider: OpenProvider
) -> None:
    names: list[str | None] = []
    tls = _side(authority.issue_cert("localhost"))
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    implicit = security == "tls"
    async with open_smtp_fault_server(tls=tls, implicit=implicit) as server:
        async with open_provider(
            server.port, host="localhost", security=security, ca_file=ca_file, helo_name="us.example", **USER
        ) as provider:
            assert await provider.send(a_letter(), an_attempt()) == Receipt("FA01")
        await server.wait_closed()
    clear = [] if implicit else ["EHLO us.example", "STARTTLS"]
    assert server.heard[: len(clear) + 2] == [*clear, "EHLO us.example", "AUTH PLAIN AHVzZXIAcGFzc3dvcmQ="]
    assert server.heard[-1] == "QUIT"
    assert names == ["localhost"]


@pytest.mark.parametrize(
    ("act", "end"),
    [
        (b"454 4.7.0 TLS not available\r\n", ProviderUnavailable),
        (b"421 4.3.2 closing\r\n", ProviderUnavailable),
        (b"502 5.5.1 not implemented\r\n", ProviderMisconfigured),
        (Fault.DROP, ProviderUnavailable),
        (b"220 go\r\n250-fault.example\r\n250 AUTH PLAIN\r\n", ProviderUnavailable),
        ((b"220 go\r\n", b"not a handshake\r\n", Fault.DROP), ProviderUnavailable),
    ],
    ids=["4xx", "421", "5xx", "drop", "injection", "no handshake"],
)
async def test_a_failing_starttls_is_never_followed_by_clear_text(
    act: Act,
    end: type[NotAccepted],
    server_tls: ssl.SSLContext,
    ca_file: Path,
    open_provider: OpenProvider,
) -> None:
    attempt = an_attempt()
    async with (
        open_smtp_fault_server({"STARTTLS": act}, tls=server_tls) as server,
        open_provider(server.port, security="starttls", ca_file=ca_file, **USER) as provider,
    ):
        with pytest.raises(end):
            await provider.send(a_letter(), attempt)
    assert [line.split()[0] for line in server.heard] == ["EHLO", "STARTTLS"]
    assert attempt.phase is Phase.UNMARKED


async def test_a_server_without_starttls_is_misconfigured(open_provider: OpenProvider) -> None:
    async with (
        open_smtp_fault_server() as server,
        open_provider(server.port, security="starttls", **USER) as provider,
    ):
        with pytest.raises(ProviderMisconfigured, match="offers no STARTTLS"):
            await provider.send(a_letter(), an_attempt())
    assert [line.split()[0] for line in server.heard] == ["EHLO"]


@pytest.mark.parametrize("implicit", [True, False], ids=["tls", "starttls"])
@pytest.mark.parametrize("flaw", ["expired", "wrong name", "unknown authority"])
async def test_a_certificate_that_does_not_fit_is_misconfigured(
    flaw: str,
    implicit: bool,  # a parameter of the matrix
    authority: trustme.CA,
    ca_file: Path,
    open_provider: OpenProvider,
) -> None:
    certificate = {
        "expired": lambda: authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)),
        "wrong name": lambda: authority.issue_cert("other.example"),
        "unknown authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
    }[flaw]()
    security = "tls" if implicit else "starttls"
    async with (
        open_smtp_fault_server(tls=_side(certificate), implicit=implicit) as server,
        open_provider(server.port, security=security, ca_file=ca_file, **USER) as provider,
    ):
        with pytest.raises(ProviderMisconfigured, match="certificate is not trusted"):
            await provider.send(a_letter(), an_attempt())
        await server.wait_closed()
    assert not [line for line in server.heard if line.startswith(("AUTH", "MAIL"))]


async def test_tls_1_1_is_not_spoken(
    authority: trustme.CA, server_tls: ssl.SSLContext, ca_file: Path, open_provider: OpenProvider
) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(old)
    for context in (server_tls, old):
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with (
        open_smtp_fault_server(tls=server_tls, implicit=True) as server,
        open_provider(server.port, security="tls", ca_file=ca_file) as provider,
    ):
        async with await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=old) as stream:
            await stream.do_handshake()  # so that it is known to be the version that fails below
        with pytest.raises(ProviderUnavailable, match="TLS: no handshake"):
            await provider.send(a_letter(), an_attempt())
    assert server.heard == []


async def test_a_reply_that_came_before_its_time_inside_tls_does_not_count_as_acceptance(
    server_tls: ssl.SSLContext, ca_file: Path, open_provider: OpenProvider
) -> None:
    attempt = an_attempt()
    script: dict[str, Act] = {"DATA": (b"354 go ahead\r\n", b"250 2.0.0 Ok: queued as FA01\r\n")}
    async with (
        open_smtp_fault_server(script, tls=server_tls, implicit=True) as server,
        open_provider(server.port, security="tls", ca_file=ca_file) as provider,
    ):
        with pytest.raises(ProviderUnavailable):
            await provider.send(a_letter(), attempt)
    assert attempt.phase is Phase.STARTED
    assert server.taken == []
