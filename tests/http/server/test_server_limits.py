# ruff: noqa: ANN401  # the fixtures' types live in conftest.py, which cannot be imported
from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /mail HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

BAD = {
    "content-length and transfer-encoding": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "two content-lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of content-lengths": POST + b"Content-Length: 5, 6\r\n\r\nhello!",
    "signed content-length": POST + b"Content-Length: +5\r\n\r\nhello",
    "endless content-length": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "chunked in HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"5\r\nhello\r\n0\r\n\r\n",
    "obs-fold": POST + b"X-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bare LF in the headers": POST + b"X-A: a\nContent-Length: 0\r\n\r\n",
    "bare LF everywhere": GET.replace(b"\r\n", b"\n"),
    "bare LF at the end": GET[:-2] + b"\n",
    "bare CR": POST + b"X-A: a\rb\r\n\r\n",
    "NUL": POST + b"X-A: a\x00b\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"5\r\nhelloXX\r\n0\r\n\r\n",
    "chunk ends in bare LF": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "chunk size ends in bare LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "last chunk ends in bare LF": CHUNKED + b"5\r\nhello\r\n0\r\n\nGET / HTTP/1.1\r\n",
    "trailers end in bare LF": CHUNKED + b"0\r\nX-A: a\n\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no path": GET.replace(b" / ", b" ? "),
    "asterisk": GET.replace(b"GET / ", b"OPTIONS * "),
    "authority": GET.replace(b"GET / ", b"CONNECT x:443 "),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    "smtp": b"EHLO example.org\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_framing_is_refused_and_the_connection_closed(house: Any, desk: Any, name: str) -> None:
    async with house(desk.app) as home, home.connect() as client:
        await client.send(BAD[name] + GET)  # what follows must not be taken for a request
        received = await client.rest()
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["detail"].startswith("This cannot be read as HTTP/1.1")
    assert not desk.committed


@pytest.mark.parametrize("pieces", [1, 2, 3])
async def test_bad_framing_is_seen_whatever_the_packets(house: Any, desk: Any, pieces: int) -> None:
    async with house(desk.app) as home:
        for name in ("last chunk ends in bare LF", "trailers end in bare LF", "obs-fold", "bare LF at the end"):
            async with home.connect() as client:
                for start in range(0, len(BAD[name]), pieces):
                    await client.send(BAD[name][start : start + pieces])
                    await trio.lowlevel.checkpoint()
                await client.stream.send_eof()
                assert (await client.rest()).startswith(b"HTTP/1.1 400 "), name


async def test_good_chunks_in_small_pieces_are_taken(house: Any, desk: Any) -> None:
    async with house(desk.app) as home, home.connect() as client:
        for byte in CHUNKED + b"5;x=y\r\nhello\r\n1\r\n\n\r\n0\r\nX-A: a\r\n\r\n":
            await client.send(bytes([byte]))
        assert (await client.answer()).status == 202
    assert desk.committed == [b"hello\n"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (GET.replace(b"1.1", b"3.0"), 505),
    ],
)
async def test_what_is_not_spoken_here_is_said(house: Any, desk: Any, request_: bytes, status: int) -> None:
    async with house(desk.app) as home:
        assert (await home.ask(request_)).status == status


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
async def test_an_upgrade_is_not_taken(house: Any, desk: Any, upgrade: bytes) -> None:
    wish = b"Connection: upgrade, http2-settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nUpgrade: " + upgrade
    key = b"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    async with house(desk.app) as home:
        answer = await home.ask(GET[:-2] + wish + key)
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize("complete", [True, False])
async def test_headers_end_at_64_kib(house: Any, desk: Any, *, complete: bool) -> None:
    async with house(desk.app) as home:
        assert (await home.ask(GET[:-2] + b"X-A: " + b"a" * 65_000 + b"\r\n\r\n")).status == 200
        assert (await home.ask(GET[:-2] + b"X-A: " + b"a" * 66_000 + b"\r\n\r\n" * complete)).status == 431


