"""An event that an event source mapping of SQS brings to AWS Lambda, as what a delivery needs of a queue."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import structlog

from postman.errors import ConfigError
from postman.queue import COPY, VERSION, Lease, Note, read_note

_log = structlog.get_logger()


class Record(msgspec.Struct, frozen=True, rename="camel"):
    """A record of an event of SQS: a message."""

    message_id: str
    body: str
    event_source: Literal["aws:sqs"]
    event_source_arn: Annotated[str, msgspec.Meta(pattern="^arn(:[^:]+){5}$")] = msgspec.field(name="eventSourceARN")


class _Event(msgspec.Struct, frozen=True, rename="pascal"):
    records: tuple[Record, ...]


def read_event(event: object, queues: frozenset[str]) -> tuple[Record, ...]:
    """The records of an event.

    Args:
        event: what Lambda brought.
        queues: REGION:NAME of those whose notes are of our ledger.

    Raises:
        ConfigError: it is of something else than one of these queues.
    """
    try:
        records = msgspec.convert(event, _Event).records
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"this is no event of a queue in SQS ({error}); postman.aws_lambda.handler is for an event source mapping,"
            " postman.aws_lambda.clerk for a schedule"
        ) from None
    for record in records:
        *_, region, _account, name = record.event_source_arn.split(":")
        if f"{region}:{name}" not in queues:
            raise ConfigError(
                f"the event is of {record.event_source_arn}, and [queue] names {', '.join(sorted(queues))}: its notes"
                " may be of another ledger"
            )
    return records


class Records:
    """The records of an event as what a delivery needs of a queue, see `queue.Notes`. Waits for nothing.

    Attributes:
        waiting: leases that nobody has in hand yet. A handle is the number of the record.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._done: set[int] = set()
        self._again: dict[int, tuple[float, Note]] = {}
        leases = [Lease(read_note(record.body), number) for number, record in enumerate(records)]
        self.waiting = deque(lease for lease in leases if lease.note is None or lease.note.version == VERSION)
        if unknown := len(leases) - len(self.waiting):
            _log.warning("notes of a newer version are left to those who know it", notes=unknown)

    def next(self) -> Lease | None:
        """Take one in hand; None: others have the last."""
        return self.waiting.popleft() if self.waiting else None

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        """Asked for by whoever has lost a lease, which no one can here."""
        raise AssertionError(notes, delay)

    async def ack(self, lease: Lease) -> None:
        """Have it deleted."""
        self._done.add(lease.handle)

    async def release(self, lease: Lease, delay: float = 0) -> None:
        """Have it put again, see `again`."""
        if lease.note is not None:
            self._again[lease.handle] = delay, lease.note

    async def bury(self, lease: Lease, reason: str) -> None:
        """Have it deleted; the copy is a line of the log."""
        record = self._records[lease.handle]
        _log.warning("a note is buried here", message=record.message_id, note=record.body[:COPY], reason=reason)
        await self.ack(lease)

    def leave(self, delay: float) -> None:
        """Have put again what nobody took in hand."""
        self._again |= {lease.handle: (delay, lease.note) for lease in self.waiting if lease.note is not None}

    def again(self) -> dict[float, list[Note]]:
        """The notes to be put, by their delay in seconds."""
        notes: defaultdict[float, list[Note]] = defaultdict(list)
        for delay, note in self._again.values():
            notes[delay].append(note)
        return notes

    def was_put(self, delay: float) -> None:
        """The notes with this delay were put."""
        self._done |= {number for number, (each, _) in self._again.items() if each == delay}

    def failed(self) -> list[str]:
        """The ids of the messages that must be shown again."""
        return [record.message_id for number, record in enumerate(self._records) if number not in self._done]
