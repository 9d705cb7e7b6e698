"""The clerk: sees to what nobody else sees to. Every process runs one; each step is a compare-and-set, so many may run.

A round, every 15 s and at start, and soon again when there was more than a round may do:

1. `sending` with its lease over            -> in doubt
2. in doubt, and its time has come          -> held, sent again, or failed, by policy
3. queued past `expires-at` or giving up    -> expired, failed
4. queued, due soon, without a note         -> a note is put
5. queued and due for long, while the queue shows fewer notes than wait: they were lost -> put again
6. ended past retention                     -> deleted
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import structlog
import trio

from postman import journal
from postman.errors import StoreError
from postman.ledger import Ledger
from postman.queue import Note, Queue, bounded
from postman.row import Row, State, Verb

_log = structlog.get_logger()

PERIOD = 15.0
SOON = 1.0
"""Seconds to the next round, when this one left something."""
LIMIT = 500
"""Rows of each list in a round."""

OLD = 3_600.0
"""A note that has been due for so long is put again though the queue is not empty, `OLD_LIMIT` a round."""
OLD_LIMIT = 100


class Clerk:
    """Keeps the ledger and the queue in step.

    Args:
        ledger: the truth.
        queue: the wake-up.
        accounts: the accounts of this process's providers; doubt about others is left to who has them, until
            `Policy.doubt_patience` is over.
        delivering: whether letters can leave now; while none can, waiting is no sign of a lost note.
        wall: seconds since 1970.

    Attributes:
        thin_looks: how often in a row the queue showed fewer notes than wait; who runs single rounds hands it on.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        *,
        accounts: Callable[[], frozenset[str]],
        delivering: Callable[[], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._accounts = accounts
        self._delivering = delivering
        self._wall = wall
        self.thin_looks = 0

    async def run(self) -> None:
        """Round after round, until cancelled. A store that does not answer costs this round, not the next."""
        while True:
            more = False
            try:
                more = await self.round()
            except StoreError as error:
                _log.warning("the clerk could not finish a round", reason=str(error))
            except Exception:  # noqa: BLE001  # the clerk outlives its own bugs
                _log.exception("a bug of ours; the clerk goes on with the next round")
            await trio.sleep((SOON if more else PERIOD) * random.uniform(0.8, 1.2))  # noqa: S311  # spreads many instances

    async def round(self) -> bool:
        """One round; whether it had as much to do as a round may."""
        overdue = await self._ledger.overdue(LIMIT)
        lapsed = await self._act(overdue.lapsed, Verb.LAPSE)
        decided = await self._act([row for row in overdue.doubtful if self._may_decide(row)], Verb.DECIDE)
        aged = await self._act(overdue.aged, Verb.AGE)
        await self.put([*overdue.unput, *(row for row in decided if row.state is State.QUEUED)])
        lost = await self._lost(overdue.waiting)
        await self._put(lost)
        swept = await self._ledger.sweep(LIMIT)
        return LIMIT in {len(lapsed), len(decided), len(aged), len(overdue.unput), len(lost), swept}

    async def put(self, rows: Sequence[Row]) -> None:
        """Put notes for rows that became queued, and remember it."""
        await self._put(rows)
        if rows:
            await self._ledger.act([row.id for row in rows], Verb.PUT, "clerk")

    async def _act(self, rows: Sequence[Row], verb: Verb) -> list[Row]:
        if not rows:
            return []
        results = await self._ledger.act([row.id for row in rows], verb, "clerk")
        changed = [row for row, done in results.values() if done]
        for row in changed:
            journal.write(row)
        return changed

    async def _put(self, rows: Sequence[Row]) -> None:
        by_delay: dict[float, list[Note]] = {}
        now = self._wall()
        for row in rows:
            by_delay.setdefault(bounded(row.due - now), []).append(Note(row.id, row.lane, row.size))
        for delay, notes in by_delay.items():
            await self._queue.put(notes, delay)

    async def _lost(self, waiting: Sequence[Row]) -> Sequence[Row]:
        """Rows whose notes were lost, as far as one can tell: a backlog explains waiting, an empty queue does not."""
        if not waiting or not self._delivering():
            self.thin_looks = 0
            return ()
        statistics = await self._queue.statistics()
        shown = sum(statistics.ready) + statistics.delayed + statistics.leased
        self.thin_looks = self.thin_looks + 1 if shown < len(waiting) else 0
        if self.thin_looks >= 2:
            self.thin_looks = int(len(waiting) == LIMIT)  # the others' notes were lost too: one look is enough
            _log.warning("notes were lost; they are put again", mails=len(waiting), notes=shown)
            return waiting
        old = self._wall() - OLD
        return [row for row in waiting if row.due < old][:OLD_LIMIT]

    def _may_decide(self, row: Row) -> bool:
        return row.account in self._accounts() or self._wall() >= row.since + self._ledger.policy.doubt_patience