async def test_a_body_of_the_greatest_size_is_taken(house: Any, desk: Any) -> None:
    body = b"x" * 200_000
    async with house(desk.app, max_body=200_000) as home:
        assert (await home.ask(POST + b"Content-Length: 200000\r\n\r\n" + body)).status == 202
        assert (await home.ask(CHUNKED + b"30d40\r\n" + body + b"\r\n0\r\n\r\n")).status == 202
    assert desk.committed == [body, body]


async def test_a_body_said_to_be_too_large_is_refused_before_it_is_read(house: Any, desk: Any) -> None:
    async with house(desk.app, max_body=200_000) as home, home.connect() as client:
        await client.send(POST.replace(b"/mail", b"/slow") + b"Content-Length: 200001\r\nExpect: 100-continue\r\n\r\n")
        received = await client.rest()
    assert received.startswith(b"HTTP/1.1 413 ")
    assert not desk.began.is_set()


async def test_a_client_that_goes_on_sending_too_large_a_body_reads_its_413(house: Any, desk: Any) -> None:
    async with house(desk.app, max_body=200_000) as home, home.connect() as client:
        await client.send(POST + b"Content-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        answer = await client.answer()
    assert answer.status == 413
    assert json.loads(answer.body)["detail"] == "The body is larger than 200000 bytes."


async def test_a_refused_head_has_no_body(house: Any, desk: Any) -> None:
    async with house(desk.app, max_body=200_000) as home, home.connect() as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 200001\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert (head[:13], body) == (b"HTTP/1.1 413 ", b"")


async def test_a_chunked_body_is_refused_at_the_byte_that_is_too_many(house: Any, desk: Any) -> None:
    async with house(desk.app, max_body=200_000) as home, home.connect() as client:
        await client.send(CHUNKED + b"30d40\r\n" + b"x" * 200_000 + b"\r\n")
        await client.send(b"1\r\nx")
        assert (await client.answer()).status == 413
        assert await client.rest() == b""
    assert not desk.committed


async def test_bodies_that_are_too_much_together_are_refused_before_they_are_read(house: Any, desk: Any) -> None:
    large = POST + b"Content-Length: 60000\r\n\r\n"
    async with house(desk.app, max_body=60_000, max_bodies=100_000) as home, home.connect() as first:
        await first.send(large.replace(b"/mail", b"/slow") + b"x" * 60_000)
        await desk.began.wait()
        for _ in range(2):
            async with home.connect() as second:
                await second.send(large)
                answer = await second.answer()
            assert (answer.status, answer.headers[b"retry-after"]) == (503, b"1")
            assert b"Nothing was accepted" in answer.body
        assert (await home.ask(POST + b"Content-Length: 5\r\n\r\nsmall")).status == 202
        async with home.connect() as chunked:
            await chunked.send(CHUNKED + b"9c40\r\n" + b"x" * 40_000 + b"\r\n1\r\nx")
            assert (await chunked.answer()).status == 503
        desk.go.set()
        assert (await first.answer()).status == 202
        for _ in range(5):  # what was answered, refused or left takes no room
            async with home.connect() as leaving:
                await leaving.send(large + b"x" * 50_000)
            while home.server.statistics().connections > 1:
                await trio.lowlevel.checkpoint()
            await first.send(large + b"x" * 60_000)
            assert (await first.answer()).status == 202


async def test_a_body_that_was_refused_takes_no_room_while_its_client_is_still_there(house: Any, desk: Any) -> None:
    async with house(desk.app, max_body=60_000, max_bodies=100_000) as home, home.connect() as first:
        await first.send(POST.replace(b"/mail", b"/slow") + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000)
        await desk.began.wait()
        async with home.connect() as second:
            await second.send(CHUNKED + b"9c40\r\n" + b"x" * 40_000 + b"\r\n1\r\nx")
            assert (await second.answer()).status == 503
            assert (await home.ask(POST + b"Content-Length: 40000\r\n\r\n" + b"x" * 40_000)).status == 202
        desk.go.set()
        assert (await first.answer()).status == 202


async def test_connections_beyond_the_limit_are_told_so_and_the_next_is_served(house: Any, desk: Any) -> None:
    async with house(desk.app, max_connections=3) as home:
        async with home.connect() as first, home.connect(), home.connect():
            await first.send(GET)
            await first.answer("GET")
            async with home.connect() as fourth:
                answer = await fourth.answer()
                assert (answer.status, answer.headers[b"connection"]) == (503, b"close")
                assert b"retry-after" in answer.headers
                assert "Nothing was accepted" in json.loads(answer.body)["detail"]
        while home.server.statistics().connections == 3:
            await trio.lowlevel.checkpoint()
        assert (await home.ask()).status == 200


async def drip(client: Any, data: bytes) -> bytes:
    """Send a byte each twentieth of a second until the server has enough; what it answered."""
    received: list[bytes] = []

    async def listen(scope: trio.CancelScope) -> None:
        received.append(await client.rest())
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, nursery.cancel_scope)
        while True:
            for byte in data:
                await trio.sleep(0.05)  # the pace of a slow client
                try:
                    await client.send(bytes([byte]))
                except trio.BrokenResourceError:
                    await trio.sleep_forever()
    return received[0]


