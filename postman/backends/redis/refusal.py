"""What a server says when it does not do what it was asked, and what follows. Pure: no I/O.

Those that are known here were told before anything was done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hiredis import ReplyError

from postman.backends.redis.wire import Command
from postman.errors import StoreError, StoreFull, StoreRefused, StoreUnavailable
from postman.secret import hide

ELSEWHERE: Final = frozenset({"MOVED", "READONLY"})
"""Another server would do it; a name may mean that one by now."""
MISTYPED: Final = "WRONGTYPE"
"""Somebody else wrote something of another type to the key."""


class UnknownScript(StoreError):
    """The server was restarted, or its scripts were flushed."""


class Loading(StoreUnavailable):
    """The server was started and reads its files; that ends by itself."""


_LATER: Final = frozenset(
    {"BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "NOAUTH", "WRONGPASS", "ASK"} | ELSEWHERE
)
"""May be otherwise then, or when a person has seen to it."""
_KINDS: Final[Mapping[str, Callable[[str], StoreError]]] = {
    **dict.fromkeys(_LATER, StoreUnavailable),
    "LOADING": Loading,
    "NOSCRIPT": UnknownScript,
    "OOM": StoreFull,
    "NOPERM": StoreRefused,
    MISTYPED: StoreRefused,
}


def code_of(error: ReplyError) -> str:
    """Its first word."""
    return str(error).partition(" ")[0]


def meaning(error: ReplyError, server: object, prefix: str, command: Command) -> StoreError:
    """What an error means that `server` answered to a command of ours; all our keys begin with `prefix`."""
    code, cure = code_of(error), ""
    if code == MISTYPED:
        key = f"a key that begins with {prefix}" if command[0] == "EVALSHA" else command[1]
        cure = f"; somebody else wrote to {key}; restore it from a backup, or begin anew with another ?prefix="
    elif code == "NOPERM":
        cure = f"; we need all commands on all keys that begin with {prefix}"
    elif code == "OOM":
        cure = "; give it more memory"
    return _KINDS.get(code, StoreError)(f"{server}: {hide(str(error))}{cure}")
