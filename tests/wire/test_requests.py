"""What a request is, and what an answer is."""

from __future__ import annotations

import gzip

import pytest
import trio
import trio.testing

from postman.provider import Phase
from postman.testing import acts
from postman.testing.fault_server import FaultServer, open_fault_server
from postman.testing.letters import an_attempt
from postman.wire import Client, ClientFactory


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
