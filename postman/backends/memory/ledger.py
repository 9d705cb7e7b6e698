"""The ledger that forgets when the process ends: for trying out and for tests. It finds by looking at everything."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
import trio

from postman import transitions
from postman.backends import rows
from postman.hookspecs import hookimpl
from postman.kind import Kind, Surroundings
from postman.ledger import (
    Accepted,
    Call,
    Claim,
    Ended,
    Filter,
    Instance,
    Ledger,
    LedgerSettings,
    LedgerStatistics,
    Overdue,
    Pause,
    Unclaimable,
    Which,
)
from postman.mail import Id, Letter
from postman.movable import Stored, UsedKey
from postman.provider import Receipt
from postman.queue import MAX_DELAY
from postman.row import BODY_NOT_NEEDED, End, Now, Policy, Row, State, Verb, present


class MemoryLedger:
    """See `postman.ledger.Ledger`. Lost with the process."""

    durable = False
    shared = False

    def __init__(self, policy: Policy | None = None, clock: Callable[[], Now] = present) -> None:
        self.policy = policy or Policy()
        self._clock = clock
        self._rows = MemoryRows()
        self._pauses: dict[str, Pause] = {}

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        """See `Ledger.accept`."""
        await trio.lowlevel.checkpoint()
        now = self._clock()
        parcels = rows.parcels(letters, client, self.policy, now)
        return rows.accept(self._rows, parcels, client, key, fingerprint, policy=self.policy, now=now)

    async def claim(
        self, id: Id, calls: Sequence[Call], after: Ended | None = None, *, owner: str = ""
    ) -> Claim | Unclaimable:
        """See `Ledger.claim`."""
        await trio.lowlevel.checkpoint()
        return rows.claim(self._rows, id, calls, after, owner=owner, policy=self.policy, now=self._clock())

    async def finish(self, claim: Claim, end: End) -> Row:
        """See `Ledger.finish`."""
        await trio.lowlevel.checkpoint()
        return rows.finish(self._rows, claim, end, self.policy, self._clock())

    async def settle(self, id: Id, receipt: Receipt, source: str) -> Row | None:
        """See `Ledger.settle`."""
        await trio.lowlevel.checkpoint()
        return rows.settle(self._rows, id, receipt, source, self._clock())

    async def act(self, ids: Sequence[Id], verb: Verb, who: str) -> Mapping[Id, tuple[Row, bool]]:
        """See `Ledger.act`."""
        await trio.lowlevel.checkpoint()
        return rows.act(self._rows, ids, verb, who, self.policy, self._clock())

    async def read(self, id: Id, client: str | None) -> Row | None:
        """See `Ledger.read`."""
        await trio.lowlevel.checkpoint()
        return rows.shown(self._rows.get(id), client)

    async def find(self, filter: Filter, after: Id | None, limit: int) -> Sequence[Row]:
        """See `Ledger.find`."""
        await trio.lowlevel.checkpoint()
        found = (
            row
            for row in self._rows.labelled(rows.labels_of(filter))
            if rows.matches(row, filter) and (after is None or row.id < after)
        )
        return heapq.nlargest(limit, found, key=lambda row: row.id)

    async def overdue(self, limit: int) -> Overdue:
        """See `Ledger.overdue`."""
        await trio.lowlevel.checkpoint()
        now = self._clock()
        wakes = {State.QUEUED: now.wall, State.SENDING: now.steady, State.IN_DOUBT: now.wall}
        lists: dict[str, list[tuple[float, Id, Row]]] = defaultdict(list)
        for row in self._rows.live():
            if row.state in wakes and (wake := transitions.wake(row, self.policy)) <= wakes[row.state]:
                lists[row.state].append((wake, row.id, row))
            if row.state is State.QUEUED and row.due <= (now.wall - rows.OVERDUE if row.put else now.wall + MAX_DELAY):
                lists["waiting" if row.put else "unput"].append((row.due, row.id, row))
        lapsed, doubtful, aged, unput, waiting = (
            tuple(row for _, _, row in heapq.nsmallest(limit, lists[name]))
            for name in (State.SENDING, State.IN_DOUBT, State.QUEUED, "unput", "waiting")
        )
        return Overdue(lapsed, doubtful, aged, unput, waiting)

    async def sweep(self, limit: int) -> int:
        """See `Ledger.sweep`."""
        await trio.lowlevel.checkpoint()
        wall = self._clock().wall
        return self._rows.sweep(wall - self.policy.retention, wall - self.policy.key_retention, limit)

    async def pause(self, provider: str, who: str | None) -> None:
        """See `Ledger.pause`."""
        await trio.lowlevel.checkpoint()
        if who is None:
            self._pauses.pop(provider, None)
        else:
            self._pauses[provider] = Pause(provider, self._clock().wall, who)

    async def pauses(self) -> Sequence[Pause]:
        """See `Ledger.pauses`."""
        await trio.lowlevel.checkpoint()
        return tuple(self._pauses.values())

    async def enrol(self, instance: Instance) -> Sequence[Instance]:
        """See `Ledger.enrol`."""
        await trio.lowlevel.checkpoint()
        return (msgspec.structs.replace(instance, at=self._clock().wall),)

    async def statistics(self) -> LedgerStatistics:
        """See `Ledger.statistics`."""
        await trio.lowlevel.checkpoint()
        return self._rows.statistics(self._clock().wall)

    async def letters(self, ids: Sequence[Id]) -> Mapping[Id, Letter]:
        """See `Movable.letters`."""
        await trio.lowlevel.checkpoint()
        return rows.letters(self._rows, ids)

    async def keys(self, cursor: str, limit: int) -> tuple[Sequence[UsedKey], str]:  # noqa: ARG002  # all at once
        """See `Movable.keys`."""
        await trio.lowlevel.checkpoint()
        return self._rows.keys(), ""

    async def let_go(self, written: Sequence[Row], removal: str) -> frozenset[Id]:
        """See `Movable.let_go`."""
        await trio.lowlevel.checkpoint()
        return rows.let_go(self._rows, written, removal, self._clock())

    async def take_in(self, letters: Sequence[Stored]) -> frozenset[Id]:
        """See `Movable.take_in`."""
        await trio.lowlevel.checkpoint()
        return rows.take_in(self._rows, rows.repacked(letters))

    async def take_keys(self, keys: Sequence[UsedKey]) -> None:
        """See `Movable.take_keys`."""
        await trio.lowlevel.checkpoint()
        rows.take_keys(self._rows, keys)


class MemoryRows:
    """Rows, bodies, labels and keys as dictionaries; see `postman.backends.rows.Rows`."""

    def __init__(self) -> None:
        self._live: dict[Id, Row] = {}
        self._ended: dict[Id, Row] = {}
        self._bodies: dict[Id, bytes] = {}
        self._labels: dict[Id, frozenset[tuple[Which, str]]] = {}
        self._labelled: dict[tuple[Which, str], set[Id]] = defaultdict(set)
        self._keys: dict[tuple[str, str], tuple[float, rows.Used]] = {}
        self._counts: Counter[State] = Counter()
        self._doubled = 0

    def count(self, state: State) -> int:
        """See `Rows.count`."""
        return self._counts[state]

    def get(self, id: Id) -> Row | None:
        """See `Rows.get`."""
        return self._live.get(id) or self._ended.get(id)

    def known(self, id: Id) -> bool:
        """See `Rows.known`."""
        return self.get(id) is not None

    def body(self, id: Id) -> bytes | None:
        """See `Rows.body`."""
        return self._bodies.get(id)

    def add(self, parcel: rows.Parcel) -> None:
        """See `Rows.add`."""
        row = parcel.row
        self._live[row.id] = row
        self._bodies[row.id] = parcel.body
        self._labels[row.id] = parcel.labels
        for label in parcel.labels:
            self._labelled[label].add(row.id)
        self._counts[row.state] += 1

    def write(self, row: Row, before: Row) -> None:
        """See `Rows.write`."""
        self._counts[before.state] -= 1
        self._counts[row.state] += 1
        self._doubled += (row.receipts > 1) - (before.receipts > 1)
        del (self._ended if before.state.ended else self._live)[row.id]
        (self._ended if row.state.ended else self._live)[row.id] = row
        if row.state in BODY_NOT_NEEDED:
            self._bodies.pop(row.id, None)

    def used(self, client: str, key: str) -> rows.Used | None:
        """See `Rows.used`."""
        _, used = self._keys.get((client, key), (0.0, None))
        return used

    def remember(self, client: str, key: str, used: rows.Used, now: Now) -> None:
        """See `Rows.remember`."""
        self._keys[client, key] = now.wall, used

    def keys(self) -> list[UsedKey]:
        """All that are remembered."""
        return [UsedKey(client, key, *used, at) for (client, key), (at, used) in self._keys.items()]

    def live(self) -> Iterator[Row]:
        """The rows that have not ended."""
        return iter(self._live.values())

    def labelled(self, labels: Sequence[tuple[Which, str]]) -> Iterator[Row]:
        """The rows with all of these labels."""
        if not labels:
            return itertools.chain(self._live.values(), self._ended.values())
        ids = set.intersection(*(self._labelled.get(label, set()) for label in labels))
        return (row for id in ids if (row := self.get(id)) is not None)

    def sweep(self, ended_before: float, keyed_before: float, limit: int) -> int:
        """Delete rows that ended, and keys that came, at or before these times; at most `limit` in all."""
        ids = [row.id for row in self._ended.values() if row.since <= ended_before][:limit]
        for id in ids:
            row = self._ended.pop(id)
            self._bodies.pop(id, None)
            for label in self._labels.pop(id):
                self._labelled[label].discard(id)
                if not self._labelled[label]:
                    del self._labelled[label]
            self._counts[row.state] -= 1
            self._doubled -= row.receipts > 1
        keys = [key for key, (at, _) in self._keys.items() if at <= keyed_before][: limit - len(ids)]
        for key in keys:
            del self._keys[key]
        return len(ids) + len(keys)

    def statistics(self, wall: float) -> LedgerStatistics:
        """Counts."""
        dues = (row.due for row in self._live.values() if row.state is State.QUEUED and row.due <= wall)
        return LedgerStatistics(+self._counts, min(dues, default=None), self._doubled)


@asynccontextmanager
async def open_ledger(settings: LedgerSettings, _surroundings: Surroundings) -> AsyncGenerator[Ledger]:
    """Open `memory:`."""
    yield MemoryLedger(settings.policy)


@hookimpl
def postman_register() -> Kind[LedgerSettings, Ledger]:
    """The ledger `memory`."""
    return Kind(name="memory", settings=LedgerSettings, open=open_ledger, durable=False)
