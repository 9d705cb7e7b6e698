"""Calls over TLS."""

from __future__ import annotations

import ssl

import pytest
import trustme

from postman.errors import OutcomeUnknown, ProviderUnavailable
from postman.provider import Phase
from postman.testing import acts
from postman.testing.fault_server import Act, open_fault_server
from postman.testing.letters import an_attempt
from postman.wire import ClientFactory
from tests.wire.calls import LARGE, ends


def tls_of(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ClientFactory:
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    return ClientFactory(tls=tls, connect_timeout=0.5)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_a_call_over_tls_arrives_and_the_connection_is_used_again(authority: trustme.CA) -> None:
    server_tls = tls_of(authority, "127.0.0.1")
    async with open_fault_server(otherwise=acts.answer(202), tls=server_tls) as server:
        async with trusting(authority)(base_url=server.url) as client:
            for body in (LARGE, b"small", b"smaller"):
                attempt = an_attempt()
                assert (await client.post("/", attempt=attempt, json=body)).status == 202
                assert attempt.phase is Phase.HANDED_OVER
        assert server.connections == 1
        assert all(request.whole for request in server.requests)


@pytest.mark.parametrize("flaw", ["unknown authority", "wrong name", "old protocol", "not tls", "reset"])
async def test_a_tls_failure_is_surely_not_accepted_and_never_gone_round(authority: trustme.CA, flaw: str) -> None:
    name = "vendor.example" if flaw == "wrong name" else "127.0.0.1"
    server_tls = tls_of(authority, name)
    if flaw == "old protocol":
        server_tls.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            server_tls.minimum_version = server_tls.maximum_version = ssl.TLSVersion.TLSv1_1
    factory = ClientFactory() if flaw == "unknown authority" else trusting(authority)
    async with open_fault_server(otherwise=acts.answer(202), tls=None if flaw == "not tls" else server_tls) as server:
        server.script(*[acts.reset_on_connect()] if flaw == "reset" else [])
        async with factory(base_url=server.url.replace("http:", "https:")) as client:
            outcome, phase, reason = await ends(lambda a: client.post("/", attempt=a, json=1))
        assert (outcome, phase, server.requests) == (ProviderUnavailable, Phase.UNMARKED, [])
        assert reason.startswith("no connection")


@pytest.mark.parametrize("act", [acts.reset_after_request(accept=True), acts.close_after_request(accept=True)])
async def test_an_answer_lost_over_tls_is_in_doubt(authority: trustme.CA, act: Act) -> None:
    async with open_fault_server(otherwise=act, tls=tls_of(authority, "127.0.0.1")) as server:
        async with trusting(authority)(base_url=server.url) as client:
            outcome, phase, _ = await ends(lambda a: client.post("/", attempt=a, json=1))
        assert (outcome, phase, len(server.accepted)) == (OutcomeUnknown, Phase.HANDED_OVER, 1)
