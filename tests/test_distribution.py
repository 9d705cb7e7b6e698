"""Plugins that are installed, upgraded and broken while the process runs: real files, laid down as installers do."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from postman.distribution import entry_points, fingerprint, load


class Shelf:
    """A directory that distributions are installed in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir()
        self.now = 1_000_000_000

    def install(self, version: str, files: dict[str, str], *, name: str = "shelf-plugin") -> None:
        """Put the modules in place, then the metadata; metadata of other versions stays, as pip leaves it."""
        self.now += 10
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        shutil.rmtree(self.directory / info, ignore_errors=True)
        point = f"[postman.providers]\nshelf = {next(iter(files)).removesuffix('.py').partition('/')[0]}\n"
        metadata = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "entry_points.txt": point,
            "RECORD": "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]),
        }
        for path, text in {**files, **{f"{info}/{file}": text for file, text in metadata.items()}}.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        os.utime(target, (self.now, self.now))

    def point(self) -> EntryPoint:
        (point,) = [point for point in entry_points() if point.name == "shelf"]
        return point

    def load(self) -> ModuleType:
        module = load(self.point())
        assert isinstance(module, ModuleType)
        return module

    def fingerprint(self) -> str:
        return fingerprint(self.point().dist)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Shelf]]:
    path, modules = list(sys.path), set(sys.modules)

    def make(name: str) -> Shelf:
        shelf = Shelf(tmp_path / name)
        sys.path.append(str(shelf.directory))
        return shelf

    yield make
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0].startswith("shelf_"):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def shelf(make: Callable[[str], Shelf]) -> Shelf:
    return make("shelf")


def test_what_is_installed_later_is_found_without_importing_it(shelf: Shelf) -> None:
    assert not [point for point in entry_points() if point.name == "shelf"]
    shelf.install("1", {"shelf_plugin.py": "raise SystemExit(3)"})
    assert shelf.point().dist
    assert "shelf_plugin" not in sys.modules


def test_an_upgrade_is_imported_afresh_and_what_the_old_version_made_lives_on(shelf: Shelf) -> None:
    shelf.install("1", {"shelf_plugin.py": "def version(): return 1"})
    old, first = shelf.load(), shelf.fingerprint()
    assert shelf.load() is old
    assert shelf.fingerprint() == first
    shelf.install("2", {"shelf_plugin.py": "def version(): return 2"})
    assert shelf.load().version() == 2
    assert old.version() == 1
    assert shelf.fingerprint() != first


def test_the_same_version_installed_again_is_another_one(shelf: Shelf) -> None:
    shelf.install("1", {"shelf_plugin.py": "word = 'one'"})
    first = shelf.fingerprint()
    assert shelf.load().word == "one"
    shelf.install("1", {"shelf_plugin.py": "word = 'two'"})
    assert shelf.fingerprint() != first
    assert shelf.load().word == "two"


@pytest.mark.parametrize("versions", [("1", "2"), ("2", "1"), ("9", "10"), ("1", "2", "1")])
def test_of_several_metadata_in_one_directory_the_last_installed_counts(
    shelf: Shelf, versions: tuple[str, ...]
) -> None:
    for version in versions:
        shelf.install(version, {"shelf_plugin.py": f"version = {version!r}"})
        assert shelf.load().version == version
        dist = shelf.point().dist
        assert dist
        assert dist.version == version


def test_the_first_directory_on_the_path_wins_however_old_its_files_are(make: Callable[[str], Shelf]) -> None:
    first, second = make("first"), make("second")
    first.install("1", {"shelf_plugin.py": "version = 1"})
    second.now += 1000
    second.install("2", {"shelf_plugin.py": "version = 2"})
    assert first.load().version == 1
    assert first.point().dist.version == "1"  # type: ignore[union-attr]  # it comes from a distribution


def test_a_look_in_the_middle_of_an_installation_is_corrected_by_the_next(shelf: Shelf) -> None:
    shelf.install("1", {"shelf_plugin.py": "version = 1"})
    shelf.load()
    shelf.install("2", {"shelf_plugin.py": "version = 1"})  # the metadata is new, the module is not there yet
    assert shelf.load().version == 1
    between = shelf.fingerprint()
    shelf.now += 10
    shelf.write("shelf_plugin.py", "version = 2")
    assert shelf.fingerprint() != between
    assert shelf.load().version == 2


def test_a_version_that_cannot_be_imported_leaves_the_old_one_in_place_and_nothing_of_itself(shelf: Shelf) -> None:
    good = {"shelf_plugin/__init__.py": "from shelf_plugin.part import word", "shelf_plugin/part.py": "word = 'good'"}
    shelf.install("1", good)
    old = shelf.load()
    shelf.install(
        "2",
        {**good, "shelf_plugin/part.py": "word = 'bad'", "shelf_plugin/__init__.py": "import shelf_plugin.part; 1/0"},
    )
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            shelf.load()
        assert sys.modules["shelf_plugin"] is old
        assert sys.modules["shelf_plugin.part"].word == "good"
    shelf.install("3", {**good, "shelf_plugin/part.py": "word = 'better'"})
    assert shelf.load().word == "better"


def test_a_first_version_that_cannot_be_imported_leaves_nothing(shelf: Shelf) -> None:
    bad = {"shelf_plugin/__init__.py": "import shelf_plugin.part; 1/0", "shelf_plugin/part.py": "word = 'bad'"}
    shelf.install("1", bad)
    with pytest.raises(ZeroDivisionError):
        shelf.load()
    assert not {"shelf_plugin", "shelf_plugin.part"} & sys.modules.keys()
    shelf.install(
        "2", {"shelf_plugin/__init__.py": "from shelf_plugin.part import word", "shelf_plugin/part.py": "word = 'good'"}
    )
    assert shelf.load().word == "good"


def test_an_upgrade_forgets_the_distribution_s_modules_and_no_others_of_its_namespace(shelf: Shelf) -> None:
    files = {"shelf_space/mine.py": "x = 1", "shelf_space/deep/__init__.py": "", "shelf_space/deep/part.py": "x = 1"}
    shelf.install("1", files)
    shelf.write("shelf_space/others.py", "x = 1")
    shelf.load()
    before = {name: importlib.import_module(f"shelf_space.{name}") for name in ("mine", "deep", "deep.part", "others")}
    shelf.install("2", files)
    shelf.load()
    after = {name: importlib.import_module(f"shelf_space.{name}") for name in before}
    assert {name for name in before if after[name] is not before[name]} == {"mine", "deep", "deep.part"}


def test_while_an_import_hangs_others_of_the_same_distribution_are_refused_at_once(shelf: Shelf) -> None:
    source = "import shelf_gate; shelf_gate.begun.set(); assert shelf_gate.go_on.wait(10); version = 1"
    gate = ModuleType("shelf_gate")
    gate.__dict__.update(begun=threading.Event(), go_on=threading.Event())
    sys.modules["shelf_gate"] = gate
    shelf.install("1", {"shelf_plugin.py": source})
    hanging = threading.Thread(target=shelf.load)
    hanging.start()
    assert gate.begun.wait(10)
    shelf.install("2", {"shelf_plugin.py": "version = 2"})
    with pytest.raises(ImportError, match=r"its import hangs since ..:..:..; only a restart can import it anew"):
        shelf.load()
    gate.go_on.set()
    hanging.join(10)
    assert shelf.load().version == 2
