"""Before the last byte is handed over: surely not accepted."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from postman.errors import ProviderUnavailable, TooLate
from postman.provider import Attempt, Phase
from postman.testing import acts
from postman.testing.fault_server import FaultServer
from postman.testing.letters import an_attempt
from postman.wire import Client, ClientFactory
from tests.wire.calls import LARGE, ends


async def test_a_refused_connection_is_surely_not_accepted() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with ClientFactory()(base_url=f"http://127.0.0.1:{closed.getsockname()[1]}") as client:
            outcome, phase, reason = await ends(lambda a: client.post("/", attempt=a, json=1))
    assert (outcome, phase) == (ProviderUnavailable, Phase.UNMARKED)
    assert reason == "no connection: connection refused"


class Resolver(trio.abc.HostnameResolver):
    def __init__(self, error: OSError | None) -> None:
        self._error = error

    async def getaddrinfo(self, *_args: object, **_kwargs: object) -> list[tuple[object, ...]]:  # type: ignore[override]  # a fake
        if self._error:
            raise self._error
        await trio.sleep_forever()
        raise AssertionError

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@contextmanager
def resolver(error: OSError | None) -> Iterator[None]:
    old = trio.socket.set_custom_hostname_resolver(Resolver(error))
    try:
        yield
    finally:
        trio.socket.set_custom_hostname_resolver(old)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no connection: name or service not known"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "no connection: temporary failure"),
        (None, "no connection within 0.05 s"),
    ],
)
async def test_a_name_that_is_not_found_is_surely_not_accepted(error: OSError | None, words: str) -> None:
    with resolver(error):
        async with ClientFactory(connect_timeout=0.05)(base_url="https://vendor.invalid") as client:
            outcome, phase, reason = await ends(lambda a: client.post("/", attempt=a, json=1))
    assert (outcome, phase) == (ProviderUnavailable, Phase.UNMARKED)
    assert reason.startswith(words)


async def test_a_host_that_does_not_answer_the_connect_is_given_up() -> None:
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        first.connect(deaf.getsockname())  # fills the backlog: whoever comes next hears nothing
        async with ClientFactory(connect_timeout=0.1)(base_url=f"http://127.0.0.1:{deaf.getsockname()[1]}") as client:
            outcome, phase, reason = await ends(lambda a: client.post("/", attempt=a, json=1))
    assert (outcome, phase, reason) == (ProviderUnavailable, Phase.UNMARKED, "no connection within 0.1 s")


async def test_a_reset_in_the_middle_of_the_body_is_surely_not_accepted(server: FaultServer, client: Client) -> None:
    server.script(acts.reset_in_body())
    outcome, phase, _ = await ends(lambda a: client.post("/", attempt=a, json=LARGE))
    assert (outcome, phase) == (ProviderUnavailable, Phase.STARTED)


async def test_a_call_cut_while_its_body_is_stuck_has_not_been_handed_over(server: FaultServer, client: Client) -> None:
    server.script(acts.stall_before_reading())
    attempt = an_attempt()
    with trio.move_on_after(0.2) as scope:
        await client.post("/", attempt=attempt, json=LARGE)
    assert scope.cancelled_caught
    assert attempt.phase is Phase.STARTED


async def test_a_refusal_in_the_middle_of_the_body_is_heard(server: FaultServer, client: Client) -> None:
    server.script(acts.early_answer(413))
    attempt = an_attempt()
    answer = await client.post("/", attempt=attempt, json=LARGE)
    assert (answer.status, attempt.phase) == (413, Phase.STARTED)


@pytest.mark.parametrize("status", [202, 500])
async def test_an_answer_in_the_middle_of_the_body_that_explains_nothing_is_unavailable(
    server: FaultServer, client: Client, status: int
) -> None:
    server.script(acts.early_answer(status))
    outcome, phase, _ = await ends(lambda a: client.post("/", attempt=a, json=LARGE))
    assert (outcome, phase) == (ProviderUnavailable, Phase.STARTED)


async def test_nothing_is_sent_when_the_lease_is_over(server: FaultServer, client: Client) -> None:
    attempt = Attempt("key", lease_ends=0.0, clock=lambda: 0.0)
    with pytest.raises(TooLate):
        await client.post("/", attempt=attempt, json=1)
    assert (server.requests, attempt.phase) == ([], Phase.UNMARKED)
