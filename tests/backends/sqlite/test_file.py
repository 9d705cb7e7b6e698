from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from postman.backends.sqlite.file import check_place
from postman.errors import ConfigError

NOBODY = 65_534


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A file of root in a directory of root, seen by somebody else."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "postman.db")
        file.touch(mode=0o600)
        file.parent.chmod(0o755)
        os.seteuid(NOBODY)
        try:
            yield file
        finally:
            os.seteuid(0)


def test_a_place_that_this_user_may_not_write_is_told_with_the_cure(theirs: Path) -> None:
    with pytest.raises(ConfigError, match=f"{theirs.parent} may not be read and written by this user; change that"):
        check_place(theirs)


def test_a_file_that_this_user_may_not_write_is_told_with_the_cure(theirs: Path) -> None:
    os.seteuid(0)
    theirs.parent.chmod(0o777)
    os.seteuid(NOBODY)
    with pytest.raises(ConfigError, match=f"{theirs} may not be read and written by this user; change that"):
        check_place(theirs)
    check_place(theirs.with_name("another.db"))
