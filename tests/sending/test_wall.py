"""The pure parts of the wall; what it does to calls is in delivery/test_plugins.py."""

from __future__ import annotations

import pytest

from postman.provider import Phase
from postman.row import EndKind
from postman.sending.wall import end_of, may_have_been_accepted


@pytest.mark.parametrize(
    ("phase", "marks", "expected"),
    [
        (Phase.UNMARKED, True, False),
        (Phase.UNMARKED, False, True),
        (Phase.STARTED, True, False),
        (Phase.STARTED, False, False),
        (Phase.HANDED_OVER, True, True),
        (Phase.HANDED_OVER, False, True),
    ],
)
def test_what_may_have_been_accepted_follows_from_the_marks(phase: Phase, marks: bool, expected: bool) -> None:
    assert may_have_been_accepted(phase, marks=marks) is expected


def test_an_error_that_nobody_foresaw_is_doubt() -> None:
    assert end_of(RuntimeError("?"), Phase.HANDED_OVER).kind is EndKind.UNKNOWN
