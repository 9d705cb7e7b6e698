from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from postman.ledger import Ledger, Now, Policy
from postman.ledgers.redis import redis_ledger
from postman.redis.address import Address
from postman.testing.check_ledger import DURABLE_LEDGER_CHECKS, LEDGER_CHECKS, LedgerCheck, OpenLedger


@pytest.fixture
def open_redis(redis: Address) -> OpenLedger:
    @asynccontextmanager
    async def open_it(policy: Policy, clock: Callable[[], Now]) -> AsyncGenerator[Ledger]:
        async with redis_ledger(redis, policy, clock) as ledger:
            yield ledger

    return open_it


@pytest.mark.parametrize("check", LEDGER_CHECKS + DURABLE_LEDGER_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: LedgerCheck, open_redis: OpenLedger) -> None:
    await check(open_redis)
