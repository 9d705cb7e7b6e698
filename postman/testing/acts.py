"""The acts of a `FaultServer`: what a vendor, or the network before it, may do to a request."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Mapping

import trio

from postman.testing.fault_server import Act, Turn

DRIP = 0.002
"""Seconds between the bytes of `drip`."""


def answer(
    status: int,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    accept: bool | None = None,
    then_close: bool = False,
) -> Act:
    """A whole answer. `accept`: default by the status; `then_close`: close without having announced it."""

    async def play(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = status < 300 if accept is None else accept
        await turn.stream.send_all(_head(status, {"Content-Length": str(len(body)), **(headers or {})}) + body)
        return not then_close

    return Act(play)


def take_slowly(longest: float = 0.3) -> Act:
    """Take everything, after up to `longest` seconds."""

    async def play(turn: Turn) -> bool:
        await trio.sleep(random.uniform(0, longest))
        return await answer(202).play(turn)

    return Act(play)


def echo() -> Act:
    """Answer 202 with the request's own body: shows which answer belongs to which request."""

    async def play(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = True
        body = turn.request.body
        await turn.stream.send_all(_head(202, {"Content-Length": str(len(body))}) + body)
        return True

    return Act(play)


def early_answer(status: int, *, after: int = 1) -> Act:
    """Answer when `after` bytes of the body came, and close: the rest is not read. RST follows the answer."""

    async def play(turn: Turn) -> bool:
        await turn.read_head()
        turn.request.body = bytes(await turn.stream.receive_some(after))
        await turn.stream.send_all(_head(status, {"Content-Length": "0", "Connection": "close"}))
        return False

    return Act(play)


def reset_on_connect() -> Act:
    """RST as soon as a connection comes in; with TLS: in the middle of the handshake."""

    async def play(turn: Turn) -> bool:
        turn.reset()
        return False

    return Act(play, on_connect=True)


def reset_on_request() -> Act:
    """RST when the first bytes of a request arrive: the vendor that closes an idle connection as we write on it."""

    async def play(turn: Turn) -> bool:
        turn.reset()
        return False

    return Act(play)


def reset_in_body() -> Act:
    """RST after the head and a little of the body. The body must be some megabytes, or the kernel has it all."""

    async def play(turn: Turn) -> bool:
        await turn.read_head()
        await turn.stream.receive_some(1)
        turn.reset()
        return False

    return Act(play)


def reset_after_request(*, accept: bool) -> Act:
    """Read all, then RST without an answer."""

    async def play(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = accept
        turn.reset()
        return False

    return Act(play)


def close_after_request(*, accept: bool) -> Act:
    """Read all, then close without an answer."""
    return _after_request(b"", accept=accept)


def hang(*, accept: bool) -> Act:
    """Read all, and never answer; ends when the client goes away."""

    async def play(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = accept
        await turn.stream.receive_some(1)
        return False

    return Act(play)


def stall_before_reading() -> Act:
    """Take the connection and read nothing: a large body gets stuck half way."""

    async def play(_turn: Turn) -> bool:
        await trio.sleep_forever()
        return False

    return Act(play, on_connect=True)


def truncated(status: int, body: bytes = b'{"id": "ab', *, accept: bool = True) -> Act:
    """Promise more body than is sent, then close."""
    return _after_request(_head(status, {"Content-Length": str(len(body) + 100)}) + body, accept=accept)


def garbage(data: bytes = b"\x00\x16\x03\x01 SSH-2.0 not HTTP\r\n\r\n", *, accept: bool = True) -> Act:
    """Answer with something else than HTTP."""
    return _after_request(data, accept=accept)


def drip(data: bytes = b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\n", *, accept: bool = True) -> Act:
    """One byte of an answer at a time, spaces without end after it."""
    return _endless(lambda n: data[n : n + 1] or b" ", accept=accept, pause=DRIP)


def endless_headers(*, accept: bool = True) -> Act:
    """A head that does not end."""
    return _endless(lambda n: b"X-%d: %s\r\n" % (n, b"x" * 1_000) if n else b"HTTP/1.1 202 Accepted\r\n", accept=accept)


def endless_continue(*, accept: bool = True) -> Act:
    """100 Continue without end."""
    return _endless(lambda _n: b"HTTP/1.1 100 Continue\r\n\r\n" * 100, accept=accept)


def endless_chunks(status: int = 202, *, size: int = 10_000, accept: bool = True) -> Act:
    """A chunked body that does not end."""
    chunk = b"%x\r\n%s\r\n" % (size, b" " * size) * (10_000 // size)
    return _endless(lambda n: chunk if n else _head(status, {"Transfer-Encoding": "chunked"}), accept=accept)


def huge(status: int = 202, *, accept: bool = True) -> Act:
    """A body of a promised gigabyte."""
    return _endless(lambda n: b" " * 65_536 if n else _head(status, {"Content-Length": "1000000000"}), accept=accept)


def gzip_bomb(status: int = 202, *, accept: bool = True) -> Act:
    """64 MiB of spaces in 64 KiB of gzip, though nobody asked for gzip."""
    body = gzip.compress(b" " * 67_108_864)
    head = _head(status, {"Content-Encoding": "gzip", "Content-Length": str(len(body))})
    return _after_request(head + body, accept=accept)


def redirect(location: str, status: int = 302) -> Act:
    """Send the client elsewhere."""
    return answer(status, {"Location": location})


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _after_request(data: bytes, *, accept: bool) -> Act:
    async def play(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = accept
        await turn.stream.send_all(data)
        return False

    return Act(play)


def _endless(piece: Callable[[int], bytes], *, accept: bool, pause: float = 0.0) -> Act:
    async def play(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = accept
        for number in range(1_000_000):  # until the client goes away
            await turn.stream.send_all(piece(number))
            await trio.sleep(pause)
        return False

    return Act(play)
