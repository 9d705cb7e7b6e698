from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from postman.backends.memory.ledger import MemoryLedger
from postman.row import Now, Policy
from postman.testing.check_ledger import LEDGER_CHECKS, MOVABLE_LEDGER_CHECKS, LedgerCheck


@asynccontextmanager
async def open_memory(policy: Policy, clock: Callable[[], Now]) -> AsyncGenerator[MemoryLedger]:
    yield MemoryLedger(policy, clock)


@pytest.mark.parametrize("check", LEDGER_CHECKS + MOVABLE_LEDGER_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: LedgerCheck) -> None:
    await check(open_memory)
