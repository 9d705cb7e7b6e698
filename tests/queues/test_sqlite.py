from __future__ import annotations

from collections.abc import Callable

import pytest
from trio.testing import MockClock

from postman.testing.check_queue import DURABLE_QUEUE_CHECKS, QUEUE_CHECKS, QueueCheck, QueueUnderTest


@pytest.mark.parametrize("check", QUEUE_CHECKS + DURABLE_QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(
    check: QueueCheck, sqlite: Callable[[MockClock], QueueUnderTest], mock_clock: MockClock
) -> None:
    await check(sqlite(mock_clock))
