"""What every ledger must do, as async functions whose names are sentences.

    @pytest.mark.parametrize("check", LEDGER_CHECKS, ids=lambda check: check.__name__)
    async def test_the_contract(check: LedgerCheck) -> None:
        await check(open_my_ledger)

`open_my_ledger(policy, clock)` opens a ledger that tells the time by `clock`, wall and steady alike. Each check is to
be given an empty store. `DURABLE_LEDGER_CHECKS` open one store several times; `MOVABLE_LEDGER_CHECKS` are for a
`postman.movable.Movable`.
"""

from __future__ import annotations

from postman.testing.check_ledger import accepting, calling, listing, moving, reopening, ruling
from postman.testing.check_ledger.scene import LedgerCheck, OpenLedger, Scene, open_scene

__all__ = [
    "DURABLE_LEDGER_CHECKS",
    "LEDGER_CHECKS",
    "MOVABLE_LEDGER_CHECKS",
    "LedgerCheck",
    "OpenLedger",
    "Scene",
    "open_scene",
]

LEDGER_CHECKS: tuple[LedgerCheck, ...] = accepting.CHECKS + calling.CHECKS + ruling.CHECKS + listing.CHECKS
DURABLE_LEDGER_CHECKS: tuple[LedgerCheck, ...] = reopening.CHECKS
MOVABLE_LEDGER_CHECKS: tuple[LedgerCheck, ...] = moving.CHECKS
