"""A connection to PostgreSQL that does not wait for ever, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from postman.errors import IdTaken, StoreError, StoreFull, StoreRefused, StoreUnavailable


class Connection(psycopg.Connection[TupleRow]):
    """A connection that does not wait for ever; whoever waited too long must close it.

    Attributes:
        patience: seconds to wait for an answer.
        name: of this very connection, as the server knows it (application_name).
    """

    patience = 10.0
    name = ""
    _unconfirmed = False

    def wait[T](self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """See psycopg."""
        return super().wait(gen, interval, self.patience if timeout is None else timeout)

    def write(self, statement: LiteralString, rows: Sequence[Sequence[Any]]) -> Iterable[TupleRow]:
        """Run a statement with an array for each column of `rows`, if there are any; what it returns."""
        return self.execute(statement, [list(column) for column in zip(*rows, strict=True)]) if rows else ()

    def hear(self, notice: errors.Diagnostic) -> None:
        """Take what the server says beside its answers."""
        self._unconfirmed |= notice.source_function == "SyncRepWaitForLSN"  # its words are in the server's language

    def confirm(self) -> None:
        """Raise `StoreUnavailable` if the wait for a commit's standbys was cancelled: the server calls that done."""
        unconfirmed, self._unconfirmed = self._unconfirmed, False
        if unconfirmed:
            raise StoreUnavailable("PostgreSQL: no standby confirmed a commit", may_have_happened=True)


IMPATIENCE: Final = (errors._WaitTimeout,)  # noqa: SLF001  # what our own limit raises; it has no public name
CONFLICTS: Final = (errors.UniqueViolation, errors.SerializationFailure, errors.DeadlockDetected)
"""Another process was faster: who tries again sees what it did."""

_TRANSLATION: tuple[tuple[type[psycopg.Error], type[StoreError], str], ...] = (
    (errors.UniqueViolation, IdTaken, "a letter with this id exists"),
    (errors.DiskFull, StoreFull, "the server's disk is full; make room there"),
    (errors.InsufficientPrivilege, StoreRefused, "grant our role what it needs"),
    (errors.UndefinedTable, StoreRefused, "our tables were dropped; restore them from a copy"),
    (errors.DataCorrupted, StoreRefused, "the server's files are damaged; restore them from a copy"),
    (errors.IndexCorrupted, StoreRefused, "an index is damaged; run REINDEX"),
)


def is_over(error: Exception) -> bool:
    """Whether a session must not be used any more, and what it was doing may have been done.

    What the server says of a statement is not that: then the transaction is surely undone. But the server may end a
    session just behind a commit that it did, and then psycopg may stumble in its own words.
    """
    if isinstance(error, (*IMPATIENCE, errors.ReadOnlySqlTransaction)):  # what was the primary is a replica now
        return True
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.diag.severity_nonlocalized in {"FATAL", "PANIC"}
    return isinstance(error, psycopg.OperationalError)


def translated(error: Exception) -> Exception:
    """The error of ours that an error of PostgreSQL is; those not in the table (locks, time, memory) pass."""
    for theirs, ours, cure in _TRANSLATION:
        if isinstance(error, theirs):
            return ours(f"PostgreSQL: {cure} ({text_of(error)})")
    return StoreUnavailable(f"PostgreSQL: {text_of(error)}") if isinstance(error, psycopg.Error) else error


def text_of(error: Exception) -> str:
    """What the server says, without the values of our rows; or that it said nothing, whatever came of that."""
    if isinstance(error.__context__, IMPATIENCE) or isinstance(error, IMPATIENCE):
        return "the server did not answer in time"
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return said or str(error).strip().partition("\n")[0] or "no answer"
