"""Connections that are kept."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postman.errors import OutcomeUnknown
from postman.provider import Phase
from postman.testing import acts
from postman.testing.fault_server import FaultServer, open_fault_server
from postman.testing.letters import an_attempt
from postman.wire import Client, ClientFactory
from tests.wire.calls import LARGE, ends, wait_all_closed


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
