# ruff: noqa: ANN401  # the fixtures' types live in conftest.py, which cannot be imported
from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from quart import request
from quart_trio import QuartTrio

from postman.config import Http
from postman.http.conversation import Conversation
from postman.http.framing import Load

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /mail HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
POST_SLOWLY = POST.replace(b"/mail", b"/slow")


async def refused(port: int) -> None:
    """Wait until nobody listens on `port`."""
    with contextlib.suppress(OSError):
        while True:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.receive_some()


@pytest.mark.parametrize("round_", range(20))
async def test_no_committed_request_goes_unanswered(house: Any, round_: int) -> None:
    app = QuartTrio(__name__)
    committed: set[bytes] = set()
    answered: set[bytes] = set()

    @app.post("/mail")
    async def take() -> tuple[str, int]:
        body = await request.body
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        committed.add(body)
        if len(committed) == 60 + round_:
            home.server.close(grace=5)
        return "taken", 202

    async def load(number: int) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async with home.connect() as client:
                for count in range(10_000):
                    body = b"%02d-%04d" % (number, count)
                    await client.send(POST.replace(b"5", b"7").replace(b"hello", body))
                    data = await client.stream.receive_some()
                    while data and not data.endswith(b"taken"):
                        more = await client.stream.receive_some()
                        data = data + more if more else b""
                    if not data:
                        return
                    answered.add(body)
                    if b"connection: close" in data.lower():
                        return

    async with house(app) as home:
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(load, number)
        await home.ended.wait()
    assert len(committed) >= 60 + round_
    assert committed == answered


async def test_idle_connections_do_not_hold_the_end_up(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as used, home.connect() as fresh:
        await used.send(GET)
        await used.answer("GET")
        began = trio.current_time()
        home.server.close(grace=10)
        await home.ended.wait()
        assert trio.current_time() - began < 1
        assert await used.rest() == b""
        assert await fresh.rest() == b""


async def test_a_connection_that_begins_when_the_others_were_let_go_is_closed(desk: Any) -> None:
    closing = trio.Event()
    closing.set()
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    async with ours, theirs:
        with trio.fail_after(20):
            await Conversation(ours, desk.app, Http(), Load(1_000), closing).run()


async def test_requests_in_hand_are_answered_and_new_connections_are_not_taken(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(POST_SLOWLY)
        await desk.began.wait()
        home.server.close(grace=10)
        await refused(home.port)
        assert not home.ended.is_set()
        desk.go.set()
        answer = await client.answer()
        assert (answer.status, answer.headers[b"connection"]) == (202, b"close")
        assert await client.rest() == b""
        await home.ended.wait()


async def test_a_request_whose_body_is_on_its_way_is_taken_to_the_end(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client, home.connect() as idle:
        await client.send(POST.removesuffix(b"hello") + b"he")
        await home.ask()  # by then the server has read it
        home.server.close(grace=10)
        assert await idle.rest() == b""
        await client.send(b"llo")
        assert (await client.answer()).status == 202
        await home.ended.wait()


async def test_headers_on_their_way_are_refused_with_a_503(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(b"POST /mail HT")
        await home.ask()
        home.server.close(grace=10)
        assert (await client.answer()).status == 503
        await home.ended.wait()


async def test_what_hangs_beyond_the_grace_is_cut(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client, home.connect() as stalled:
        await stalled.send(GET.replace(b"/", b"/large", 1))
        await client.send(POST_SLOWLY)
        await desk.began.wait()
        began = trio.current_time()
        home.server.close(grace=0.2)
        await home.ended.wait()
        assert 0.15 < trio.current_time() - began < 2
        assert await client.rest() == b""
        assert home.server.statistics().connections == 0
        assert home.server.statistics().cut == 2
    assert desk.cancelled.is_set()


async def test_cancellation_closes_everything_at_once(house: Any, desk: Any) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with house(desk.app) as home:
            client = await stack.enter_async_context(home.connect())
            await client.send(POST_SLOWLY)
            await desk.began.wait()
        assert home.server.statistics().connections == 0
        assert await client.rest() == b""
        await refused(home.port)


async def test_closing_twice_is_closing_once(house: Any, desk: Any) -> None:
    async with house(desk.app) as home:
        home.server.close(grace=10)
        home.server.close(grace=10)
        await home.ended.wait()
