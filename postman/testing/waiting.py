"""Waiting for what happens in other processes, which wake nobody here: looks again and again, for so long at most."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from postman.errors import StoreUnavailable

PATIENCE = 30.0
"""Seconds after which a test that waits has failed."""

_LOOK = 0.01
"""Seconds between two looks."""


async def wait_until(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Wait until a condition is true."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110  # see the module
            await trio.sleep(_LOOK)


async def wait_for[T](
    ask: Callable[[], Awaitable[T]], wanted: Callable[[T], object] = bool, within: float = PATIENCE
) -> T:
    """Ask until the answer is as wanted; the answer."""
    with trio.fail_after(within):
        while not wanted(answer := await ask()):  # noqa: ASYNC110  # see the module
            await trio.sleep(_LOOK)
    return answer


async def insist[T](act: Callable[[], Awaitable[T]], within: float = PATIENCE) -> T:
    """Do it until the store answers; its answer."""
    answers: list[T] = []

    async def answered() -> bool:
        with suppress(StoreUnavailable):
            answers.append(await act())
        return bool(answers)

    await wait_for(answered, within=within)
    return answers[0]
