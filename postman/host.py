"""A host, with or without a port, as people and HTTP write it. Nothing is looked up."""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import re

_PLACE = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{0,5}))?")


def split_port(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8901` or `[::1]:8901`.

    Raises:
        ValueError: it is neither; the text is a predicate that names the cure.
    """
    match = _PLACE.fullmatch(text)
    if not match or not match["port"] or int(match["port"]) > 65_535:
        raise ValueError(
            "is not an address and a port: write HOST:PORT, as in 127.0.0.1:8901, and an IPv6 address in brackets,"
            " as in [::1]:8901"
        )
    return match["v6"] or match["name"], int(match["port"])


def host_of(text: str) -> str:
    """The host of `localhost`, `localhost:8901` or `[::1]:8901`; empty when it cannot be read."""
    match = _PLACE.fullmatch(text)
    return match["v6"] or match["name"] if match else ""


@functools.lru_cache(maxsize=64)  # asked of each request
def is_loopback(host: str) -> bool:
    """Whether `host` names this machine alone: `127.0.0.1` and its like, `::1`, `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def http_url(host: str, port: int) -> str:
    """`http://host:port`, with the brackets of IPv6."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


_CURES = {
    errno.EMFILE: "; raise the number of files that this process may open (LimitNOFILE, ulimit -n)",
    errno.ENFILE: "; raise the number of files that this machine may open (fs.file-max)",
    errno.EADDRNOTAVAIL: "; no local port is free: widen net.ipv4.ip_local_port_range",
    errno.EAGAIN: "; no thread can be started: raise the number that this process may have (TasksMax, ulimit -u)",
}


def words_of(number: int) -> str:
    """The operating system's words for an error, with the cure where this machine is to blame."""
    return os.strerror(number).lower() + _CURES.get(number, "")
