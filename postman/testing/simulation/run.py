"""A run: one seed, one journal."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog
import trio
from trio._core import _run as scheduler  # its hook for deterministic runs, the one that its Hypothesis plugin sets
from trio.testing import MockClock

from postman.testing.simulation import laws
from postman.testing.simulation.instance import Parts
from postman.testing.simulation.stores import Bug
from postman.testing.simulation.truth import Truth
from postman.testing.simulation.world import World


@dataclass(frozen=True)
class Report:
    """What came of a run.

    Attributes:
        broken: the laws that were, as sentences.
        digest: of the journal; the same for the same seed and code.
        lines: the journal.
    """

    seed: int
    broken: tuple[str, ...]
    digest: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        """For a person who has to find the fault."""
        return "\n".join([f"seed {self.seed}:", *self.broken, "journal:", *self.lines])


def simulate(seed: int, parts: Parts | None = None) -> Report:
    """One run. Not within a running loop."""
    world = World(seed, parts or Parts())
    with _deterministic(seed), _listening(world.truth):
        rows, policy, wall = trio.run(world.run, clock=MockClock(autojump_threshold=0))
    broken = laws.broken(world.truth, rows, policy, wall)
    return Report(seed, tuple(broken), world.truth.digest, tuple(world.truth.lines))


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """The order of tasks, and what our code draws from the shared source of chance, follow from the seed."""
    allowed, order, chance = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), random.getstate()  # noqa: SLF001  # no other way
    try:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # noqa: SLF001  # the hook
        scheduler._r.seed(seed)  # noqa: SLF001  # the hook
        random.seed(seed)
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]  # noqa: SLF001  # the hook
        scheduler._r.setstate(order)  # noqa: SLF001  # the hook
        random.setstate(chance)


@contextmanager
def _listening(truth: Truth) -> Iterator[None]:
    """Nothing is logged; a bug of ours that nobody planned breaks the law."""

    def listen(_logger: object, _method: str, event: MutableMapping[str, Any]) -> NoReturn:
        error = sys.exc_info()[1]
        if event["event"].startswith("a bug of ours") and not isinstance(error, Bug):
            truth.bugs.append(repr(error))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[listen], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.configure(**before)
