"""The whole service in one file; skipped until `.ci/pyz` has built it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYZ = ROOT / "dist" / "postman.pyz"


def is_current() -> bool:
    return PYZ.exists() and all(
        path.stat().st_mtime < PYZ.stat().st_mtime
        for folder in ("postman", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        if "tests" not in path.parts
    )


pytestmark = pytest.mark.skipif(not is_current(), reason="dist/postman.pyz is not built, or is old; .ci/pyz builds it")


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SHIV_ROOT": str(tmp_path / "shiv"),
        "POSTMAN_BIND": "127.0.0.1:0",
    }
    command = [sys.executable, "-I", str(PYZ), *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
    )


def test_the_demonstration_runs_out_of_the_one_file(tmp_path: Path) -> None:
    ended = run(tmp_path, "demo")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("sent it") == 4


def test_a_plugin_in_a_directory_beside_it_is_found_and_can_be_configured(
    tmp_path: Path, pigeon_directory: Path
) -> None:
    config = tmp_path / "postman.toml"
    (tmp_path / "key").write_text("secret")
    config.write_text('[[provider]]\nname = "pigeon"\nplugin = "pigeon"\nsettings = { api-key = { file = "key" } }\n')
    checked = run(tmp_path, "--plugins", str(pigeon_directory), "check", "--live", "--json")
    assert (checked.returncode, checked.stderr) == (0, "")
    [provider] = json.loads(checked.stdout)["providers"]
    assert provider == {
        "provider": "pigeon",
        "plugin": "postman-plugin-pigeon 1.0.0",
        "good": True,
        "said": "opened; it has no question to ask",
    }
