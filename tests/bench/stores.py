"""How fast each store takes letters and lets them go, beside the same statements without us. A process of its own.

Each engine holds ledger and queue in one. 64 tasks accept ten letters a call; then 64 tasks take a note, claim its
letter, write that it was sent, and ack. Prints JSON: for each measurement its mails, seconds and CPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import trio

from postman.config import Http, load
from postman.flake import Flake
from postman.http.parse import parse
from postman.ledger import Call, Claim, Ledger
from postman.mail import Id, Letter
from postman.provider import Phase, Receipt
from postman.queue import Queue
from postman.registry import set_up
from postman.row import End, EndKind, State
from postman.stores import open_stores
from postman.testing.postgres_server import postgres_server
from postman.testing.redis_server import redis_server
from postman.wire import ClientFactory
from tests.bench import replay
from tests.bench.mails import batch

TASKS = 64
SIZE = 10
TOML = """\
[ledger]
url = "{url}"
[[provider]]
name = "stub"
plugin = "fake"
"""
SENT = End(EndKind.ACCEPTED, phase=Phase.HANDED_OVER, receipt=Receipt("0123456789abcdef"))

type Figures = list[tuple[str, int, float, float]]


class Clock:
    """Times parts of a run."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """Seconds, and seconds of CPU, since it was made."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


async def drive(url: str, mails: int, said: Sequence[Any] = ()) -> tuple[Figures, list[int]]:
    """Use the stores at `url`: figures, and how much had been `said` at the beginning of each part and at the end."""
    async with _stores(url) as (ledger, queue):
        flake, now = Flake(), datetime.now(UTC)
        parsed = parse(batch(0, mails), Http(max_batch=mails))
        letters = [Letter(id=Id(flake.next_id()), mail=mail, accepted=now) for mail in parsed]
        calls = iter([letters[first : first + SIZE] for first in range(0, mails, SIZE)])
        marks, clock = [len(said)], Clock()
        await share(partial(_accept, ledger, calls))
        taken = clock.stop()
        marks, clock = [*marks, len(said)], Clock()
        await share(partial(_let_go, ledger, queue, iter(range(mails))))
        gone = clock.stop()
        return [("accept", mails, *taken), ("let go", mails, *gone)], [*marks, len(said)]


@asynccontextmanager
async def _stores(url: str) -> AsyncIterator[tuple[Ledger, Queue]]:
    with tempfile.TemporaryDirectory(prefix="postman-bench-") as directory:
        config = Path(directory, "postman.toml")
        config.write_text(TOML.format(url=url))
        config.chmod(0o600)
        async with open_stores(set_up(load(config)), ClientFactory()) as stores:
            yield stores


async def share(work: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(work)


async def _accept(ledger: Ledger, calls: Iterator[Sequence[Letter]]) -> None:
    for letters in calls:
        await ledger.accept(letters, "shop", None, b"")


async def _let_go(ledger: Ledger, queue: Queue, turns: Iterator[int]) -> None:
    for _ in turns:
        lease = await queue.take()
        assert lease.note
        claim = await ledger.claim(lease.note.id, [Call("stub", "stub's", lease=30.0)])
        assert isinstance(claim, Claim)
        await ledger.finish(claim, SENT)
        await queue.ack(lease)


def measure(engine: str, mails: int) -> Figures:
    """One round: ours, and then what we had said to the engine said again, to an empty one."""
    with tempfile.TemporaryDirectory(prefix="postman-bench-") as directory, ENGINES[engine](Path(directory)) as place:
        figures, _ = trio.run(drive, place.url("ours"), mails)
        with place.recorded() as said:
            _, marks = trio.run(drive, place.url("recorded"), mails, said)
        place.forget("recorded")
        before, *measured, _ = replay.parts(said, marks)
        for each in before:
            place.again.say(each)
        place.again.settle()
        for (name, count, _, _), part in zip(figures[:2], measured, strict=True):
            clock = Clock()
            for each in part:
                place.again.say(each)
            place.again.settle()
            figures.append((f"{name}, raw", count, *clock.stop()))
        place.again.close()
        assert trio.run(_sent, place.url("recorded")) == mails, "what was said again did something else"
    return figures


async def _sent(url: str) -> int:
    async with _stores(url) as (ledger, _):
        return (await ledger.statistics()).states[State.SENT]


class _File:
    """SQLite."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.again: replay.Sqlite

    def url(self, name: str) -> str:
        return f"sqlite:{self._directory / name}.db"

    def recorded(self) -> AbstractContextManager[list[Any]]:
        return replay.traced()

    def forget(self, name: str) -> None:
        for path in self._directory.glob(f"{name}.db*"):
            path.unlink()
        self.again = replay.Sqlite(self._directory / f"{name}.db")


class _Server:
    """A server, and how to reach it."""

    def __init__(self, port: int, again: replay.Server, url: str, empty: Callable[[str], object]) -> None:
        self.again = again
        self.forget = empty
        self._port = self._reached = port
        self._url = url

    def url(self, name: str) -> str:
        return self._url.format(port=self._reached, name=name)

    @contextmanager
    def recorded(self) -> Iterator[list[Any]]:
        with replay.open_relay(self._port) as relay:
            self._reached = relay.port
            yield relay.pieces
            self._reached = self._port


@contextmanager
def _sqlite(directory: Path) -> Iterator[_File]:
    yield _File(directory)


@contextmanager
def _redis(directory: Path) -> Iterator[_Server]:
    with redis_server(directory) as server:
        url = "redis://127.0.0.1:{port}?prefix={name}&timeout=60"  # letters that are said again later are too late
        yield _Server(server.port, replay.Server(server.port, replay.RedisWire), url, lambda _: server.ask("FLUSHALL"))


@contextmanager
def _postgres(_directory: Path) -> Iterator[_Server]:
    with postgres_server() as server:
        url = "postgresql://postgres@127.0.0.1:{port}/postgres?schema={name}"
        again = replay.Server(server.port, replay.PostgresWire)
        yield _Server(server.port, again, url, lambda name: server.execute(f"DROP SCHEMA {name} CASCADE"))


ENGINES: Mapping[str, Callable[[Path], AbstractContextManager[_File | _Server]]] = {
    "sqlite": _sqlite,
    "redis": _redis,
    "postgresql": _postgres,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--mails", type=int, required=True)
    given = parser.parse_args()
    print(json.dumps(measure(given.engine, given.mails)))  # noqa: T201  # its answer
