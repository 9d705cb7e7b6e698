"""Chance that can be had again: `--fuzz SECONDS` fuzzes longer, `--fuzz-seed N` begins where a round failed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Callable[[], Iterator[random.Random]]]:
    """Gives a source of chance for each round, until the time is over; at least one. Tells the seed that failed."""
    seed: int = request.config.getoption("--fuzz-seed")
    seconds: float = request.config.getoption("--fuzz")
    failed = request.session.testsfailed

    def rounds() -> Iterator[random.Random]:
        nonlocal seed
        end = time.monotonic() + seconds
        while True:
            yield random.Random(seed)
            seed += 1
            if time.monotonic() > end:
                return

    yield rounds
    if request.session.testsfailed > failed:
        print(f"again: --fuzz-seed {seed} --fuzz 0")  # noqa: T201  # pytest shows it with the failure
