"""The ceiling of the way out: a bare HTTP client that posts what SendGrid's plugin would post, and does nothing else.

The bodies are made before the clock starts. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import cycle, islice

import httpx2 as httpx
import msgspec
import trio

from postman.config import Http
from postman.flake import Flake
from postman.http.parse import parse
from postman.mail import Id, Letter
from postman.secret import Secret
from postman.wire import ClientFactory, bearer
from postman_plugin_sendgrid import payload
from tests.bench.mails import batch
from tests.bench.vendor import KEY

PATH = "/v3/mail/send"

type Post = Callable[[bytes], Awaitable[int]]
"""Posts a body; the status of the answer."""


def bodies(count: int) -> list[bytes]:
    """What SendGrid's plugin would send for so many letters."""
    flake, now = Flake(), datetime.now(UTC)
    mails = parse(batch(0, count), Http(max_batch=count))
    return [msgspec.json.encode(payload(Letter(id=Id(flake.next_id()), mail=mail, accepted=now))) for mail in mails]


@asynccontextmanager
async def open_httpx2(url: str) -> AsyncIterator[Post]:
    """One client for all, as its documentation advises."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=25.0) as client:

        async def post(body: bytes) -> int:
            return (await client.post(PATH, content=body)).status_code

        yield post


@asynccontextmanager
async def open_wire(url: str) -> AsyncIterator[Post]:
    """The client that our providers use."""
    async with ClientFactory()(base_url=url, headers={"Authorization": bearer(Secret(KEY))}) as client:

        async def post(body: bytes) -> int:
            return (await client.post(PATH, attempt=None, json=msgspec.Raw(body))).status

        yield post


CLIENTS = {"httpx2": open_httpx2, "wire": open_wire}


async def send(client: str, url: str, mails: int, workers: int) -> dict[str, float]:
    """Send, and tell how many seconds it took, and how many of this process's CPU."""
    async with CLIENTS[client](url) as post:
        some = cycle(bodies(200))
        await _share(post, islice(some, 2 * workers), workers)  # connects
        began, cpu = time.monotonic(), time.process_time()
        await _share(post, islice(some, mails), workers)
        return {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}


async def _share(post: Post, bodies: Iterator[bytes], workers: int) -> None:
    async def work() -> None:
        for body in bodies:
            assert await post(body) == 202

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("url")
    for name in ("mails", "workers"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    print(json.dumps(trio.run(send, given.client, given.url, given.mails, given.workers)))  # noqa: T201  # its answer
