"""Whether a server still has what it confirmed: it may come back from files that were cut, or a replica took its place.

What a server forgets is what came last, so whoever knows the last changes can tell. Who was not there cannot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from postman.backends.redis.connection import Ask
from postman.mail import Id
from postman.row import Row

KEPT: Final = 32
"""Changes that are remembered."""
SOON: Final = 60.0
"""Seconds; more than passes between question and answer."""

_SENTENCE: Final = (
    "Redis has forgotten what it confirmed, of mails {mails} at least: it came back from files that were cut, or a"
    " replica took its place. Mails accepted just before may be lost, and mails sent just before may be sent again."
    " Restart Postman when you have looked after them."
)

_log = structlog.get_logger()


class Witness:
    """Remembers the last changes that a server confirmed to this process.

    Args:
        key: of a letter.

    Attributes:
        troubles: a sentence, once something was forgotten.
    """

    def __init__(self, key: Callable[[Id], str]) -> None:
        self.troubles: tuple[str, ...] = ()
        self._key = key
        self._changes: deque[_Change] = deque(maxlen=KEPT)

    def remember(self, row: Row, version: int) -> None:
        """The server confirmed that this is the row, in this version."""
        self._changes.append(_Change(row.id, version, row.since))

    async def look(self, ask: Ask, *, swept: float) -> None:
        """Ask for what was confirmed, but for what may have been swept: all that had ended by then, or soon after."""
        changes = [change for change in self._changes if change.since > swept + SOON]
        if not changes:
            return
        found = await ask(*(("HGET", self._key(change.id), "v") for change in changes), tolerant=True)
        forgotten = {
            change.id: None
            for change, version in zip(changes, found, strict=True)
            if (version is None or (version.isdigit() and int(version) < change.version))
            and change in self._changes  # else it was told while we asked
        }
        if forgotten:
            self._changes.clear()
            _log.error("Redis has forgotten what it confirmed", mails=[*forgotten])
            self.troubles = (_SENTENCE.format(mails=", ".join(forgotten)),)


class _Change(NamedTuple):
    id: Id
    version: int
    since: float
