"""The contract of a provider: one account at one vendor that takes letters. Implementations live in plugins/.

A plugin implements `Provider.send` and ends each call in one way of this closed list:

| end                     | means                                         | another provider |
|-------------------------|-----------------------------------------------|------------------|
| returns `Receipt`       | accepted                                      | never            |
| `ProviderUnavailable`   | surely not accepted, the provider's fault     | now              |
| `ProviderMisconfigured` | surely not accepted, our account or settings  | now              |
| `MailRefused`           | surely not accepted, this mail not here       | now              |
| `MailRejected`          | surely not accepted, this mail nowhere        | no               |
| `OutcomeUnknown`        | perhaps accepted                              | never            |

Anything else is a bug of the plugin; the delivery survives it and judges by the attempt's marks.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import msgspec

from postman.errors import (
    MailRefused,
    MailRejected,
    NotAccepted,
    OutcomeUnknown,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    TooLate,
)
from postman.failpoint import failpoint
from postman.mail import Letter

__all__ = [
    "Attempt",
    "LiveCheck",
    "MailRefused",
    "MailRejected",
    "NotAccepted",
    "OutcomeUnknown",
    "Phase",
    "Provider",
    "ProviderError",
    "ProviderMisconfigured",
    "ProviderUnavailable",
    "Receipt",
    "Refusal",
    "TooLate",
    "boottime",
]


def boottime() -> float:
    """Seconds since boot, suspended time included: the clock of leases. Never jumps; the same for all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Refusal(msgspec.Struct, frozen=True):
    """A recipient that a provider did not take while it took the letter for others."""

    recipient: str
    reason: str


class Receipt(msgspec.Struct, frozen=True):
    """A provider's word that it took the letter.

    Attributes:
        message_id: the provider's own id, if it gave one.
        refused: the recipients that it did not take.
    """

    message_id: str | None = None
    refused: tuple[Refusal, ...] = ()


class Phase(enum.StrEnum):
    """How far a provider call came."""

    UNMARKED = "unmarked"
    """No mark was made: nothing was sent yet, or the plugin makes no marks."""
    STARTED = "started"
    """Bytes may have been sent, the last one surely not."""
    HANDED_OVER = "handed-over"
    """The last byte is with the kernel: from here the provider may have accepted."""


class Attempt:
    """One call of one provider for one letter. The plugin makes its two marks; both are sync and cost nothing.

    Args:
        key: the idempotency key; one per letter, the same for every attempt, `[a-z0-9-]{1,36}`.
        lease_ends: when the claim's lease is over, by `clock`.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, key: str, *, lease_ends: float, clock: Callable[[], float] = boottime) -> None:
        self.key = key
        self.phase = Phase.UNMARKED
        self._lease_ends = lease_ends
        self._clock = clock

    def be_in_time(self) -> None:
        """Refuse a call that comes too late. Asked before each call, for plugins that make no marks.

        Raises:
            TooLate: the lease is over (the process was stopped or starved).
        """
        if self._clock() >= self._lease_ends:
            raise TooLate("the lease of the claim was over before the first byte was sent")

    def starting(self) -> None:
        """Say that the first byte is about to be sent. May be said again for a later connection of the same call.

        Raises:
            TooLate: the lease is over. Send nothing, let it pass.
        """
        self.be_in_time()
        if self.phase is Phase.UNMARKED:
            self.phase = Phase.STARTED
        failpoint("W3")

    def handed_over(self) -> None:
        """Say that the last byte is with the kernel (SMTP: that the final dot is about to be sent)."""
        self.phase = Phase.HANDED_OVER
        failpoint("W5")


class Provider(Protocol):
    """One account at one vendor."""

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        """Ask the vendor once to take `letter`.

        Does not retry, sleep, log, or know breakers, queues or other providers. The payload's bytes depend on the
        letter and the settings alone. The caller bounds the time by cancelling; a cancelled call gives its connection
        back or closes it, and never leaves half a request for the next.

        Raises:
            ProviderError: one of its leaves, see the table in the module's docstring.
        """
        ...


@runtime_checkable
class LiveCheck(Protocol):
    """What a provider may also have: an answer to `postman check --live`."""

    async def check(self) -> str:
        """Ask the vendor the cheapest question that needs our credentials; sends no mail.

        Returns:
            One sentence of what was found, for a person.

        Raises:
            ProviderError: as `send` would end for this account.
        """
        ...
