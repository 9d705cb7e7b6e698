"""What these tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.reload.house import House


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        house = House(tmp_path, nursery)
        house.write("a", "b")
        await house.open()
        yield house
        nursery.cancel_scope.cancel()
