"""Connections between letters: the latest first, none that idled long, none after an oddity."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from postman_plugin_smtp.connection import Connection

MAX_IDLE: Final = 30.0
"""Seconds after which a server may well have hung up; most wait for minutes, a few for one."""
MAX_LETTERS: Final = 100
"""Letters for one connection; many servers end the session there."""


class Pool:
    """The connections to one account; as many as there are calls under way, each used by one call at a time.

    Args:
        dial: opens a connection that is ready for letters.
    """

    def __init__(self, dial: Callable[[], Awaitable[Connection]]) -> None:
        self._dial = dial
        self._idle: list[Connection] = []
        self._closed = False

    @asynccontextmanager
    async def lend(self, *, fresh: bool = False) -> AsyncIterator[Connection]:
        """Lend a connection, a new one if none idles or if `fresh`.

        It comes back only when the block left it `resting`; else, also when cancelled, it is closed.
        """
        connection = None if fresh else await self._take()
        if connection is None:
            connection = await self._dial()
        connection.resting = False
        try:
            yield connection
        finally:
            if connection.broken or not connection.resting:
                connection.close()
            elif self._closed or connection.letters >= MAX_LETTERS:
                await connection.quit()
            else:
                connection.used = trio.current_time()
                self._idle.append(connection)

    async def close(self) -> None:
        """Take leave of all that idle, and of those that are lent when they come back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().quit()

    async def _take(self) -> Connection | None:
        while self._idle and self._idle[0].used < trio.current_time() - MAX_IDLE:
            await self._idle.pop(0).quit()
        while self._idle:
            connection = self._idle.pop()
            quiet = False
            try:
                quiet = await connection.is_quiet()
            finally:  # also when cancelled, a connection is in the pool, lent or closed
                if not quiet:
                    connection.close()
            if quiet:
                return connection
        return None
