"""Installed distributions that bring plugins: what they offer, and how another version of one takes its place.

A plugin may be upgraded while the process runs. Python cannot unload code, but it can forget it: the modules that the
distribution owns leave `sys.modules`, and the next import reads the new files. Objects of the old version live on while
somebody holds them, so calls in flight end with the code they began with. What cannot be renewed so are extension
modules, and libraries that a plugin shares with others; those need a restart.
"""

from __future__ import annotations

import importlib
import sys
import time
from importlib.metadata import Distribution, EntryPoint, MetadataPathFinder, PackagePath, distributions
from pathlib import Path
from types import ModuleType

from postman.hookspecs import CORE

_imported: dict[str, str] = {}
"""The fingerprint of each distribution that is in `sys.modules`; one for the process, as that is."""

_importing: dict[str, str] = {}
"""The distributions that are being imported now, and since when."""


def entry_points() -> list[EntryPoint]:
    """What the distributions that bring plugins offer now. Imports nothing.

    The first directory on `sys.path` wins, as it does when a module is imported; within one directory the version that
    was installed last does, since `pip install --target DIR --upgrade` leaves the metadata of the old one behind.
    """
    importlib.invalidate_caches()
    MetadataPathFinder.invalidate_caches()
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        if "postman." in (distribution.read_text("entry_points.txt") or ""):
            other = found.get(distribution.name)
            if other is None or _replaces(distribution, other):
                found[distribution.name] = distribution
    return [point for distribution in found.values() for point in distribution.entry_points]


def fingerprint(distribution: Distribution | None) -> str:
    """A text that changes when the distribution is installed again, also when we looked in the middle of it."""
    if distribution is None:
        return ""
    stamps = [_changed(file) for file in distribution.files or () if file.name == "RECORD" or file.suffix == ".py"]
    return f"{distribution.version}#{hash(tuple(stamps)):x}"


def load(point: EntryPoint) -> object:
    """Import what an entry point names; afresh, when its distribution has been installed again since.

    When that fails, what was imported before stays as it was. Takes as long as the plugin's import does, and raises
    whatever that raises.

    Raises:
        ImportError: an import that began earlier, in another thread, has not ended.
    """
    distribution = point.dist
    if distribution is None or distribution.name == CORE:
        return point.load()
    name = distribution.name
    now = time.strftime("%H:%M:%S")
    if (since := _importing.setdefault(name, now)) is not now:  # its lock would hang us too, and the new code with us
        raise ImportError(f"its import hangs since {since}; only a restart can import it anew")
    try:
        return _load(point, distribution)
    finally:
        del _importing[name]


def _load(point: EntryPoint, distribution: Distribution) -> object:
    now = fingerprint(distribution)
    owned = _modules(point, distribution)
    before = {name: module for name, module in sys.modules.items() if name in owned}
    if _imported.get(distribution.name, now) != now:
        _put(owned, {})
    try:
        plugin: object = point.load()
    except BaseException:
        _put(owned, before)
        raise
    _imported[distribution.name] = now
    return plugin


def _put(owned: frozenset[str], modules: dict[str, ModuleType]) -> None:
    for name in owned:
        sys.modules.pop(name, None)
    sys.modules.update(modules)


def _modules(point: EntryPoint, distribution: Distribution) -> frozenset[str]:
    """The modules that a distribution owns; it may share a namespace package with others."""
    parts = (file.with_suffix("").parts for file in distribution.files or () if file.suffix == ".py")
    names = {".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts}
    return frozenset({point.module, *names})


def _replaces(new: Distribution, old: Distribution) -> bool:
    return str(new.locate_file("")) == str(old.locate_file("")) and _installed(new) > _installed(old)


def _installed(distribution: Distribution) -> int:
    return max((_changed(file) for file in distribution.files or () if file.name == "RECORD"), default=0)


def _changed(file: PackagePath) -> int:
    try:
        return Path(str(file.locate())).stat().st_mtime_ns
    except OSError:  # in the middle of an installation
        return 0
