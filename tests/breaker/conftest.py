"""What these tests share."""

from __future__ import annotations

import pytest

from tests.breaker.bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
