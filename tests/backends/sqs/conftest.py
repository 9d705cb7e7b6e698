"""Servers that speak the protocol of SQS."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest

from postman.backends.sqs.address import Address, SqsQueueSettings, address_of
from postman.backends.sqs.client import open_client
from postman.backends.sqs.queue import SqsQueue, sqs_queue
from postman.testing.sqs_server import REGION, SqsServer, fauxqs_server, moto_server
from postman.testing.sqs_vendor import Vendor, open_sqs_vendor
from postman.wire import ClientFactory

FOREVER = 1e9


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsServer]:
    """A server for all tests."""
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def fauxqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsServer]:
    """Another one, by other people."""
    try:
        with fauxqs_server(tmp_path_factory.mktemp("fauxqs")) as server:
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def account(aws_account: None) -> None:
    """Every test has one."""


type Opens = Callable[[Address], AbstractAsyncContextManager[SqsQueue]]


@pytest.fixture
def make() -> Callable[..., Address]:
    """Makes the queues of an address that nobody else knows."""

    def make(server: SqsServer, lanes: int = 1, *, dead: bool = False, port: int = 0) -> Address:
        name = f"postman-{secrets.token_hex(4)}"
        endpoint = f"http://127.0.0.1:{port or server.port}"
        address = address_of(SqsQueueSettings(url=f"sqs://{REGION}/{name}", endpoint=endpoint, lanes=lanes))
        for each in (*address.names, *([address.dead] if dead else [])):
            server.make(each)
        return address

    return make


@pytest.fixture
def opens() -> Callable[..., AbstractAsyncContextManager[SqsQueue]]:
    """Opens the queue of an address."""

    @asynccontextmanager
    async def opens(
        address: Address, visibility_timeout: float = 60.0, patience: float = FOREVER, wait: int = 1
    ) -> AsyncGenerator[SqsQueue]:
        factory = ClientFactory(connect_timeout=FOREVER)
        async with (
            open_client(address, factory, patience) as client,
            sqs_queue(client, visibility_timeout, wait, fresh=0) as queue,
        ):
            yield queue

    return opens


@pytest.fixture
async def vendor() -> AsyncGenerator[Vendor]:
    """SQS as the test wants it, with a queue."""
    async with open_sqs_vendor() as vendor:
        yield vendor


@pytest.fixture
def blocked() -> Iterator[Callable[[], bool]]:
    """Blocks the thread that calls it until the test is over."""
    over = threading.Event()
    yield partial(over.wait, 30)
    over.set()
