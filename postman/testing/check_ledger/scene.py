"""What the checks of a ledger play in: a ledger, its clock, and letters in any state they need."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from postman.ledger import Call, Claim, Ended, Ledger, Unclaimable
from postman.mail import Address, Content, Id, Letter, Mail
from postman.provider import Receipt
from postman.row import End, EndKind, Now, Policy, Row, State, Verb
from postman.testing.standing_clock import StandingClock

type OpenLedger = Callable[[Policy, Callable[[], Now]], AbstractAsyncContextManager[Ledger]]
type LedgerCheck = Callable[[OpenLedger], Awaitable[None]]

LAMDA, DELTA = Call("lamda", "lamda.example", 30.0), Call("delta", "delta.example", 30.0)
ACCEPTED = End(EndKind.ACCEPTED, receipt=Receipt("m-1"))
UNAVAILABLE = End(EndKind.UNAVAILABLE, "503")
REJECTED = End(EndKind.REJECTED, "no such mailbox")
REFUSED = End(EndKind.REFUSED, "sender not verified")
UNKNOWN = End(EndKind.UNKNOWN, "no answer")
UNSENT = End(EndKind.UNSENT, "stopped")

_numbers = itertools.count(1)


class Scene:
    """A ledger, its clock, and the way to bring a letter into any state through the contract alone."""

    def __init__(self, ledger: Ledger, clock: StandingClock) -> None:
        self.ledger = ledger
        self.clock = clock

    def letter(self, *, to: str = "ann@example.com", id: Id | None = None, **mail: Any) -> Letter:  # noqa: ANN401  # fields of Mail
        """A letter whose id is made of the clock and a number."""
        number = int(self.clock.wall * 1_000) << 22 | next(_numbers) % 2**22
        fields: dict[str, Any] = {
            "to": (Address(email=to),),
            "from_": Address(email="shop@example.org"),
            "subject": "hello",
            "content": (Content(type="text/plain", value="text"),),
        }
        return Letter(id=id or Id(f"0x{number:016x}"), mail=Mail(**{**fields, **mail}), accepted=self.time(0))

    def time(self, seconds: float) -> datetime:
        """So many seconds from now, for `send_at` and `expires_at`."""
        return datetime.fromtimestamp(self.clock.wall + seconds, UTC)

    async def accept(self, *letters: Letter, client: str = "shop") -> list[Id]:
        """Accept without a key."""
        return list((await self.ledger.accept(letters, client, None, b"")).ids)

    async def queued(self, **mail: Any) -> Id:  # noqa: ANN401  # fields of Mail
        """A new letter, queued."""
        return (await self.accept(self.letter(**mail)))[0]

    async def claim(self, id: Id, call: Call = LAMDA, after: Ended | None = None) -> Claim:
        """Claim what can be claimed."""
        claim = await self.ledger.claim(id, [call], after)
        assert isinstance(claim, Claim), claim
        return claim

    async def refused(self, id: Id, *calls: Call) -> Unclaimable:
        """Try to claim what cannot be claimed."""
        answer = await self.ledger.claim(id, calls or [LAMDA])
        assert isinstance(answer, Unclaimable), answer
        return answer

    async def end(self, id: Id, end: End, call: Call = LAMDA) -> Row:
        """One whole call."""
        return await self.ledger.finish(await self.claim(id, call), end)

    async def act(self, id: Id, verb: Verb) -> bool:
        """Do a verb to one letter; whether it was done."""
        _, done = (await self.ledger.act([id], verb, "olga"))[id]
        return done

    async def row(self, id: Id) -> Row:
        """What the ledger says now."""
        row = await self.ledger.read(id, None)
        assert row is not None, f"{id} is lost"
        return row

    async def state(self, id: Id) -> State:
        """The state alone."""
        return (await self.row(id)).state

    def change(self, **policy: Any) -> None:  # noqa: ANN401  # fields of Policy
        """Change the ledger's policy, as a reload does."""
        self.ledger.policy = msgspec.structs.replace(self.ledger.policy, **policy)

    async def bring(self, state: State) -> Id:
        """A new letter in `state`."""
        id = await self.queued(expires_at=self.time(0) if state is State.EXPIRED else None)
        match state:
            case State.SENDING:
                await self.claim(id)
            case State.IN_DOUBT | State.HELD:
                await self.end(id, UNKNOWN)
                if state is State.HELD:
                    assert await self.act(id, Verb.DECIDE)
            case State.SENT:
                await self.end(id, ACCEPTED)
            case State.REJECTED:
                await self.end(id, REJECTED)
            case State.EXPIRED:
                await self.refused(id)
            case State.CANCELLED:
                assert await self.act(id, Verb.CANCEL)
            case State.FAILED:
                kept = self.ledger.policy
                self.change(give_up_after=0.0)
                assert await self.act(id, Verb.AGE)
                self.ledger.policy = kept
        assert await self.state(id) is state
        return id


@contextmanager
def expect(error: type[Exception]) -> Iterator[None]:
    """The block must raise `error`."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")


@asynccontextmanager
async def open_scene(
    open_ledger: OpenLedger, policy: Policy | None = None, clock: StandingClock | None = None
) -> AsyncGenerator[Scene]:
    """Open a ledger to play with."""
    clock = clock or StandingClock()
    async with open_ledger(policy or Policy(), clock) as ledger:
        yield Scene(ledger, clock)
