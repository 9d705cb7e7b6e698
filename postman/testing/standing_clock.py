"""A clock that stands until it is told to go on."""

from __future__ import annotations

from postman.row import Now


class StandingClock:
    """For whatever takes a `Callable[[], Now]`.

    Attributes:
        wall: may be set to anything, as wall clocks are.
        steady: only ever goes on.
    """

    def __init__(self, wall: float = 1_700_000_000.0, steady: float = 50_000.0) -> None:
        self.wall = wall
        self.steady = steady

    def __call__(self) -> Now:
        """The time it shows."""
        return Now(self.wall, self.steady)

    def advance(self, seconds: float) -> None:
        """Let both clocks go on."""
        self.wall += seconds
        self.steady += seconds
