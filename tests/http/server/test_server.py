# ruff: noqa: ANN401  # the fixtures' types live in conftest.py, which cannot be imported
from __future__ import annotations

import contextlib
from typing import Any

import pytest
import structlog
import trio
from quart import request
from quart_trio import QuartTrio

from postman.errors import ConfigError
from postman.http.listeners import open_listeners

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /mail HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
POST_SLOWLY = POST.replace(b"/mail", b"/slow")


async def test_a_request_is_answered_and_the_software_is_not_named(house: Any, desk: Any) -> None:
    async with house(desk.app) as home:
        answer = await home.ask(POST)
    assert (answer.status, answer.body, desk.committed) == (202, b"taken", [b"hello"])
    assert set(answer.headers) == {b"content-type", b"content-length", b"date"}


async def test_requests_follow_each_other_on_one_connection(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        for _ in range(3):
            await client.send(POST)
            assert (await client.answer()).status == 202


async def test_a_request_follows_one_whose_body_nobody_read(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(POST.replace(b"/mail", b"/nowhere") + POST)
        assert [(await client.answer()).status for _ in range(2)] == [404, 202]


async def test_pipelined_requests_are_answered_in_order(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(b"".join(POST.replace(b"hello", b"hell%d" % n) for n in range(5)))
        assert [(await client.answer()).status for _ in range(5)] == [202] * 5
    assert desk.committed == [b"hell%d" % n for n in range(5)]


async def test_connection_close_is_answered_and_closed(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(POST.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert (await client.answer()).headers[b"connection"] == b"close"
        assert await client.rest() == b""


@pytest.mark.parametrize("more", [GET, b"\r\n", b"\x00"])
async def test_what_follows_connection_close_does_not_replace_the_answer(house: Any, desk: Any, more: bytes) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(POST.replace(b"Host: x", b"Host: x\r\nConnection: close") + more)
        assert (await client.answer()).status == 202
        with contextlib.suppress(trio.BrokenResourceError):
            assert await client.rest() == b""


async def test_http_1_0_is_answered_and_closed(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.answer("GET")).body == b"hello"
        assert await client.rest() == b""


async def test_an_idle_connection_ends_after_the_idle_timeout(house: Any, desk: Any) -> None:
    async with house(desk.app, idle_timeout=0.2) as home, home.connect() as client:
        for _ in range(2):
            await client.send(GET)
            assert (await client.answer("GET")).status == 200
        answered = trio.current_time()
        assert await client.rest() == b""
        assert 0.15 < trio.current_time() - answered < 2


async def test_a_handler_at_work_is_not_taken_for_an_idle_connection(house: Any, desk: Any) -> None:
    limits = {"idle_timeout": 0.1, "body_timeout": 0.1, "header_timeout": 0.1}
    async with house(desk.app, **limits) as home, home.connect() as client, home.connect() as other:
        await client.send(POST_SLOWLY)
        await desk.began.wait()
        assert await other.rest() == b""  # a timeout has passed
        desk.go.set()
        assert (await client.answer()).status == 202


async def test_the_answer_to_head_has_no_body(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(GET.replace(b"GET", b"HEAD"))
        answer = await client.answer("HEAD")
        assert (answer.status, answer.body, answer.headers[b"content-length"]) == (200, b"", b"5")
        await client.send(GET)
        assert (await client.answer("GET")).body == b"hello"


async def test_a_body_that_waits_for_100_continue_is_asked_for(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(POST.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue").removesuffix(b"hello"))
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"hello")
        assert (await client.answer()).status == 202


async def test_an_answer_before_the_body_does_not_meet_the_100_on_its_way(house: Any) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with house(app) as home:
        answer = await home.ask(POST.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue").removesuffix(b"hello"))
        assert answer.status == 401


async def test_absolute_form_is_a_path_like_any_other(house: Any, desk: Any) -> None:
    async with house(desk.app) as home:
        assert (await home.ask(POST.replace(b"/mail", b"http://x/mail"))).status == 202


async def test_an_application_that_raises_costs_one_answer(house: Any) -> None:
    async def app(scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        raise RuntimeError(scope["path"])

    with structlog.testing.capture_logs() as logs:
        async with house(app) as home:
            assert [(await home.ask()).status for _ in range(2)] == [500, 500]
    assert [(entry["log_level"], entry["exc_info"]) for entry in logs] == [("error", True)] * 2


async def test_the_head_of_an_answer_goes_out_with_its_body(house: Any) -> None:
    go = trio.Event()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        if scope["path"] == "/held":
            await go.wait()
        await send({"type": "http.response.body", "body": b"hello"})

    async with house(app) as home, home.connect() as client:
        await client.send(GET.replace(b"/", b"/held", 1))
        await home.ask()
        go.set()
        assert (await client.stream.receive_some()).endswith(b"\r\n\r\nhello")


async def test_an_answer_that_breaks_off_closes_the_connection(house: Any) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async with house(app) as home, home.connect() as client:
        await client.send(GET)
        assert (await client.rest()).endswith(b"\r\n\r\nhalf")


async def test_nothing_follows_an_answer_whose_sending_was_cut(house: Any) -> None:
    cut = trio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"30000000")]})
        with trio.move_on_after(0.1):
            await send({"type": "http.response.body", "body": bytes(30_000_000), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        cut.set()

    async with house(app) as home, home.connect() as client:
        await client.send(GET)
        await cut.wait()
        assert len(await client.rest()) < 30_000_000


@pytest.mark.parametrize("leave", ["fin", "rst"])
async def test_a_handler_whose_client_left_after_the_body_runs_to_its_end(house: Any, desk: Any, leave: str) -> None:
    async with house(desk.app) as home:
        async with home.connect() as client:
            await client.send(POST_SLOWLY)
            await desk.began.wait()
            if leave == "rst":
                client.reset()
        for _ in range(3):  # the server has surely seen it by then
            await home.ask()
        desk.go.set()
        while not desk.committed:
            await home.ask()
    assert desk.committed == [b"hello"]
    assert not desk.cancelled.is_set()


async def test_a_client_that_only_stopped_sending_gets_its_answer(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(POST)
        await client.stream.send_eof()
        assert (await client.answer()).status == 202
        assert await client.rest() == b""


async def test_a_client_that_leaves_within_its_body_ends_the_handler(house: Any) -> None:
    app, cancelled = QuartTrio(__name__), trio.Event()

    @app.post("/mail")
    async def take() -> str:
        try:
            return str(await request.get_data())
        except trio.Cancelled:
            cancelled.set()
            raise

    async with house(app) as home:
        async with home.connect() as client:
            await client.send(POST[:-1])
        await cancelled.wait()


@pytest.mark.parametrize("leave", ["fin", "rst"])
async def test_half_a_body_is_no_body(house: Any, desk: Any, leave: str) -> None:
    async with house(desk.app) as home:
        async with home.connect() as client:
            await client.send(POST[:-1])
            while not home.server.statistics().served:
                await trio.lowlevel.checkpoint()
            if leave == "rst":
                client.reset()
        while home.server.statistics().connections:
            await trio.lowlevel.checkpoint()
    assert not desk.committed


async def test_the_statistics_count(house: Any, desk: Any) -> None:
    async with house(desk.app, max_connections=2, header_timeout=0.1, idle_timeout=5) as home:
        async with home.connect() as client, home.connect() as slow, home.connect() as third:
            assert (await third.answer()).status == 503
            await client.send(GET + GET)
            await client.answer("GET")
            await client.answer("GET")
            await slow.send(b"GET")
            await slow.rest()
            now = home.server.statistics()
        assert (now.served, now.refused, now.cut) == (2, 1, 1)
        assert 1 <= now.connections <= 2


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_listeners_are_opened(bind: str) -> None:
    for listener in await open_listeners(bind):
        assert listener.socket.getsockname()[1] > 0
        await listener.aclose()


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("127.0.0.1", "HOST:PORT"),
        (":8901", "HOST:PORT"),
        ("127.0.0.1:http", "HOST:PORT"),
        ("127.0.0.1:70000", "HOST:PORT"),
        ("::1:8901", "brackets"),
        ("192.0.2.1:0", "not an address of this machine"),
        ("no-such-host.invalid:0", "not an address of this machine"),
    ],
)
async def test_a_bind_that_cannot_be_names_the_cure(bind: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        await open_listeners(bind)
    assert str(caught.value).startswith("http.bind")


async def test_an_address_in_use_names_the_cure() -> None:
    (taken,) = await open_listeners("127.0.0.1:0")
    async with taken:
        with pytest.raises(ConfigError, match=r"in use.*another port"):
            await open_listeners(f"127.0.0.1:{taken.socket.getsockname()[1]}")
