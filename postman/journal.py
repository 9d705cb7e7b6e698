"""One line in the log for each letter at its end: enough to find it, nothing of what it says."""

from __future__ import annotations

import structlog

from postman.row import Row, State

_log = structlog.get_logger()

_LOUD = frozenset({State.HELD, State.FAILED})


def write(row: Row) -> None:
    """Log the end of a letter, or that it is held; other states say nothing."""
    if not row.state.ended and row.state is not State.HELD:
        return
    last = row.history[-1]
    log = _log.warning if row.state in _LOUD else _log.info
    log(
        row.state,
        id=row.id,
        provider=row.provider or None,
        attempts=row.attempts,
        ms=round((row.since - row.accepted) * 1000),
        reason=last.reason or None,
    )
