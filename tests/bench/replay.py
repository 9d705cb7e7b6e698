"""What a store of ours asks of its engine, recorded once and asked again with nothing of ours between: the ceiling.

SQLite's statements are traced and executed again on a fresh file; what goes to a server is recorded by a relay, byte by
byte, and sent again from a loop that waits for the answers of each piece. The engine does the same work; what is left
out is our threads, our event loop, our decisions and our decoding.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import hiredis

_CHUNK = 1 << 20
_ENCRYPT = struct.pack("!II", 8, 80877103), struct.pack("!II", 8, 80877104)
"""Two questions of PostgreSQL's clients that are answered with one byte."""


class Piece(NamedTuple):
    """What came at once on a connection to a server."""

    connection: int
    data: bytes


class Relay:
    """Between us and a server on this machine; keeps what we say. Runs in a thread of its own.

    Attributes:
        port: where it listens.
        pieces: what was said, in order.
    """

    def __init__(self, port: int) -> None:
        self.pieces: list[Piece] = []
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = False

    def run(self) -> None:
        """Carry bytes until `close`."""
        count = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._over:
                for key, _ in selector.select(0.05):
                    if key.fileobj is self._listener:
                        client, _ = self._listener.accept()
                        server = socket.create_connection(("127.0.0.1", self._server))
                        selector.register(client, selectors.EVENT_READ, (server, count))
                        selector.register(server, selectors.EVENT_READ, (client, None))
                        count += 1
                        continue
                    self._carry(selector, key)

    def _carry(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        source, (sink, number) = key.fileobj, key.data
        assert isinstance(source, socket.socket)
        if source.fileno() < 0:  # closed a moment ago, with its other end
            return
        data = source.recv(_CHUNK)
        if not data:
            for end in (source, sink):
                selector.unregister(end)
                end.close()
            return
        if number is not None:
            self.pieces.append(Piece(number, data))
        sink.sendall(data)

    def close(self) -> None:
        """End."""
        self._over = True


@contextmanager
def open_relay(port: int) -> Iterator[Relay]:
    """A relay before the server on `port` of 127.0.0.1."""
    relay = Relay(port)
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.close()
        thread.join()


class Server:
    """Says pieces to a server again: on each connection one at a time, as when they were recorded.

    Args:
        port: of 127.0.0.1.
        wire: speaks its protocol.
    """

    def __init__(self, port: int, wire: type[RedisWire | PostgresWire]) -> None:
        self._port = port
        self._wire = wire
        self._wires: dict[int, RedisWire | PostgresWire] = {}

    def say(self, piece: Piece) -> None:
        """Say one. Its answers are waited for when the next is said there: another connection may have to speak."""
        if piece.connection not in self._wires:
            stream = socket.create_connection(("127.0.0.1", self._port))
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._wires[piece.connection] = self._wire(stream)
        wire = self._wires[piece.connection]
        wire.settle()
        wire.say(piece.data)

    def settle(self) -> None:
        """Wait for all answers."""
        for wire in self._wires.values():
            wire.settle()

    def close(self) -> None:
        """Close the connections."""
        for wire in self._wires.values():
            wire.stream.close()


class RedisWire:
    """A connection to Redis."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._asked, self._answers = hiredis.Reader(), hiredis.Reader()
        self._wanted = 0

    def say(self, data: bytes) -> None:
        """Say commands."""
        self.stream.sendall(data)
        self._asked.feed(data)
        while self._asked.gets() is not False:
            self._wanted += 1

    def settle(self) -> None:
        """Wait for an answer to each; messages that are published count for none."""
        while self._wanted:
            answer = self._answers.gets()
            if answer is False:
                self._answers.feed(self.stream.recv(_CHUNK))
            elif not (isinstance(answer, list) and answer[:1] == [b"message"]):
                self._wanted -= 1


class PostgresWire:
    """A connection to PostgreSQL."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._said, self._heard = b"", b""
        self._started = False
        self._wanted = 0

    def say(self, data: bytes) -> None:
        """Say messages."""
        self.stream.sendall(data)
        if data in _ENCRYPT:
            assert self.stream.recv(1) in {b"N", b"G"}
            return
        self._said += data
        if not self._started:
            (length,) = struct.unpack_from("!I", self._said)
            self._said, self._started, self._wanted = self._said[length:], True, 1
        kinds, self._said = _messages(self._said)
        self._wanted += kinds.count(b"S") + kinds.count(b"Q")

    def settle(self) -> None:
        """Wait until the server is ready as often as it was asked to say so."""
        while self._wanted:
            self._heard += self.stream.recv(_CHUNK)
            kinds, self._heard = _messages(self._heard)
            self._wanted -= kinds.count(b"Z")


def _messages(data: bytes) -> tuple[bytes, bytes]:
    """The kinds of the whole messages, and what is left."""
    kinds, at = bytearray(), 0
    while at + 5 <= len(data):
        (length,) = struct.unpack_from("!I", data, at + 1)
        if at + 1 + length > len(data):
            break
        kinds.append(data[at])
        at += 1 + length
    return bytes(kinds), data[at:]


type Statement = tuple[str, Any]


@contextmanager
def traced() -> Iterator[list[Statement]]:
    """The statements that connections to SQLite execute which are opened meanwhile."""
    statements: list[Statement] = []

    def trace(_cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:  # noqa: ANN401  # what is bound
        statements.append((sql, bindings))
        return True

    def hook(connection: apsw.Connection) -> None:
        connection.exec_trace = trace

    apsw.connection_hooks.append(hook)
    try:
        yield statements
    finally:
        apsw.connection_hooks.remove(hook)


class Sqlite:
    """Executes statements again, in a fresh file."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))

    def say(self, statement: Statement) -> None:
        """Execute one."""
        sql, bindings = statement
        for _ in self._connection.execute(sql, bindings):
            pass

    def settle(self) -> None:
        """They are executed as they are said."""

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def parts[T](said: Sequence[T], marks: Sequence[int]) -> list[Sequence[T]]:
    """What was said before the first mark, and from each to the next."""
    edges = [0, *marks, len(said)]
    return [said[start:end] for start, end in pairwise(edges)]
