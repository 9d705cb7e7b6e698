from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from postman.database import open_database
from postman.ledger import Ledger, Now, Policy
from postman.ledgers.sqlite import ledger_on
from postman.testing.check_ledger import DURABLE_LEDGER_CHECKS, LEDGER_CHECKS, LedgerCheck, OpenLedger


@pytest.fixture
def open_sqlite(tmp_path: Path) -> OpenLedger:
    @asynccontextmanager
    async def open_it(policy: Policy, clock: Callable[[], Now]) -> AsyncGenerator[Ledger]:
        async with open_database(tmp_path / "postman.db") as database, ledger_on(database, policy, clock) as ledger:
            yield ledger

    return open_it


@pytest.mark.parametrize("check", LEDGER_CHECKS + DURABLE_LEDGER_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: LedgerCheck, open_sqlite: OpenLedger) -> None:
    await check(open_sqlite)
