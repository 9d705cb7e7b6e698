"""What the house must stay like, whoever builds on."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import postman
from postman import hookspecs

ROOT = Path(__file__).parents[1]
PROTOCOLS = {"fake", "lamda", "delta", "smtp"}


def sources() -> list[Path]:
    return sorted((ROOT / "postman").rglob("*.py"))


def test_imports_run_downwards_only_and_the_wings_are_apart() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert ended.returncode == 0, ended.stdout


def test_the_map_shows_every_module_and_folder_and_nothing_that_is_gone() -> None:
    package = ROOT / "postman"
    there = {path.stem for path in package.glob("*.py")} | {f"{path.parent.name}/" for path in package.glob("*/*.py")}
    inside = {path.stem for folder in ("http", "sending") for path in (package / folder).glob("*.py")}
    shown = set(re.findall(r"`([a-z_]+/?)`", postman.__doc__ or ""))
    assert there - {"__init__", "__main__"} <= shown <= there | inside


def test_the_core_names_no_vendor() -> None:
    vendors = {point.name for point in entry_points(group=hookspecs.PROVIDERS)} - PROTOCOLS
    assert vendors
    named = re.compile(rf"\b({'|'.join(vendors)})\b", re.IGNORECASE)
    assert {path.name: named.findall(path.read_text(encoding="utf-8")) for path in sources()} == {
        path.name: [] for path in sources()
    }


def test_no_test_uses_mocks() -> None:
    tests = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "plugins").rglob("tests/*.py")]
    forbidden = re.compile(r"^\s*(from unittest|import unittest|from mock|import mock)", re.MULTILINE)
    assert [path.name for path in tests if forbidden.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("word", ["utils", "util", "helpers", "helper", "manager", "common", "base", "misc"])
def test_no_file_is_an_attic(word: str) -> None:
    assert [path.name for path in sources() if word in path.stem.split("_")] == []
