"""Flake ids: 64 bits that are unique without asking anyone, and sort in the order in which they were minted.

42 bits of Unix milliseconds (until the year 2109), 10 bits of node, 12 bits of sequence.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

TIME_BITS = 42
NODE_BITS = 10
SEQUENCE_BITS = 12
NODES = 1 << NODE_BITS


class Flake:
    """Mints ids. Each is greater than the one before, whatever the clock does.

    Milliseconds and sequence are one counter that never runs behind the clock and never goes back. When the clock goes
    back, or more than 4096 ids are asked for in one millisecond, the counter runs ahead of the clock.

    Nothing is remembered beyond the process: two flakes of one node may repeat each other, as may one node that starts
    anew after its clock went back. Who stores the ids checks that they are new, and asks for others.

    Args:
        node: 0..1023, different for each process that mints at the same time; None: random.
        clock: Unix time in seconds.

    Raises:
        ValueError: there is no such node.
    """

    def __init__(self, node: int | None = None, clock: Callable[[], float] = time.time) -> None:
        if node is None:
            node = secrets.randbelow(NODES)
        if not 0 <= node < NODES:
            raise ValueError(f"node is {node}; it must be within 0..{NODES - 1}")
        self.node = node
        self._clock = clock
        self._last = -1

    def next(self) -> int:
        """The next id. Never waits; for one thread.

        Raises:
            OverflowError: the clock is past the year 2109; no id was used.
        """
        now = int(self._clock() * 1000)
        tick = max(now << SEQUENCE_BITS, self._last + 1)
        if tick >> TIME_BITS + SEQUENCE_BITS:
            raise OverflowError("the clock is past the year 2109, where 42 bits of milliseconds end")
        self._last = tick
        milliseconds, sequence = divmod(tick, 1 << SEQUENCE_BITS)
        return (milliseconds << NODE_BITS | self.node) << SEQUENCE_BITS | sequence

    def next_id(self) -> str:
        """The next id as text, `0x` and 16 digits, which sorts as the number does."""
        return f"0x{self.next():016x}"


class Parts(NamedTuple):
    """What an id is made of.

    Attributes:
        time: Unix time in seconds.
        node: who minted it.
        sequence: which one of its millisecond.
    """

    time: float
    node: int
    sequence: int


def parts(id: int) -> Parts:
    """Take an id apart."""
    return Parts(
        time=(id >> NODE_BITS + SEQUENCE_BITS) / 1000,
        node=id >> SEQUENCE_BITS & NODES - 1,
        sequence=id & (1 << SEQUENCE_BITS) - 1,
    )
