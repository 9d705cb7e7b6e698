"""The queues under test, on a clock that stands until it is told to go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from postman.backends.memory.queue import memory_queue
from postman.backends.sqlite.database import open_database
from postman.backends.sqlite.queue import queue_on
from postman.queue import Queue
from postman.testing.check_queue import QueueUnderTest

VISIBILITY_TIMEOUT = 60.0


type Under = Callable[[trio.testing.MockClock], QueueUnderTest]
"""The clock is an argument of each test, since only there it becomes the clock of the loop."""


def _under(opens: Callable[[], AbstractAsyncContextManager[Queue]]) -> Under:
    def under(clock: trio.testing.MockClock) -> QueueUnderTest:
        async def wait(seconds: float) -> None:
            clock.jump(seconds)
            # The writer's thread is no task, so idleness is looked for a little longer than its work lasts.
            await trio.testing.wait_all_tasks_blocked(0.02)

        return QueueUnderTest(opens, VISIBILITY_TIMEOUT, wait)

    return under


@pytest.fixture
def memory() -> Under:
    return _under(lambda: memory_queue(VISIBILITY_TIMEOUT))


@pytest.fixture
def sqlite(tmp_path: Path) -> Under:
    @asynccontextmanager
    async def open_it() -> AsyncGenerator[Queue]:
        async with (
            open_database(tmp_path / "postman.db") as database,
            queue_on(database, VISIBILITY_TIMEOUT, wall=trio.current_time) as queue,
        ):
            yield queue

    return _under(open_it)
