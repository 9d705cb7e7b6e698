"""A directory of plugins, beside those that are installed."""

from __future__ import annotations

import site
import stat
from pathlib import Path

from postman.errors import ConfigError


def add_directory(directory: Path) -> None:
    """Let plugins be found in `directory` (as `pip install --target DIR` fills it), behind what is installed.

    Raises:
        ConfigError: it is no directory, or everybody may write it or anything in it: plugins run with our rights.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: there is no such directory of plugins")
    for path in (directory, *directory.rglob("*")):
        if path.name == ".lock":  # uv leaves it for everybody; nobody reads it
            continue
        if path.exists() and path.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(f"{path}: everybody may write this directory of plugins; run: chmod -R o-w {directory}")
    site.addsitedir(str(directory.absolute()))
