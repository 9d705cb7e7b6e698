"""DNS look-ups that hold nobody up."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import trio

MAX_LOOKUPS = 16


class Lookups(trio.abc.HostnameResolver):
    """DNS look-ups in threads of their own: a dead resolver must not hold trio's default threads, which are few.

    For `trio.socket.set_custom_hostname_resolver`, once in each run.

    Args:
        getaddrinfo: asks the system; blocks.
    """

    def __init__(self, getaddrinfo: Callable[..., object] = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._limiter = trio.CapacityLimiter(MAX_LOOKUPS)

    async def getaddrinfo(  # type: ignore[override]  # trio's own annotation is the socket module's overload
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> object:
        """As `socket.getaddrinfo`; a cancelled look-up is abandoned.

        Raises:
            OSError: nothing was found, or no thread can be started to look (EAGAIN).
        """
        try:
            return await trio.to_thread.run_sync(
                self._getaddrinfo, host, port, family, type, proto, flags, limiter=self._limiter, abandon_on_cancel=True
            )
        except RuntimeError as error:  # "can't start new thread"; it would pass for a bug of a plugin
            raise OSError(errno.EAGAIN, str(error)) from None

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        """As `socket.getnameinfo`."""
        return await trio.to_thread.run_sync(
            socket.getnameinfo, sockaddr, flags, limiter=self._limiter, abandon_on_cancel=True
        )
