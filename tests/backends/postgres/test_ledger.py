from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from postman.backends.postgres.ledger import ledger_on
from postman.backends.postgres.server import Server, open_side, prepare
from postman.ledger import Ledger
from postman.row import Now, Policy
from postman.testing.check_ledger import (
    DURABLE_LEDGER_CHECKS,
    LEDGER_CHECKS,
    MOVABLE_LEDGER_CHECKS,
    LedgerCheck,
    OpenLedger,
)


@pytest.fixture
def open_postgres(postgres: Server) -> OpenLedger:
    @asynccontextmanager
    async def open_it(policy: Policy, clock: Callable[[], Now]) -> AsyncGenerator[Ledger]:
        await prepare(postgres, durable=True)
        async with open_side(postgres) as side, ledger_on(postgres, side, policy, clock) as ledger:
            yield ledger

    return open_it


@pytest.mark.parametrize(
    "check", LEDGER_CHECKS + DURABLE_LEDGER_CHECKS + MOVABLE_LEDGER_CHECKS, ids=lambda check: check.__name__
)
async def test_the_contract(check: LedgerCheck, open_postgres: OpenLedger) -> None:
    await check(open_postgres)
