# ruff: noqa: ANN401  # the fixtures' types live in conftest.py, which cannot be imported
"""What a network may send: mutations of requests, and of other protocols. See `--fuzz` and `--fuzz-seed`."""

from __future__ import annotations

import random
from typing import Any

import trio

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b'POST /mail HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n[{"to": null}]'
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HEADERS = b"\x00\x00\x0b\x01\x04\x00\x00\x00\x01\x82\x84\x86\x41\x01x\x00\x03abc\x01d"
DATA = b"\x00\x00\x05\x00\x01\x00\x00\x00\x01hello"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: %s\r\n\r\n"
)
WEBSOCKET = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SEEDS = [
    GET,
    POST,
    GET + POST + GET,
    POST.replace(b"Content-Length: 13", b"Transfer-Encoding: chunked").removesuffix(b'[{"to": null}]')
    + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-A: b\r\n\r\n",
    POST.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"),
    POST.replace(b"Host: x", b"Host: x\r\nConnection: close"),
    GET.replace(b"1.1", b"1.0"),
    PREFACE + SETTINGS + HEADERS + DATA + DATA,
    UPGRADE % b"AAMAAABkAAQAAP__" + PREFACE + SETTINGS + DATA,
    UPGRADE % b"A" + PREFACE,
    WEBSOCKET + b"\x81\x85\x00\x00\x00\x00hello\x88\x80\x00\x00\x00\x00",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b'GET /%ff%00?%zz=\xff#x HTTP/1.1\r\nHost: \xff\r\nCookie: a="\\377;;=\r\nX-Forwarded-For: ::\r\n\r\n',
]
WORDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b":",
    b"chunked",
    b"Content-Length: 1\r\n",
    b"9" * 30,
    b"Upgrade: h2c\r\n",
]


def mutate(chance: random.Random) -> bytes:
    """A seed with some bytes flipped, cut out, doubled or put in."""
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.choice([0, 1, 1, 2, 3, 8])):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                del data[place : place + chance.randrange(1, 12)]
            case 2:
                data[place:place] = data[place : place + chance.randrange(1, 40)]
            case 3:
                data[place:place] = chance.choice(WORDS)
            case _:
                data[place:place] = chance.randbytes(chance.randrange(1, 9))
    return bytes(data)


async def test_mutated_connections_stop_nothing(house: Any, desk: Any, capfd: Any, fuzz: Any) -> None:
    rounds = fuzz()

    async def attack() -> None:
        for chance in rounds:
            data, way = mutate(chance), chance.randrange(4)
            async with home.connect() as client:
                cut = len(data) // 2 if way == 0 else len(data)
                try:
                    await client.send(data[:cut])
                    await trio.lowlevel.checkpoint()
                    await client.send(data[cut:])
                    if way == 1:
                        client.reset()
                        continue
                    await client.stream.send_eof()
                except trio.BrokenResourceError:
                    continue  # the server has had enough
                statuses.update(line[9:12] for line in (await client.rest()).split(b"\r\n") if line[:9] == b"HTTP/1.1 ")

    statuses: set[bytes] = set()
    async with house(desk.app, header_timeout=2, body_timeout=2, idle_timeout=2) as home:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(attack)
            for _ in range(50):
                assert (await home.ask()).status == 200
        assert (await home.ask()).status == 200
        assert not home.ended.is_set()
    assert statuses >= {b"200", b"202", b"400", b"505"}
    assert b"500" not in statuses
    written = capfd.readouterr()
    assert "Traceback" not in written.out + written.err


async def test_data_for_a_stream_already_answered_does_not_stop_the_process(house: Any, desk: Any) -> None:
    async with house(desk.app) as home:
        async with home.connect() as client:
            await client.send(PREFACE + SETTINGS + HEADERS)
            await client.stream.receive_some()
            await client.send(DATA * 3)
            await client.rest()
        assert (await home.ask()).status == 200


async def test_what_nobody_catches_ends_one_connection_alone(house: Any) -> None:
    class Panic(BaseException):
        """What extension modules raise past `except Exception`."""

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise Panic

    async with house(app) as home:
        for _ in range(2):
            assert (await home.ask()).status == 500
        assert not home.ended.is_set()
