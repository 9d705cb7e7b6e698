"""Vendors that do everything that vendors do, and their plugins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import trio

from postman.errors import (
    MailRefused,
    MailRejected,
    NotAccepted,
    OutcomeUnknown,
    ProviderMisconfigured,
    ProviderUnavailable,
)
from postman.mail import Letter
from postman.provider import Attempt, Receipt
from postman.testing.simulation.dice import Dice
from postman.testing.simulation.truth import Asked, Truth


class Deed(NamedTuple):
    """What a vendor does to a call.

    Attributes:
        error: how the call ends; None: by a receipt, or never.
        early: before the last byte is handed over.
        accepts: it takes the letter, whatever the call says.
        hangs: the call does not end by itself.
    """

    error: Callable[[], Exception] | None = None
    early: bool = False
    accepts: bool = False
    hangs: bool = False


TAKE = Deed(accepts=True)
DEEDS = (
    Deed(lambda: OutcomeUnknown("the answer was lost"), accepts=True),
    Deed(lambda: OutcomeUnknown("502")),
    Deed(lambda: MailRefused("sender not verified")),
    Deed(lambda: MailRejected("no such mailbox")),
    Deed(lambda: MailRejected("unsubscribed", suppressed=True)),
    Deed(lambda: ProviderUnavailable("connection refused"), early=True),
    Deed(lambda: ProviderUnavailable("503", retry_after=20)),
    Deed(lambda: ProviderUnavailable("429", throttled=True)),
    Deed(lambda: ProviderMisconfigured("401")),
    Deed(hangs=True, early=True),
    Deed(hangs=True),
    Deed(hangs=True, accepts=True),
    Deed(lambda: KeyError("early"), early=True),
    Deed(lambda: KeyError("late"), accepts=True),
)


class Vendor:
    """One vendor. Outlives all of our instances, and takes letters whether or not we are there to hear it.

    Attributes:
        marks: its plugin marks its phases.
        pace: seconds that a step takes about.
    """

    def __init__(self, name: str, dice: Dice, truth: Truth) -> None:
        self.name = name
        self.marks = dice.random() < 0.75
        self._names = dice.even()
        self.pace = dice.choice((0.1, 5.0, 15.0))
        self._dice = dice
        self._truth = truth
        self._moods = dice.sample(DEEDS, dice.randint(0, 6)) + [TAKE] * dice.choice((0, 1, 3))
        self._moods = self._moods or [TAKE]
        self._count = 0

    def deed(self) -> Deed:
        """What it does to the next call."""
        return TAKE if self._dice.calm else self._dice.choice(self._moods)

    async def take(self, asked: Asked) -> None:
        """Accept a letter, a while after its last byte came."""
        await trio.sleep(self._dice.seconds(self.pace))
        self._count += 1
        asked.message_id = f"{self.name}-{self._count}" if self._names else None
        asked.accepted = True
        asked.taken.set()
        self._truth.log("taken", self.name, asked.id)


class Plug:
    """A vendor's plugin in one instance; see `postman.provider.Provider`.

    Args:
        vendor: whose.
        step: a step of the instance of about so many seconds, in which it may die.
        start_soon: starts what the vendor goes on with when we are gone.
        truth: is told.
    """

    def __init__(
        self,
        vendor: Vendor,
        *,
        step: Callable[[float], Awaitable[None]],
        start_soon: Callable[[Callable[[Asked], Awaitable[None]], Asked], None],
        truth: Truth,
    ) -> None:
        self._vendor = vendor
        self._step = partial(step, vendor.pace)
        self._start_soon = start_soon
        self._truth = truth

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        """See `Provider.send`."""
        deed = self._vendor.deed()
        asked = self._truth.ask(letter.id, self._vendor.name, marks=self._vendor.marks)
        await self._step()
        if self._vendor.marks:
            attempt.starting()
        await self._step()
        if not deed.early:
            if self._vendor.marks:
                attempt.handed_over()
            asked.maybe = True
            if deed.accepts:
                self._start_soon(self._vendor.take, asked)
            await self._step()
        return await self._answer(deed, asked)

    async def _answer(self, deed: Deed, asked: Asked) -> Receipt:
        if deed.hangs:
            await trio.sleep_forever()
        if deed.error is not None:
            error = deed.error()
            asked.maybe = asked.maybe and not isinstance(error, NotAccepted)
            self._truth.log("answer", asked.vendor, asked.id, repr(error))
            raise error
        await asked.taken.wait()
        await self._step()
        asked.answered = True
        self._truth.log("answer", asked.vendor, asked.id, "receipt")
        return Receipt(asked.message_id)
