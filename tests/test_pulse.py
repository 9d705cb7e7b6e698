"""The loop stands still, and is seen."""

from __future__ import annotations

import time
from types import FrameType

import pytest
import trio
import trio.testing

from postman.pulse import BEAT, Pulse

LIMIT = 0.3


@pytest.fixture
def pulse() -> Pulse:
    def where(frame: FrameType) -> str:
        return f"in {frame.f_code.co_name}"

    return Pulse(where, LIMIT)


def stand_still_until_seen(pulse: Pulse) -> None:
    until = time.monotonic() + 20
    while not pulse.seen and time.monotonic() < until:
        time.sleep(0.01)  # what nobody should do in the loop


async def test_whoever_stands_still_is_named_while_it_lasts_and_afterwards(pulse: Pulse) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        await trio.testing.wait_all_tasks_blocked()
        assert pulse.trouble == ""
        stand_still_until_seen(pulse)
        assert pulse.seen == "in stand_still_until_seen"
        time.sleep(BEAT)  # noqa: ASYNC251  # still
        with trio.fail_after(5):
            while not pulse.trouble:  # noqa: ASYNC110  # told at the next beat
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert "stood still for" in pulse.trouble
    assert "in stand_still_until_seen: nothing else was sent" in pulse.trouble
