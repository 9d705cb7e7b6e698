"""The server's time, told by this machine between two looks at it."""

from __future__ import annotations

from collections.abc import Sequence

from postman.provider import boottime
from postman.row import Now


class ServerClock:
    """One clock for all processes, whatever their own say. Never ahead of the server's, unless that is set back.

    Wall and steady are the same here: a lease that one process writes is judged by another one.
    """

    def __init__(self) -> None:
        self._ahead = 0.0

    def observe(self, time: Sequence[bytes]) -> None:
        """Take what the server's command TIME just answered."""
        self._ahead = int(time[0]) + int(time[1]) / 1e6 - boottime()

    def __call__(self) -> Now:
        """The time."""
        now = boottime() + self._ahead
        return Now(now, now)
