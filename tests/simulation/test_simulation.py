"""The whole service under faults, for as many seeds as asked for: `--seeds N`, or one of them: `--seed N`."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from postman.row import EndKind
from postman.testing.simulation import simulate


def test_no_law_is_broken_in_any_run(request: pytest.FixtureRequest) -> None:
    one: int | None = request.config.getoption("--seed")
    seeds = range(request.config.getoption("--seeds")) if one is None else [one]
    for seed in seeds:
        report = simulate(seed)
        assert not report.broken, f"{report}\n\nagain: uv run pytest tests/simulation -k law --seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_is_replayed_byte_by_byte_also_by_another_process_with_other_hashes(seed: int) -> None:
    first = simulate(seed)
    assert len(first.lines) > 10
    assert simulate(seed) == first
    code = f"from postman.testing.simulation import simulate; print(simulate({seed}).digest)"
    for hashes in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hashes}
        ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
        assert ran.stdout.strip() == first.digest


def test_seeds_differ() -> None:
    assert len({simulate(seed).digest for seed in range(20)}) == 20


def test_every_kind_of_trouble_and_of_end_comes_up() -> None:
    """The laws would hold as well if nothing happened."""
    lines = "\n".join(line for seed in range(60) for line in simulate(seed).lines)
    events = re.sub(" 0x[0-9a-f]+", "", lines)
    wanted = [
        "kill",
        "drain",
        "pause",
        "reload",
        "cut_off",
        "freeze",
        "upset",
        "move",
        "bug",
        "webhook",
        "granted again",
        "answered 0.1",
    ]
    wanted += ["lapse in-doubt", "decide held", "decide queued", "release", "settle", "discard", "replay", "cancel"]
    wanted += [f"ended {fence} {kind}" for kind in EndKind for fence in (1, 2)]
    assert [word for word in wanted if word not in events] == []
