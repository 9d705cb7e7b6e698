from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import postman
from postman import failpoint
from postman.failpoint import POINTS, Failure, arm


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def test_each_point_stands_in_the_code_once_and_that_of_a_commit_in_each_kind_of_ledger() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(postman.__file__).parent.rglob("*.py")]
    placed = Counter(
        name for source in sources for name in re.findall(r'^ +failpoint\("(\w+)"\)', source, re.MULTILINE)
    )
    assert placed == {**dict.fromkeys(POINTS, 1), "A3": 2, "W1": 2}, "notes are leased by workers and by AWS Lambda"


def test_nothing_happens_unless_asked_for() -> None:
    for point in POINTS:
        failpoint.failpoint(point)


def test_an_action_happens_at_its_time_and_only_then() -> None:
    arm("W5=raise@2 A3=raise")
    failpoint.failpoint("W5")
    with pytest.raises(Failure, match="W5"):
        failpoint.failpoint("W5")
    failpoint.failpoint("W5")
    with pytest.raises(Failure, match="A3"):
        failpoint.failpoint("A3")


def test_a_pause_holds_the_thread() -> None:
    arm("W1=pause:0.05")
    began = time.monotonic()
    failpoint.failpoint("W1")
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("plan", ["W6=kill", "B1=kill", "W5", "W5=explode", "W5=pause", "W5=kill:2", "W5=kill@x"])
def test_a_plan_that_cannot_be_read_is_refused_and_the_old_one_stays(plan: str) -> None:
    arm("A1=raise")
    with pytest.raises(ValueError, match=r"POINT=ACTION|invalid literal"):
        arm(plan)
    with pytest.raises(Failure):
        failpoint.failpoint("A1")
