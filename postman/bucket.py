"""A token bucket: bounds how often something happens, and lets it happen at once after a pause.

>>> bucket = Bucket(rate=2, size=4, clock=lambda: 0)
>>> bucket.spend(4)
>>> bucket.tokens(), bucket.seconds_until(1)
(0, 0.5)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_NOTHING = 1e-9
"""So small a part of a token is a rounding error: whoever waited for the time of one token gets it."""


class Bucket:
    """Tokens that come back at a steady rate. Full at first; never waits; for one thread.

    Args:
        rate: tokens a second.
        size: tokens that it holds at most.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float, size: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._size = size
        self._clock = clock
        self._level = size
        self._at = clock()

    def tokens(self) -> int:
        """Whole tokens that are there; below zero when too many were spent."""
        return math.floor(self._refilled() + _NOTHING)

    def spend(self, tokens: float) -> None:
        """Take tokens, whether they are there or not; what is missing has to come back first."""
        self._level = self._refilled() - tokens

    def seconds_until(self, tokens: float) -> float:
        """Until so many are there; for more than it holds, until it is full."""
        wanted, level = min(tokens, self._size), self._refilled()
        return (wanted - level) / self.rate if level + _NOTHING < wanted else 0.0  # as `tokens` counts, to the last bit

    def _refilled(self) -> float:
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level
