"""An installed distribution that brings a plugin: which version of it is imported, and how another takes its place.

A plugin may be upgraded while the process runs. Python cannot unload code, but it can forget it: the modules that the
distribution owns leave `sys.modules`, and the next import reads the new files. Objects of the old version live on while
somebody holds them, so calls in flight end with the code they began with. What cannot be renewed so are extension
modules, and libraries that a plugin shares with others; those need a restart.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import Distribution, EntryPoint, MetadataPathFinder
from pathlib import Path, PurePath
from types import ModuleType

from postman.hookspecs import CORE

_imported: dict[str, str] = {}
"""The fingerprint of each distribution that is in `sys.modules`; one for the process, as that is."""


def look_afresh() -> None:
    """Forget what the import system remembers of directories, so that what was installed meanwhile is found."""
    importlib.invalidate_caches()
    MetadataPathFinder.invalidate_caches()


def fingerprint(distribution: Distribution | None) -> str:
    """A text that changes when the distribution is installed again: its version, and when it was installed."""
    if distribution is None:
        return ""
    installed = next((file for file in distribution.files or () if file.name == "RECORD"), None)
    try:
        stamp = Path(str(installed.locate())).stat().st_mtime_ns if installed else 0
    except OSError:  # in the middle of an installation
        stamp = 0
    return f"{distribution.version}@{stamp}"


def load(point: EntryPoint) -> object:
    """Import what an entry point names; afresh, when its distribution has been installed again since.

    When the new code cannot be imported, the old stays as it was. Takes as long as the plugin's import does, and raises
    whatever that raises.
    """
    distribution = point.dist
    if distribution is None or distribution.name == CORE:
        return point.load()
    now = fingerprint(distribution)
    before = _imported.get(distribution.name, now)
    old = _forget(_roots(distribution, point)) if now != before else {}
    try:
        plugin: object = point.load()
    except BaseException:
        if old:
            _forget(_roots(distribution, point))
            sys.modules.update(old)
        raise
    _imported[distribution.name] = now
    return plugin


def _forget(roots: frozenset[str]) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in roots]
    return {name: sys.modules.pop(name) for name in names}


def _roots(distribution: Distribution, point: EntryPoint) -> frozenset[str]:
    """The top-level modules that a distribution owns."""
    files = [PurePath(file) for file in distribution.files or () if file.suffix == ".py"]
    roots = {point.module.partition(".")[0], *(file.parts[0].removesuffix(".py") for file in files)}
    return frozenset(roots - {"postman"})
