"""The backlog moves from one ledger to another, in a file: `export` takes it out of the one, `take_in` into the other.

What moves is all that has not ended and is in nobody's hands, each letter with its whole row. What has ended stays. The
idempotency keys go along, all of them: what a client repeats at the new ledger may have been sent from the old one.

    written down  ->  synced, named  ->  let go, if still as written down  ->  closed  ->  taken in, if not there yet

A crash anywhere costs nothing: the same command goes on with the same file. Until the file has its name no letter was
let go; a letter that was let go is in the file; and a file is not taken in before it says which letters were let go.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from postman import transitions
from postman.backlog import Backlog, BacklogError, Contents, Head, Written, drafted, is_written, opened
from postman.clerk import Clerk
from postman.errors import ConfigError
from postman.failpoint import failpoint
from postman.ledger import Filter, Ledger, Pause
from postman.mail import Id
from postman.movable import MOVABLE, Movable, Stored
from postman.queue import MAX_DELAY, Queue
from postman.registry import Setup
from postman.row import Now, Row, State, Verb, present
from postman.stores import open_ledger, open_stores
from postman.wire import ClientFactory

PAGE = 200
"""Rows or keys at once."""
BATCH_SIZE = 8_388_608
"""Bytes of letters at once; a larger one goes alone."""


class Exported(msgspec.Struct, frozen=True):
    """What an export did.

    Attributes:
        mails: that are in the file, and not in the ledger any more.
        keys: idempotency keys in the file.
        left: mails that have not ended and are in the ledger still, by state.
        before: the file was complete already; nothing was moved now.
    """

    mails: int
    keys: int
    left: Mapping[State, int]
    before: bool = False


class TakenIn(msgspec.Struct, frozen=True):
    """What an import did.

    Attributes:
        mails: that are new in the ledger.
        there: mails that were there already; they were left as they are.
        keys: idempotency keys of the file; all of them are in the ledger now.
        paused: providers that were paused where the mails come from, and are now here (`*`: all).
    """

    mails: int
    there: int
    keys: int
    paused: tuple[str, ...] = ()


async def export(setup: Setup, path: Path) -> Exported:
    """Move what has not ended from the ledger into the file; go on if that was begun.

    Raises:
        BacklogError: the file cannot be written, or is damaged.
        ConfigError: the ledger is not one that letters can leave.
        StoreError: the ledger does not do it.
    """
    async with open_ledger(setup, ClientFactory()) as any_ledger:
        ledger = _movable(any_ledger)
        if not is_written(path):
            await _write_down(ledger, path)
        failpoint("X2")
        with opened(path, to_close=True) as backlog:
            contents = backlog.contents()
            before = contents.left is not None
            if not before:
                left = await _let_go(ledger, backlog, contents.removal)
                backlog.close(left)
                contents = msgspec.structs.replace(contents, left=frozenset(left))
        failpoint("X5")
        states = (await ledger.statistics()).states
    still_here = {state: number for state, number in states.items() if not state.ended and number}
    return Exported(contents.moved, contents.keys, still_here, before)


async def take_in(setup: Setup, path: Path, *, clock: Callable[[], Now] = present) -> TakenIn:
    """Store what is in the file in the ledger, but for what is there.

    Args:
        setup: where to.
        path: of the file.
        clock: the time.

    Raises:
        BacklogError: the file is damaged, its export has not ended, or it was from this very ledger.
        ConfigError: the ledger is not one that letters can come to.
        StoreError: the ledger does not do it.
    """
    with opened(path) as backlog:
        contents = backlog.contents()
        if contents.left is None:
            raise BacklogError(f"the export to {path} was cut short; run `postman export` again with this very file")
        async with open_stores(setup, ClientFactory()) as (any_ledger, queue):
            ledger = _movable(any_ledger)
            await _refuse_source(ledger, backlog, contents)
            await _take_keys(ledger, backlog)
            await _take_pauses(ledger, contents.pauses)
            failpoint("Y1")
            there = await _take_letters(ledger, queue, backlog, contents, clock)
    return TakenIn(contents.moved - there, there, contents.keys, tuple(pause.provider for pause in contents.pauses))


def _movable(ledger: Ledger) -> Movable:
    if not isinstance(ledger, Movable):
        raise ConfigError("[ledger] is of a plugin that mails cannot leave or come to")
    if not (ledger.durable or ledger.shared):
        raise ConfigError("[ledger] is in memory, where each process has one of its own; --config names another file")
    return ledger


async def _write_down(ledger: Movable, path: Path) -> None:
    """Keys come last: one whose letter comes meanwhile is in the file, and a letter whose key is missing is not."""
    await _lapse(ledger)
    with drafted(path) as backlog:
        backlog.write(Head(secrets.token_hex(8), datetime.now(UTC)))
        seen: set[Id] = set()  # a letter whose state changes meanwhile would be found twice
        for state in MOVABLE:
            after = None
            while found := await ledger.find(Filter(state=state), after, PAGE):
                after = found[-1].id
                await _write_letters(ledger, backlog, [row for row in found if row.id not in seen])
                seen.update(row.id for row in found)
        cursor = None
        while cursor != "":
            keys, cursor = await ledger.keys(cursor or "", PAGE)
            for key in keys:
                backlog.write(key)
        backlog.write(Written(tuple(await ledger.pauses())))


async def _lapse(ledger: Movable) -> None:
    """Nobody writes the end of a call whose lease is over: its letter is in doubt, and may move."""
    while lapsed := (await ledger.overdue(PAGE)).lapsed:
        acted = await ledger.act([row.id for row in lapsed], Verb.LAPSE, "export")
        if not any(done for _, done in acted.values()):
            return


async def _write_letters(ledger: Movable, backlog: Backlog, rows: Sequence[Row]) -> None:
    """Write letters but those that have ended meanwhile, and those that are damaged, which stay where they are."""
    for batch in _batches(rows, lambda row: row):
        letters = await ledger.letters([row.id for row in batch])
        for row in batch:
            if row.id in letters:
                backlog.write(Stored(row, letters[row.id]))


async def _let_go(ledger: Movable, backlog: Backlog, removal: str) -> tuple[Id, ...]:
    """Let go what can be read in the file, again or for the first time; what could not be."""
    left: list[Id] = []
    for batch in _batches(backlog.letters(), lambda stored: stored.row):
        gone = await ledger.let_go([stored.row for stored in batch], removal)
        failpoint("X3")
        left += [stored.row.id for stored in batch if stored.row.id not in gone]
    return tuple(left)


async def _refuse_source(ledger: Movable, backlog: Backlog, contents: Contents) -> None:
    """A ledger that let these letters go has their ids still, so it would take none of them back."""
    first = next(_moved(backlog, contents), None)
    row = first and await ledger.read(first.row.id, None)
    if row and transitions.is_gone(row, contents.removal):
        raise BacklogError(
            "these mails were exported from this very ledger, which keeps their ends; --config names another one"
        )


async def _take_keys(ledger: Movable, backlog: Backlog) -> None:
    """Before the letters: else what a client repeats now would be sent twice."""
    for keys in itertools.batched(backlog.keys(), PAGE, strict=False):
        await ledger.take_keys(keys)


async def _take_pauses(ledger: Movable, pauses: Sequence[Pause]) -> None:
    there = {pause.provider for pause in await ledger.pauses()}
    for pause in pauses:
        if pause.provider not in there:
            await ledger.pause(pause.provider, pause.who)


async def _take_letters(
    ledger: Movable, queue: Queue, backlog: Backlog, contents: Contents, clock: Callable[[], Now]
) -> int:
    """Store letters and put their notes, where those last; how many letters were there already."""
    number = 0
    clerk = Clerk(ledger, queue, accounts=frozenset, delivering=bool, wall=lambda: clock().wall)
    for batch in _batches(_moved(backlog, contents), lambda stored: stored.row):
        now = clock()
        come = [Stored(transitions.arrive(stored.row, contents.removal, now), stored.letter) for stored in batch]
        there = await ledger.take_in(come)
        number += len(there)
        failpoint("Y2")
        rows = [stored.row for stored in come if stored.row.id not in there]
        if queue.durable:
            await clerk.put([row for row in rows if row.state is State.QUEUED and row.due <= now.wall + MAX_DELAY])
        failpoint("Y3")
    return number


def _moved(backlog: Backlog, contents: Contents) -> Iterator[Stored]:
    """The letters that are nowhere else."""
    left = contents.left or frozenset()
    return (stored for stored in backlog.letters() if stored.row.id not in left)


def _batches[T](all: Iterable[T], row_of: Callable[[T], Row]) -> Iterator[list[T]]:
    """In their order, as many at once as memory and a transaction can bear."""
    batch: list[T] = []
    size = 0
    for one in all:
        if batch and (len(batch) == PAGE or size + row_of(one).size > BATCH_SIZE):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += row_of(one).size
    if batch:
        yield batch
