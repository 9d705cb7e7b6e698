from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path


def test_the_demonstration_shows_four_mails_and_who_took_over_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "postman", "demo"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"TMPDIR": str(tmp_path)},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [line.strip() for line in ended.stdout.splitlines()]
    calls = [re.sub(r"^mail \d ", "", line) for line in lines if re.search(r"(lamda|delta)  ", line)]
    assert [re.sub(r"\s+", " ", call).strip() for call in calls] == [
        "lamda sent it",
        "lamda failed: 503 service unavailable",
        "delta took over and sent it",
        "delta failed: 503 service unavailable",
        "lamda took over and sent it",
        "lamda failed: 503 service unavailable",
        "delta took over and sent it",
    ]
    finals = [re.fullmatch(r"mail (\d)   0x[0-9a-f]{16}   sent by (\w+)", line) for line in lines[-4:]]
    assert [match.groups() for match in finals if match] == [
        ("1", "lamda"),
        ("2", "delta"),
        ("3", "lamda"),
        ("4", "delta"),
    ]
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() not in ended.stdout
