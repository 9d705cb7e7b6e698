from __future__ import annotations

import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing
import trustme

from postman.answer import MAX_BODY
from postman.errors import ConfigError, OutcomeUnknown, ProviderError, ProviderUnavailable, TooLate
from postman.provider import Attempt, Phase
from postman.secret import Secret
from postman.testing import acts
from postman.testing.fault_server import Act, FaultServer, open_fault_server
from postman.wire import Client, ClientFactory, basic, bearer, check_base_url

LARGE = b"x" * 16_777_216  # more than the kernel takes for a peer that does not read
IN_TIME = 5.0


def an_attempt() -> Attempt:
    return Attempt("key", lease_ends=100.0, clock=lambda: 0.0)


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with open_fault_server(otherwise=acts.answer(202, {"X-Id": "7"}, b'{"id": "7"}')) as server:
        yield server


@pytest.fixture
async def client(server: FaultServer) -> AsyncIterator[Client]:
    async with ClientFactory()(base_url=server.url, headers={"Authorization": bearer(Secret("key-1"))}) as client:
        yield client


async def ends(call: Callable[[Attempt], Awaitable[object]]) -> tuple[type[ProviderError], Phase, str]:
    attempt = an_attempt()
    with trio.fail_after(IN_TIME), pytest.raises(ProviderError) as caught:
        await call(attempt)
    return type(caught.value), attempt.phase, caught.value.reason


async def wait_all_closed(server: FaultServer) -> None:
    with trio.fail_after(IN_TIME):
        while server.open_connections:  # noqa: ASYNC110  # the end comes over the network, not as an event
            await trio.sleep(0.001)


# What a request is and what an answer is


async def test_a_request_carries_the_credentials_and_the_body_and_the_answer_comes_back(
    server: FaultServer, client: Client
) -> None:
    attempt = an_attempt()
    answer = await client.post("/v3/send", attempt=attempt, json={"a": b"\x00"}, headers={"X-Extra": "yes"})
    assert (answer.status, answer.headers["x-id"], answer.decode(dict[str, str])) == (202, "7", {"id": "7"})
    assert attempt.phase is Phase.HANDED_OVER
    [request] = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/v3/send", b'{"a":"AA=="}')
    assert request.headers["authorization"] == "Bearer key-1"
    assert request.headers["host"] == server.url.removeprefix("http://")
    assert request.headers["accept-encoding"] == "identity"
    assert (request.headers["content-type"], request.headers["x-extra"]) == ("application/json", "yes")


async def test_a_path_of_the_base_url_stands_before_every_path(server: FaultServer) -> None:
    async with ClientFactory()(base_url=server.url + "/proxy/") as client:
        await client.get("/v3/scopes")
    assert server.requests[0].path == "/proxy/v3/scopes"


async def test_calls_in_a_row_share_a_connection(server: FaultServer, client: Client) -> None:
    for _ in range(3):
        await client.post("/", attempt=an_attempt(), json=1)
    assert server.connections == 1


async def test_calls_side_by_side_have_connections_of_their_own(server: FaultServer, client: Client) -> None:
    async def call(n: int) -> None:
        await client.post(f"/{n}", attempt=an_attempt(), json=n)

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(call, n)
    assert {(r.path, r.body) for r in server.requests} == {(f"/{n}", b"%d" % n) for n in range(5)}
    assert server.connections == 5


async def test_a_redirect_is_an_answer_and_the_key_goes_nowhere_else(server: FaultServer, client: Client) -> None:
    async with open_fault_server(otherwise=acts.answer(202)) as elsewhere:
        server.script(acts.redirect(elsewhere.url + "/v3/send", 307))
        answer = await client.post("/v3/send", attempt=an_attempt(), json=1)
        assert (answer.status, elsewhere.connections) == (307, 0)


async def test_cookies_are_not_kept(server: FaultServer, client: Client) -> None:
    server.script(acts.answer(202, {"Set-Cookie": "a=b"}))
    await client.post("/", attempt=an_attempt(), json=1)
    await client.post("/", attempt=an_attempt(), json=1)
    assert "cookie" not in server.requests[1].headers


async def test_proxies_of_the_environment_are_not_asked(
    server: FaultServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await client.get("/")).ok
    assert server.connections == 1


