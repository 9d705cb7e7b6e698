"""Chance, from one seed: what goes wrong in a run, and how often.

Each run has a few kinds of trouble, each at a rate of its own: a run in which one thing goes wrong all the time finds
more than one in which everything goes wrong a little.
"""

from __future__ import annotations

import enum
import random

RATES = (0.03, 0.1, 0.3)
QUIET = 31.0
"""Seconds: a stall of at least so long outlasts the lease of a call."""
STALL = 120.0


class Trouble(enum.Enum):
    """What may go wrong at any step."""

    LEDGER_REFUSES = enum.auto()
    """Nothing is changed; it says so, or does not know."""
    LEDGER_SILENT = enum.auto()
    """It is changed, but the answer is lost."""
    LEDGER_FULL = enum.auto()
    SLOW = enum.auto()
    STALL = enum.auto()
    """Longer than a lease."""
    BUG = enum.auto()
    """An exception of our own in the middle of a delivery; what it had in hand is gone."""
    QUEUE_REFUSES = enum.auto()
    QUEUE_SILENT = enum.auto()
    NOTE_LOST = enum.auto()
    NOTE_DOUBLED = enum.auto()
    NOTE_LATE = enum.auto()


class Dice(random.Random):
    """All chance of a run.

    Attributes:
        calm: from now on nothing goes wrong.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.calm = False
        kinds = self.sample(list(Trouble), self.randint(0, len(Trouble)))
        self._rates = {trouble: self.choice(RATES) for trouble in kinds}
        self._rates.setdefault(Trouble.STALL, self.choice(RATES))  # what most rules are about

    def hit(self, trouble: Trouble) -> bool:
        """Whether this goes wrong now."""
        return not self.calm and self.random() < self._rates.get(trouble, 0.0)

    def even(self) -> bool:
        """One of two."""
        return self.random() < 0.5

    def stall(self) -> float:
        """Seconds for which a delivery stands still, mostly none."""
        return self.uniform(QUIET, STALL) if self.hit(Trouble.STALL) else 0.0

    def seconds(self, pace: float) -> float:
        """That a step takes, at most `pace` when all is well."""
        if self.hit(Trouble.SLOW):
            return self.uniform(0.0, 20.0)
        return self.choice((0.0, self.uniform(0.0, pace)))
