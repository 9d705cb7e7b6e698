"""What these tests share."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.http.endpoint.house import House, open_house


@pytest.fixture
async def house() -> AsyncGenerator[House]:
    async with open_house() as house:
        yield house
