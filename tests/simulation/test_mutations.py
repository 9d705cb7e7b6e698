"""Each rule that keeps the promises, left out: the laws of the simulation must notice within fifty seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import pytest
import trio

from postman.backends import rows
from postman.clerk import Clerk
from postman.errors import StoreUnavailable
from postman.guard import Hold
from postman.intake import Intake
from postman.ledger import Accepted, Call, Claim, Ended, Overdue, Unclaimable
from postman.mail import Id, Letter
from postman.movable import Stored, UsedKey
from postman.row import End, EndKind, Now, Row, State, Verb
from postman.sending.delivery import ELSEWHERE, Delivery
from postman.sending.postbox import Turn
from postman.testing.simulation import Parts, SimulatedLedger, simulate

SEEDS = 50


class NoFence(SimulatedLedger):
    """An end counts for whatever call is the newest."""

    async def claim(
        self, id: Id, calls: Sequence[Call], after: Ended | None = None, *, owner: str = ""
    ) -> Claim | Unclaimable:
        if after is not None:
            after = Ended(self._newest(after.claim), after.end)
        return await super().claim(id, calls, after, owner=owner)

    async def finish(self, claim: Claim, end: End) -> Row:
        return await super().finish(self._newest(claim), end)

    def _newest(self, claim: Claim) -> Claim:
        row = self._rows.get(claim.id)
        assert row is not None
        return msgspec.structs.replace(claim, fence=row.fence)


class FailsOverOnAnUnknownOutcome(Delivery):
    async def _call(self, claim: Claim, asked_at: float, turn: Turn, hold: Hold) -> End:
        end = await super()._call(claim, asked_at, turn, hold)
        return msgspec.structs.replace(end, kind=EndKind.UNAVAILABLE) if end.kind is EndKind.UNKNOWN else end


class FailsOverWithoutANewClaim(Delivery):
    async def _call(self, claim: Claim, asked_at: float, turn: Turn, hold: Hold) -> End:
        end = await super()._call(claim, asked_at, turn, hold)
        other = next((call for call in turn.calls() if call.ready and call.provider != claim.call.provider), None)
        if other is None or end.kind not in ELSEWHERE:
            return end
        return await super()._call(msgspec.structs.replace(claim, call=other), asked_at, turn, hold)


class NoClerk(Clerk):
    async def round(self) -> bool:
        await trio.lowlevel.checkpoint()
        return False


class DecidesAboutOthersAccounts(Clerk):
    def _may_decide(self, row: Row) -> bool:  # that is the point
        return True


class MarksALiveCallAsDoubt(SimulatedLedger):
    async def overdue(self, limit: int) -> Overdue:
        sending = tuple(row for row in self._rows.live() if row.state is State.SENDING)
        return msgspec.structs.replace(await super().overdue(limit), lapsed=sending)

    async def act(self, ids: Sequence[Id], verb: Verb, who: str) -> Mapping[Id, tuple[Row, bool]]:
        await trio.lowlevel.checkpoint()
        now = self._clock()
        return rows.act(self._rows, ids, verb, who, self.policy, Now(now.wall, math.inf))


class DropsTheOwnersLateEnd(SimulatedLedger):
    async def finish(self, claim: Claim, end: End) -> Row:
        row = self._rows.get(claim.id)
        assert row is not None
        return await super().finish(claim, end) if row.state is State.SENDING else row


class Answers503AfterTheCommit(Intake):
    async def _fate(
        self, error: StoreUnavailable, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes
    ) -> Accepted:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable(str(error))


class ForgetsWhoOwnsAClaim(SimulatedLedger):
    async def claim(
        self, id: Id, calls: Sequence[Call], after: Ended | None = None, *, owner: str = ""
    ) -> Claim | Unclaimable:
        return await super().claim(id, calls, after)


class KeepsItsKeys(SimulatedLedger):
    """What clients repeat is not known where the backlog comes to."""

    async def keys(self, cursor: str, limit: int) -> tuple[Sequence[UsedKey], str]:
        await trio.lowlevel.checkpoint()
        return (), ""


class ForgetsDoubtOnTheWay(SimulatedLedger):
    async def take_in(self, letters: Sequence[Stored]) -> frozenset[Id]:
        rows = [msgspec.structs.replace(stored.row, state=State.QUEUED) for stored in letters]
        return await super().take_in([Stored(row, s.letter) for row, s in zip(rows, letters, strict=True)])


MUTATIONS = {
    "no fence": Parts(ledger=NoFence),
    "failing over on an unknown outcome": Parts(delivery=FailsOverOnAnUnknownOutcome),
    "failing over without a new claim": Parts(delivery=FailsOverWithoutANewClaim),
    "doubt at others' accounts decided": Parts(clerk=DecidesAboutOthersAccounts),
    "no clerk": Parts(clerk=NoClerk),
    "a live call marked as doubt": Parts(ledger=MarksALiveCallAsDoubt),
    "the owner's late end dropped": Parts(ledger=DropsTheOwnersLateEnd),
    "503 after the commit": Parts(intake=Answers503AfterTheCommit),
    "keys left behind by an export": Parts(ledger=KeepsItsKeys),
    "doubt forgotten by an import": Parts(ledger=ForgetsDoubtOnTheWay),
    "a claim not given again to its owner": Parts(ledger=ForgetsWhoOwnsAClaim),
}


@pytest.mark.parametrize("parts", MUTATIONS.values(), ids=MUTATIONS)
def test_the_laws_notice_within_fifty_seeds(parts: Parts) -> None:
    for seed in range(SEEDS):
        if simulate(seed, parts).broken:
            return
    pytest.fail(f"nothing is broken in {SEEDS} seeds")
