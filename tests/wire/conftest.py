"""What these tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from postman.secret import Secret
from postman.testing import acts
from postman.testing.fault_server import FaultServer, open_fault_server
from postman.wire import Client, ClientFactory, bearer


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with open_fault_server(otherwise=acts.answer(202, {"X-Id": "7"}, b'{"id": "7"}')) as server:
        yield server


@pytest.fixture
async def client(server: FaultServer) -> AsyncIterator[Client]:
    async with ClientFactory()(base_url=server.url, headers={"Authorization": bearer(Secret("key-1"))}) as client:
        yield client
