from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench.table import Figure, Share, table

ROOT = Path(__file__).parents[2]


def test_the_benchmark_runs_and_prints_its_table() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--mails", "100", "--rounds", "1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert sum(line.startswith(("intake, ", "POST to provider", "provider call")) for line in lines) == 16
    assert [line.split(" = ")[0] for line in lines if "wanted" in line] == [
        "intake, 10 a POST: SQLite / intake, 10 a POST: (a) dropped",
        "POST to provider: Postman / provider call: (b) httpx2",
    ]


def test_the_benchmark_of_the_stores_says_again_what_was_said_and_finds_the_same_letters_sent() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--stores", "--mails", "100", "--rounds", "1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    shares = [line.partition(":")[0] for line in ended.stdout.splitlines() if ", raw = " in line]
    assert shares[:6] == ["sqlite", "sqlite", "redis", "redis", "postgresql", "postgresql"]
    assert shares[6:] == ([] if "fauxqs is not installed" in ended.stderr else ["sqs", "sqs"])


def test_a_share_is_the_median_of_what_it_was_in_each_round() -> None:
    # In the second round the machine had something else to do, halfway.
    ceiling = [Figure(100, 1.0, 0.1), Figure(100, 4.0, 0.1), Figure(100, 1.0, 0.1)]
    measured = [Figure(100, 2.0, 0.2), Figure(100, 2.0, 0.2), Figure(100, 2.0, 0.2)]
    lines = list(table({"all": ceiling, "ours": measured}, [Share("ours", "all", 0.6), Share("ours", "all", 0.5)]))
    assert lines[1].split() == ["all", "100", "1,000"]
    assert lines[-2] == "ours / all = 0.50 (0.50 .. 2.00, by CPU 0.50); wanted 0.6: MISSED"
    assert lines[-1].endswith("wanted 0.5: good")
