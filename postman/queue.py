"""The contract of a queue: a wake-up, never the truth. Implementations are in backends/, each an entry point.

A note says "look at this letter". A lost note is put again by the clerk, a doubled one is harmless (the ledger lets
one claim win), one without a row is buried. So a queue may be partial, may show a note twice and may forget; what it
must never do is block, mix up leases, or lose what it did not have to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from postman.mail import Id

LANES = 3
"""0 high, 1 normal, 2 bulk."""

LANE_WEIGHTS = (16, 4, 1)
"""How often each lane is served while all of them have notes: no lane starves."""

MAX_DELAY = 900.0
"""Seconds; what is due later waits in the ledger (the limit of SQS, kept for all)."""

COPY = 6_000
"""Characters that are kept at least of what is no note, when it is buried: a note has a hundred."""

VERSION = 1
"""Of the notes that we write, and know."""


class Note(msgspec.Struct, frozen=True, rename={"version": "v"}):
    """What travels on a queue; under 100 bytes of ASCII JSON.

    Attributes:
        id: the letter.
        lane: 0 high, 1 normal, 2 bulk.
        size: about how many bytes of memory the letter takes; bounds what is in flight.
        version: of this format; who does not know it understands nothing else of the note, and releases it untouched.
    """

    id: Id
    lane: int = 1
    size: int = 0
    version: int = VERSION


class _Newer(msgspec.Struct):
    """What every note has in common, whatever version it is of."""

    v: int


_reader = msgspec.json.Decoder(Note)
_newer = msgspec.json.Decoder(_Newer)


def read_note(data: bytes | str) -> Note | None:
    """The note that these bytes are; None when they are none that can be read."""
    try:
        note = _reader.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        note = None
    if note is not None and note.lane in range(LANES):
        return note
    try:
        version = _newer.decode(data).v
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return Note(Id(""), version=version) if version > VERSION else None


def bounded(delay: float) -> float:
    """A delay as every queue takes it: from 0 to `MAX_DELAY` seconds."""
    return min(max(float(delay), 0.0), MAX_DELAY)


class Lease(msgspec.Struct, frozen=True):
    """A note in the hands of one taker until acked, released, buried, or over.

    Attributes:
        note: None when what was found is no note that can be read; it is to be buried.
        handle: names this very lease; whatever the backend needs, opaque to others.
    """

    note: Note | None
    handle: Any


class QueueStatistics(msgspec.Struct, frozen=True, omit_defaults=True):
    """Counts of notes; approximate where the engine's are.

    Attributes:
        ready: can be taken now, one number for each lane.
        delayed: not shown yet.
        leased: in somebody's hands.
        buried: put aside because they could not be read or had no row.
        troubles: sentences about a part that does not work while the rest does.
    """

    ready: tuple[int, int, int]
    delayed: int
    leased: int
    buried: int
    troubles: tuple[str, ...] = ()


class QueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What every queue is configured with; a kind's own settings extend it (they come from the URL's query)."""

    url: str
    visibility_timeout: float = 60.0


class Notes(Protocol):
    """As much of a queue as a delivery needs: notes are put, and something becomes of those in hand.

    All methods raise `StoreUnavailable` when the engine does not answer. Time passes by a clock that does not jump.
    """

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """Make notes visible after `delay` seconds (at most `MAX_DELAY`).

        May have been done in part when it raises; repeating it is harmless. Durable on return where `durable`.
        """
        ...

    async def ack(self, lease: Lease) -> None:
        """The note is done with. Need not be durable on return: a note shown again is harmless.

        Raises:
            LeaseLost: the lease was over; a normal end once the ledger was written.
        """
        ...

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """Give the note back; it is shown again after `delay` seconds (at most `MAX_DELAY`).

        Raises:
            LeaseLost: the lease was over.
        """
        ...

    async def bury(self, lease: Lease, reason: str) -> None:
        """Put aside, with its bytes (`COPY` at least) and the reason, a note that cannot be read or has no row.

        The note is not removed before its copy is kept.

        Raises:
            LeaseLost: the lease was over.
        """
        ...


class Queue(Notes, Protocol):
    """A wake-up for workers.

    Attributes:
        durable: notes survive a restart of this process and of the engine.
        shared: other processes may take from it.
    """

    durable: bool
    shared: bool

    async def take(self) -> Lease:
        """Wait for a note and lease it for `visibility-timeout` seconds.

        Atomic under cancellation: either it returns or nothing was leased. Lanes are served by `LANE_WEIGHTS`, within
        a lane about in order. One wake-up, one call to the engine, serves all waiting takers.
        """
        ...

    async def statistics(self) -> QueueStatistics:
        """Count."""
        ...
