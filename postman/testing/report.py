"""What became of every mail: promised to a client, taken by a provider, told by the ledger. Jepsen's total queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import msgspec

from postman.row import Row, State

WAITING = frozenset({State.QUEUED, State.SENDING, State.IN_DOUBT})


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The count.

    Attributes:
        acked: letters that a client was promised.
        accepted: letters that a provider took.
        told: promised letters that no provider took, and whose end or hold the ledger tells.
        waiting: promised letters that no provider took yet.
        lost: promised letters that no provider took and that the ledger does not know, or calls sent.
        unexpected: letters that a provider took and nobody was promised.
        duplicated: second and further copies that providers took.
        recovered: promised letters whose first answer was lost.
    """

    acked: int
    accepted: int
    told: int
    waiting: int
    lost: tuple[str, ...]
    unexpected: tuple[str, ...]
    duplicated: dict[str, int]
    recovered: int

    @property
    def copies(self) -> int:
        """How many copies too many."""
        return sum(self.duplicated.values())

    def table(self) -> str:
        """The count in Markdown."""
        counts = {
            "acked": self.acked,
            "accepted": self.accepted,
            "told (held, rejected, failed, ...)": self.told,
            "waiting": self.waiting,
            "lost": len(self.lost),
            "unexpected": len(self.unexpected),
            "duplicated": self.copies,
            "recovered": self.recovered,
        }
        return "\n".join(["| | letters |", "|---|---:|", *(f"| {name} | {n:,} |" for name, n in counts.items())])


def report(
    acked: Collection[str], accepted: Iterable[str], rows: Iterable[Row], recovered: Collection[str] = ()
) -> Report:
    """Count.

    Args:
        acked: ids that clients were promised.
        accepted: ids that providers took, as often as they took them.
        rows: of the ledger, at the end.
        recovered: ids that were told by a replay alone.
    """
    promised, taken = set(acked), Counter(accepted)
    states = {str(row.id): row.state for row in rows}
    open_ = [states.get(id) for id in promised - taken.keys()]
    lost = sorted(id for id in promised - taken.keys() if states.get(id) in {None, State.SENT})
    waiting = sum(state in WAITING for state in open_)
    return Report(
        acked=len(promised),
        accepted=len(taken),
        told=len(open_) - len(lost) - waiting,
        waiting=waiting,
        lost=tuple(lost),
        unexpected=tuple(sorted(taken.keys() - promised)),
        duplicated={id: count - 1 for id, count in sorted(taken.items()) if count > 1},
        recovered=len(recovered),
    )
