"""The whole service under faults, for as many seeds as asked for: `--seeds N`, or one of them: `--seed N`."""

from __future__ import annotations

import pytest

from postman.testing.simulation import simulate


def test_no_law_is_broken_in_any_run(request: pytest.FixtureRequest) -> None:
    one: int | None = request.config.getoption("--seed")
    seeds = range(request.config.getoption("--seeds")) if one is None else [one]
    for seed in seeds:
        report = simulate(seed)
        assert not report.broken, f"{report}\n\nagain: uv run pytest tests/simulation --seed {seed}"


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_is_replayed_line_by_line(seed: int) -> None:
    first, second = simulate(seed), simulate(seed)
    assert first.lines == second.lines
    assert first.digest == second.digest
    assert len(first.lines) > 10


def test_seeds_differ() -> None:
    assert len({simulate(seed).digest for seed in range(20)}) == 20