@pytest.mark.parametrize("part", ["headers", "body"])
async def test_slow_clients_are_cut_while_others_are_served(house: Any, desk: Any, part: str) -> None:
    said = b"POST /mail HTTP/1.1\r\n" if part == "headers" else POST + b"Content-Length: 1000\r\n\r\n"
    slow: list[bytes] = []

    async def crawl() -> None:
        async with home.connect() as client:
            await client.send(said)
            slow.append(await drip(client, b"X-A: a\r\n"))

    served = 0
    async with house(desk.app, header_timeout=1, body_timeout=1, idle_timeout=1) as home:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(crawl)
            while not slow:
                assert (await home.ask()).status == 200
                served += not slow
        assert home.server.statistics().cut == 50
    assert served
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in slow)


async def test_a_client_that_says_nothing_is_cut(house: Any, desk: Any) -> None:
    async with house(desk.app, header_timeout=0.1) as home, home.connect() as client:
        assert await client.rest() == b""


async def test_slow_headers_after_a_first_request_are_cut(house: Any, desk: Any) -> None:
    async with house(desk.app, header_timeout=0.1, idle_timeout=10) as home, home.connect() as client:
        await client.send(GET)
        await client.answer("GET")
        await client.send(b"GET")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_does_not_read_its_answer_is_cut(house: Any, desk: Any) -> None:
    async with house(desk.app, body_timeout=0.2) as home, home.connect() as client:
        await client.send(GET.replace(b"/", b"/large", 1))
        while not home.server.statistics().cut:
            assert (await home.ask()).status == 200


FEW_DESCRIPTORS = """
import resource, trio
from quart_trio import QuartTrio
from postman.config import Http
from postman.http.listeners import open_listeners
from postman.http.server import Server

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
app = QuartTrio("few")

@app.get("/")
async def hello():
    return "hello"

async def main():
    server = Server(await open_listeners("127.0.0.1:0"), Http())
    print(server.url.rpartition(":")[2], flush=True)
    await server.serve(app)

trio.run(main)
"""


def cpu_ticks(pid: int) -> int:
    """CPU time that a process has used, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_running_out_of_descriptors_neither_spins_nor_lasts() -> None:
    command = [sys.executable, "-c", FEW_DESCRIPTORS]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        with trio.fail_after(20):
            port = int(await process.stdout.receive_some())
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(100):
                    await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
                before = cpu_ticks(process.pid)
                await trio.sleep(1)  # the span that is measured
                assert cpu_ticks(process.pid) - before < 50
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(GET)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
