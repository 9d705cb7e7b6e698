"""What plugins/README.md says is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from postman.hookspecs import PROVIDERS
from postman.kind import FEATURES
from postman.registry import discover, load_kind

EXAMPLE = "postman-plugin-pigeon"


def test_the_manual_shows_both_files_of_a_plugin(pigeon_files: Mapping[str, str]) -> None:
    assert pigeon_files.keys() == {"pyproject.toml", "postman_plugin_pigeon.py"}


def test_the_plugin_of_the_manual_is_found_in_its_directory_and_checked(pigeon_directory: Path, tmp_path: Path) -> None:
    config = tmp_path / "postman.toml"
    config.write_text(
        '[[provider]]\nname = "pigeon"\nplugin = "pigeon"\nsettings = { api-key = { env = "PIGEON_API_KEY" } }\n'
    )
    command = [sys.executable, "-m", "postman", "--plugins", str(pigeon_directory), "check", "--config", str(config)]
    environment = {**os.environ, "PIGEON_API_KEY": "a-canary", "POSTMAN_BIND": "127.0.0.1:0"}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.match(r"pigeon +good", ended.stdout)
    assert "canary" not in ended.stdout


def test_the_plugin_of_the_manual_passes_the_suite_that_the_manual_shows(
    manual: str, pigeon_directory: Path, tmp_path: Path
) -> None:
    suite = re.findall(r"^```python\n(import pytest.*?)^```$", manual, flags=re.MULTILINE | re.DOTALL)
    assert len(suite) == 1
    (tmp_path / "test_pigeon.py").write_text(suite[0])
    command = [sys.executable, "-m", "pytest", "-q", "-o", "trio_mode=true", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(pigeon_directory)}
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )
    assert ended.returncode == 0, ended.stdout
    assert " passed" in ended.stdout


def ours() -> list[str]:
    return [
        name
        for name, points in discover(PROVIDERS).items()
        if points[0].dist and points[0].dist.name.startswith("postman-plugin-") and points[0].dist.name != EXAMPLE
    ]


@pytest.mark.parametrize("plugin", ours())
def test_the_table_says_what_each_plugin_carries(manual: str, plugin: str) -> None:
    kind = load_kind(PROVIDERS, plugin)
    cells = ["yes" if feature in kind.features else "-" for feature in FEATURES]
    assert f"| {' | '.join([plugin, *cells])} |" in manual
    assert kind.features <= set(FEATURES)


def test_the_table_has_no_plugin_that_is_not_there(manual: str) -> None:
    table = manual.partition("<!-- the table")[2]
    header, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert header == f"| {' | '.join(['plugin', *FEATURES])} |"
    assert [row.split("|")[1].strip() for row in rows] == sorted(ours())
