from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    assert sum(line.startswith(("intake, ", "POST to provider", "provider call")) for line in lines) == 12
    assert [line.split(" = ")[0] for line in lines if "wanted" in line] == [
        "intake, 10 a POST: SQLite / intake, 10 a POST: (a) dropped",
        "POST to provider: Postman / provider call: (b) httpx2",
    ]
