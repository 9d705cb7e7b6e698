"""Points at which a test makes the process die, stall or fail. Imports nothing of ours; off unless asked for.

    POSTMAN_FAILPOINTS="W5=kill W3=stop@2" postman serve

A word is POINT=ACTION, or POINT=ACTION@N for the N-th time that the process comes to the point instead of the first.
Actions: `kill` (SIGKILL, to oneself), `stop` (SIGSTOP: the whole process stands still until SIGCONT), `raise`
(`Failure`), `pause:SECONDS` (this thread). The points, in the order in which a mail comes to them:

| in |                                             | out |                                              |
|----|---------------------------------------------|-----|----------------------------------------------|
| A1 | the head of a request is read, its body not | W1  | a note is leased                             |
| A2 | its mails are read and checked              | W2  | the claim is committed                       |
| A3 | rows and key are written, not committed     | W3  | connected; the first byte is about to be sent |
| A4 | committed                                   | W4  | a part of a large request is with the kernel |
| A5 | notes are put, where the queue is apart     | W5  | the last byte is with the kernel             |
| A6 | the answer is made                          | W6  | the provider took it; a point of its own     |
| A7 | the answer is with the kernel               | W7  | the head of the provider's answer is read    |
|    |                                             | W8  | the call has ended                           |
|    |                                             | W9  | its end is committed                         |
|    |                                             | W10 | the note is acked                            |

An export comes to X1 (written, not synced), X2 (the file has its name), X3 (a batch is let go), X4 (the last line is
written, not synced), X5 (closed); an import to Y1 (the keys are there), Y2 (a batch is there), Y3 (its notes are put).
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

POINTS = frozenset(
    f"{way}{number}" for way, last in {"A": 7, "W": 10, "X": 5, "Y": 3}.items() for number in range(1, last + 1)
) - {"W6"}

_actions: dict[tuple[str, int], tuple[str, float]] = {}
_hits: Counter[str] = Counter()


class Failure(Exception):
    """What the action `raise` raises."""


def failpoint(point: str) -> None:
    """Do what a test asked for here; else nothing."""
    if _actions:
        _reach(point)


def arm(plan: str) -> None:
    """Replace what was asked for, and count from zero.

    Raises:
        ValueError: a word of the plan cannot be read.
    """
    actions: dict[tuple[str, int], tuple[str, float]] = {}
    for word in plan.split():
        point, _, rest = word.partition("=")
        action, _, number = rest.partition("@")
        name, _, seconds = action.partition(":")
        if point not in POINTS or name not in {"kill", "stop", "raise", "pause"} or (name == "pause") != bool(seconds):
            raise ValueError(f"POSTMAN_FAILPOINTS: {word!r} is not POINT=ACTION[@N], such as W5=kill or A3=pause:2@7")
        actions[point, int(number or 1)] = name, float(seconds or 0)
    _actions.clear()
    _actions.update(actions)
    _hits.clear()


def _reach(point: str) -> None:
    _hits[point] += 1
    name, seconds = _actions.get((point, _hits[point]), ("", 0.0))
    match name:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "pause":
            time.sleep(seconds)
        case "raise":
            raise Failure(point)


arm(os.environ.get("POSTMAN_FAILPOINTS", ""))