async def test_an_interim_answer_is_passed_over(server: FaultServer, client: Client) -> None:
    server.script(acts.garbage(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok"))
    assert (await client.post("/", attempt=an_attempt(), json=1)).body == b"ok"


async def test_gzip_that_nobody_asked_for_is_read(server: FaultServer, client: Client) -> None:
    server.script(acts.answer(202, {"Content-Encoding": "gzip"}, gzip.compress(b"ok")))
    assert (await client.post("/", attempt=an_attempt(), json=1)).body == b"ok"


# Before the last byte: surely not accepted


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


# TLS


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


# After the last byte: perhaps accepted

ANSWERS_THAT_CANNOT_BE_READ = {
    "reset": acts.reset_after_request(accept=True),
    "closed": acts.close_after_request(accept=True),
    "garbage": acts.garbage(),
    "half a head": acts.garbage(b"HTTP/1.1 202 Acc"),
    "another protocol": acts.garbage(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "two lengths": acts.garbage(b"HTTP/1.1 202 A\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "half a body": acts.truncated(202),
    "endless headers": acts.endless_headers(),
    "endless 100 Continue": acts.endless_continue(),
    "endless chunks": acts.endless_chunks(),
    "endless tiny chunks": acts.endless_chunks(size=1),
    "a gigabyte": acts.huge(),
    "a gzip bomb": acts.gzip_bomb(),
    "an unknown coding": acts.answer(202, {"Content-Encoding": "br"}, b"xx"),
    "broken gzip": acts.answer(202, {"Content-Encoding": "gzip"}, b"xx"),
}


@pytest.mark.parametrize("act", ANSWERS_THAT_CANNOT_BE_READ.values(), ids=ANSWERS_THAT_CANNOT_BE_READ)
async def test_an_answer_that_cannot_be_read_is_in_doubt_and_spoils_no_later_call(
    server: FaultServer, client: Client, act: Act
) -> None:
    server.script(act)
    outcome, phase, _ = await ends(lambda a: client.post("/", attempt=a, json=1))
    assert (outcome, phase) == (OutcomeUnknown, Phase.HANDED_OVER)
    assert (await client.post("/", attempt=an_attempt(), json=2)).status == 202
    assert len(server.requests) == 2


@pytest.mark.parametrize("act", [acts.hang(accept=True), acts.drip()], ids=["hang", "drip"])
@pytest.mark.parametrize("before", [0, 1], ids=["on a new connection", "on a kept connection"])
async def test_the_callers_deadline_ends_a_call_that_was_handed_over(
    server: FaultServer, client: Client, act: Act, before: int
) -> None:
    server.script(*before * [acts.answer(202)], act)
    for _ in range(before):
        await client.post("/", attempt=an_attempt(), json=0)
    attempt = an_attempt()
    with trio.move_on_after(0.2) as scope:
        await client.post("/", attempt=attempt, json=1)
    assert (scope.cancelled_caught, attempt.phase) == (True, Phase.HANDED_OVER)
    await wait_all_closed(server)
    assert (await client.post("/", attempt=an_attempt(), json=2)).status == 202


async def test_a_body_may_be_as_long_as_the_limit_and_no_longer(server: FaultServer, client: Client) -> None:
    server.script(acts.answer(202, body=bytes(MAX_BODY)), acts.answer(202, body=bytes(MAX_BODY + 1)))
    assert len((await client.get("/")).body) == MAX_BODY
    outcome, phase, _ = await ends(lambda a: client.post("/", attempt=a, json=1))
    assert (outcome, phase) == (OutcomeUnknown, Phase.HANDED_OVER)


async def test_the_limit_of_headers_is_for_each_answer_and_not_for_a_connection(
    server: FaultServer, client: Client
) -> None:
    server.otherwise = acts.answer(202, {"X-Long": 60_000 * "x"})
    for _ in range(3):
        assert (await client.get("/")).ok
    assert server.connections == 1


@pytest.mark.parametrize(
    "act",
    [acts.truncated(401), acts.endless_chunks(401), acts.huge(401), acts.gzip_bomb(401)],
    ids=["half", "endless", "huge", "bomb"],
)
async def test_a_refusal_whose_body_cannot_be_read_is_a_refusal_all_the_same(
    server: FaultServer, client: Client, act: Act
) -> None:
    server.script(act)
    answer = await client.post("/", attempt=an_attempt(), json=1)
    assert (answer.status, answer.body) == (401, b"")
    await client.post("/", attempt=an_attempt(), json=2)
    assert server.connections == 2


# Kept connections


async def test_a_connection_that_the_vendor_closed_while_idle_leaves_no_doubt(
    server: FaultServer, client: Client
) -> None:
    server.script(acts.answer(202, then_close=True))
    await client.post("/", attempt=an_attempt(), json=1)
    await trio.testing.wait_all_tasks_blocked(0.01)  # the FIN comes in
    assert (await client.post("/", attempt=an_attempt(), json=2)).status == 202
    assert server.connections == 2


async def test_a_kept_connection_that_breaks_in_mid_body_is_replaced_once(server: FaultServer, client: Client) -> None:
    server.script(acts.answer(202), acts.reset_in_body())
    await client.post("/", attempt=an_attempt(), json=1)
    attempt = an_attempt()
    assert (await client.post("/", attempt=attempt, json=LARGE)).status == 202
    assert (server.connections, attempt.phase) == (2, Phase.HANDED_OVER)
    assert [request.whole for request in server.requests] == [True, False, True]


async def test_a_kept_connection_closed_as_the_request_arrives_is_in_doubt(server: FaultServer, client: Client) -> None:
    server.script(acts.answer(202), acts.reset_on_request())
    await client.post("/", attempt=an_attempt(), json=1)
    outcome, phase, _ = await ends(lambda a: client.post("/", attempt=a, json=2))
    assert (outcome, phase, server.connections) == (OutcomeUnknown, Phase.HANDED_OVER, 1)


@pytest.mark.parametrize(("said", "connections"), [({}, 1), ({"Keep-Alive": "timeout=1, max=9"}, 2)])
async def test_a_connection_is_used_again_for_half_of_what_the_vendor_keeps_it(
    said: dict[str, str], connections: int
) -> None:
    clock = trio.testing.MockClock()

    async def two_calls() -> int:
        async with open_fault_server(otherwise=acts.answer(202, said)) as server:
            async with ClientFactory(keep_idle=4.0)(base_url=server.url) as client:
                await client.get("/")
                clock.jump(0.6)
                await client.get("/")
            return server.connections

    assert await trio.to_thread.run_sync(lambda: trio.run(two_calls, clock=clock)) == connections


async def test_an_answer_to_nobody_is_not_taken_for_the_answer_of_the_next_call(
    server: FaultServer, client: Client
) -> None:
    server.script(acts.garbage(2 * b"HTTP/1.1 202 Accepted\r\nX-Id: stray\r\nContent-Length: 0\r\n\r\n"))
    await client.post("/", attempt=an_attempt(), json=1)
    assert (await client.post("/", attempt=an_attempt(), json=2)).headers["x-id"] == "7"


async def test_a_hundred_cancelled_calls_spoil_no_later_one(server: FaultServer, client: Client) -> None:
    server.otherwise = acts.echo()
    for n in range(100):
        with trio.move_on_after(n * 0.000_02):
            await client.post("/", attempt=an_attempt(), json=f"cancelled {n}")
    for n in range(10):
        assert (await client.post("/", attempt=an_attempt(), json=n)).body == b"%d" % n


async def test_leaving_the_client_closes_its_connections(server: FaultServer) -> None:
    async with ClientFactory()(base_url=server.url) as client:
        await client.get("/")
        assert server.open_connections == 1
    await wait_all_closed(server)


async def test_a_call_that_outlives_its_client_leaves_no_connection(server: FaultServer) -> None:
    async with ClientFactory()(base_url=server.url) as client:
        pass
    assert (await client.get("/")).ok
    await wait_all_closed(server)


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "", "api.example.com", "ftp://api.example.com", "https://", "https://u:p@api.example.com", "https://h:99999",
        "https://h:0", "https://h/?a=b", "https://h/#a", "https://h?", "https://exämple.com", "https://a b", "https://[::1",
    ],
)  # fmt: skip
def test_a_base_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base-url"):
        check_base_url(url)


@pytest.mark.parametrize(
    "url", ["https://api.example.com", "https://h:8443/v1/", "http://127.0.0.1:1", "http://[::1]:1"]
)
async def test_a_base_url_that_can_be_used_is_taken(url: str) -> None:
    async with ClientFactory()(base_url=url):
        pass


async def test_plain_http_is_for_this_machine_alone_unless_allowed() -> None:
    with pytest.raises(ConfigError, match="https"):
        async with ClientFactory()(base_url="http://api.example.com"):
            pass
    async with ClientFactory(allow_http=True)(base_url="http://api.example.com"):
        pass


@pytest.mark.parametrize("key", ["hunter2\n", "hunter2\r\nX: y", "hünter2"])
async def test_a_secret_that_cannot_stand_in_a_header_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigError, match="Authorization") as caught:
        async with ClientFactory()(base_url="https://h", headers={"Authorization": bearer(Secret(key))}):
            pass
    assert "nter2" not in str(caught.value)


def test_credentials_stay_secret() -> None:
    assert basic("api", Secret("key")).reveal() == "Basic YXBpOmtleQ=="
    assert "key" not in repr([basic("api", Secret("key")), bearer(Secret("key"))])
