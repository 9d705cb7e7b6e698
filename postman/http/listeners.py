"""Where the way in listens."""

from __future__ import annotations

import errno
import socket

import trio

from postman.errors import ConfigError
from postman.host import split_port


async def open_listeners(bind: str, place: str = "http.bind") -> list[trio.SocketListener]:
    """Listen on `bind`, "HOST:PORT" or "[IPv6]:PORT"; port 0 takes any free one. `place` says who wants that.

    Raises:
        ConfigError: it cannot be; the text names the cure.
    """
    try:
        host, port = split_port(bind)
    except ValueError as error:
        raise ConfigError(f"{place} {error}") from None
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{place}: {_cure(error)}") from error


def _cure(error: OSError | UnicodeError) -> str:
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return "this port is in use; stop the other program, or choose another port"
        case errno.EACCES:
            return "this port needs privileges; choose another port, from 1024 upwards"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return "not an address of this machine; choose 127.0.0.1, or see `ip address`"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "not an address of this machine, and no name that leads to one; choose 127.0.0.1, or see `ip address`"
    return f"cannot listen here: {error}"
