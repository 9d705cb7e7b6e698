from __future__ import annotations

from collections.abc import Callable

import pytest
from trio.testing import MockClock

from postman.testing.check_queue import QUEUE_CHECKS, QueueCheck, QueueUnderTest


@pytest.mark.parametrize("check", QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(
    check: QueueCheck, memory: Callable[[MockClock], QueueUnderTest], mock_clock: MockClock
) -> None:
    await check(memory(mock_clock))
