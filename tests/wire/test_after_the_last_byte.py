"""After the last byte was handed over: perhaps accepted."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postman.answer import MAX_BODY
from postman.errors import OutcomeUnknown
from postman.provider import Phase
from postman.testing import acts
from postman.testing.fault_server import Act, FaultServer
from postman.testing.letters import an_attempt
from postman.wire import Client
from tests.wire.calls import ends, wait_all_closed

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
