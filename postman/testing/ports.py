"""Places on the loopback that stay their owner's while he is dead.

A port that the kernel chose is given to the next who asks as soon as its owner has been killed: whoever still calls
there meets a stranger, and the owner cannot come back.
"""

from __future__ import annotations

import random
import socket
import sys
from ipaddress import IPv4Address
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_NETWORK = IPv4Address("127.1.0.0")
_ADDRESSES = 2**23
_random = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, below those that the kernel gives away by itself."""
    above = int(_RANGE.read_text(encoding="ascii").split()[0]) if _RANGE.exists() else 32_768
    while True:
        port = _random.randrange(_LOWEST, above)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def own_address() -> str:
    """An address of the loopback that nobody else has; 127.0.0.1 where that is the only one."""
    if sys.platform != "linux":
        return "127.0.0.1"
    return str(_NETWORK + _random.randrange(1, _ADDRESSES))
