"""Calls of a vendor, and how they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from postman.errors import ProviderError
from postman.provider import Attempt, Phase
from postman.testing.fault_server import FaultServer
from postman.testing.letters import an_attempt
from postman.testing.waiting import wait_until

LARGE = b"x" * 16_777_216  # more than the kernel takes for a peer that does not read
IN_TIME = 5.0


async def ends(call: Callable[[Attempt], Awaitable[object]]) -> tuple[type[ProviderError], Phase, str]:
    attempt = an_attempt()
    with trio.fail_after(IN_TIME), pytest.raises(ProviderError) as caught:
        await call(attempt)
    return type(caught.value), attempt.phase, caught.value.reason


async def wait_all_closed(server: FaultServer) -> None:
    await wait_until(lambda: not server.open_connections, within=IN_TIME)
