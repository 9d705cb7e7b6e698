"""The fault server does what its acts say, as seen by a client that knows nothing of ours."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio

from postman.testing import acts
from postman.testing.fault_server import Act, FaultServer, open_fault_server
from postman.testing.waiting import wait_until

REQUEST = b"POST /send HTTP/1.1\r\nHost: x\r\nX-Key: a: b\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 202 Scripted\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with open_fault_server(otherwise=acts.answer(202)) as server:
        yield server


async def connected(server: FaultServer) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))


async def until_end(stream: trio.SocketStream, limit: int = 1_000_000) -> tuple[bytes, bool]:
    """All that comes, at most `limit`, and whether it ended in a reset."""
    read = bytearray()
    with trio.fail_after(5):
        try:
            while len(read) < limit and (data := await stream.receive_some(65_536)):
                read += data
        except trio.BrokenResourceError:
            return bytes(read), True
    return bytes(read), False


async def meet(server: FaultServer, act: Act, request: bytes = REQUEST, limit: int = 1_000_000) -> tuple[bytes, bool]:
    server.script(act)
    async with await connected(server) as stream:
        broken = False
        try:
            await stream.send_all(request)
        except trio.BrokenResourceError:
            broken = True  # and reading will not say so again
        read, reset = await until_end(stream, limit)
        return read, reset or broken


async def test_it_records_what_came(server: FaultServer) -> None:
    async with await connected(server) as stream:
        for byte in REQUEST + REQUEST:
            await stream.send_all(bytes([byte]))
        assert await until_end(stream, limit=2 * len(OK)) == (OK + OK, False)
    [first, second] = server.requests
    assert (first.method, first.path, first.body, first.whole) == ("POST", "/send", b"hello", True)
    assert first.headers == {"host": "x", "x-key": "a: b", "content-length": "5"}
    assert (first.connection, second.connection, server.connections) == (0, 0, 1)


async def test_it_plays_its_script_and_then_the_rest(server: FaultServer) -> None:
    server.script(acts.answer(503), acts.answer(500, accept=True))
    async with await connected(server) as stream:
        seen = []
        for _ in range(3):
            await stream.send_all(REQUEST)
            seen.append(bytes(await stream.receive_some(1_000))[9:12])
    assert seen == [b"503", b"500", b"202"]
    assert [request.accepted for request in server.requests] == [False, True, True]


@pytest.mark.parametrize("accept", [True, False])
async def test_an_answer_may_be_lost_with_or_without_the_mail(server: FaultServer, accept: bool) -> None:  # a parameter
    assert await meet(server, acts.reset_after_request(accept=accept)) == (b"", True)
    assert await meet(server, acts.close_after_request(accept=accept)) == (b"", False)
    assert [request.accepted for request in server.requests] == [accept, accept]
    assert all(request.whole for request in server.requests)


async def test_resets_come_when_they_should(server: FaultServer) -> None:
    assert await meet(server, acts.reset_on_connect()) == (b"", True)
    assert await meet(server, acts.reset_on_request()) == (b"", True)
    assert server.requests == []
    large = b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + bytes(99_999_999)
    assert await meet(server, acts.reset_in_body(), large) == (b"", True)
    assert (await meet(server, acts.early_answer(413), large))[0].startswith(b"HTTP/1.1 413 ")
    assert [(request.whole, request.accepted) for request in server.requests] == [(False, False), (False, False)]


@pytest.mark.parametrize(
    ("act", "beginning"),
    [
        (acts.drip(b"HTTP/1.1 202 A\r\n\r\n"), b"HTTP/1.1 202 A\r\n\r\n  "),
        (acts.endless_headers(), b"HTTP/1.1 202 Accepted\r\nX-1: xxx"),
        (acts.endless_continue(), b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"),
        (acts.endless_chunks(size=3), b"HTTP/1.1 202 Scripted\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n   \r\n3\r\n"),
        (acts.huge(), b"HTTP/1.1 202 Scripted\r\nContent-Length: 1000000000\r\n\r\n    "),
    ],
    ids=["drip", "headers", "continue", "chunks", "huge"],
)
async def test_an_answer_without_end_ends_with_its_client(server: FaultServer, act: Act, beginning: bytes) -> None:
    server.script(act)
    async with await connected(server) as stream:
        await stream.send_all(REQUEST)
        read, _ = await until_end(stream, limit=len(beginning))
    assert read.startswith(beginning)
    await wait_until(lambda: not server.open_connections, within=5)


async def test_answers_may_be_cut_or_be_no_answers(server: FaultServer) -> None:
    assert (await meet(server, acts.truncated(200)))[0].endswith(b'Content-Length: 110\r\n\r\n{"id": "ab')
    assert await meet(server, acts.garbage(b"SSH-2.0\r\n")) == (b"SSH-2.0\r\n", False)
    bomb, _ = await meet(server, acts.gzip_bomb())
    assert len(bomb) < 100_000
    redirect, _ = await meet(server, acts.redirect("http://elsewhere"), limit=10)
    assert b"\r\nLocation: http://elsewhere\r\n" in redirect


@pytest.mark.parametrize("act", [acts.hang(accept=True), acts.stall_before_reading()], ids=["hang", "stall"])
async def test_silence_lasts_until_the_server_ends(act: Act) -> None:
    async with open_fault_server(otherwise=act) as server:
        server.script(act)
        stream = await connected(server)
        await stream.send_all(REQUEST)
        with trio.move_on_after(0.05) as scope:
            await stream.receive_some(1)
        assert scope.cancelled_caught
    await stream.aclose()


async def test_it_hangs_up_on_idle_connections(server: FaultServer) -> None:
    async with await connected(server) as stream:
        await stream.send_all(REQUEST)
        await stream.receive_some(1_000)
        server.hang_up()
        assert await until_end(stream) == (b"", False)


async def test_its_port_is_free_when_it_is_left() -> None:
    async with open_fault_server(otherwise=acts.answer(202)) as server:
        port = int(server.url.rpartition(":")[2])
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
