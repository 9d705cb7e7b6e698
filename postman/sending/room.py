"""Room for letters in memory: a bound on the bytes in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Room:
    """At most `size` bytes at once; what is larger than all of it goes alone.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._gate = trio.Lock()
        self._freed = trio.Event()

    @property
    def taken(self) -> int:
        """Bytes in flight."""
        return self._taken

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """Wait until `size` bytes fit, in the order of asking, and keep them while inside."""
        if self._taken + size > self._size or self._gate.locked():
            async with self._gate:
                while self._taken and self._taken + size > self._size:
                    self._freed = trio.Event()
                    await self._freed.wait()
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size
            self._freed.set()
