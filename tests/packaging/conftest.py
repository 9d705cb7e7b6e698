"""The plugin whose text is in plugins/README.md, as a person would write and install it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "plugins" / "README.md"


@pytest.fixture(scope="session")
def manual() -> str:
    """The text of plugins/README.md."""
    return MANUAL.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def pigeon_files(manual: str) -> Mapping[str, str]:
    """The files that the manual shows, by name."""
    return dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", manual, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="session")
def pigeon_directory(pigeon_files: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which that plugin was installed, from its own source, without a network."""
    source, target = tmp_path_factory.mktemp("postman-plugin-pigeon"), tmp_path_factory.mktemp("plugins.d")
    target.chmod(0o755)
    for name, text in pigeon_files.items():
        (source / name).write_text(text, encoding="utf-8")
    install = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(target), str(source)], check=True, cwd=ROOT, timeout=60)
    return target
