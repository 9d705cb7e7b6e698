"""The workers: each waits for a provider, takes a note, delivers its letter, again and again."""

from __future__ import annotations

import random

import structlog
import trio

from postman.errors import StoreFull, StoreRefused, StoreUnavailable
from postman.failpoint import failpoint
from postman.guard import Guard
from postman.queue import Queue
from postman.sending.delivery import Delivery
from postman.sending.postbox import Postbox
from postman.sending.room import Room

_log = structlog.get_logger()

PAUSES = (0.5, 15.0)
"""Seconds that a worker rests after a failure of a store or of our own: from, to; doubling."""


async def work(number: int, postbox: Postbox, queue: Queue, delivery: Delivery, guard: Guard, room: Room) -> None:
    """Work until cancelled. A delivery that has begun is held by the guard and ends first.

    Nothing that happens to one letter ends the worker: a store that does not answer, or a bug of ours, costs a rest.
    """
    failures = 0
    while True:
        try:
            await _deliver_one(number, postbox, queue, delivery, guard, room)
        except (StoreUnavailable, StoreFull, StoreRefused) as error:
            if not failures:
                _log.warning("a store does not work; nothing is taken meanwhile", worker=number, reason=str(error))
            failures += 1
        except Exception:  # noqa: BLE001  # the worker outlives our own bugs
            _log.exception("a bug of ours; the letter is in the ledger, the clerk will see to it", worker=number)
            failures += 1
        else:
            failures = 0
            continue
        rest = min(PAUSES[1], PAUSES[0] * 2.0 ** min(failures - 1, 10))
        await trio.sleep(rest * random.uniform(0.5, 1.0))  # noqa: S311  # spreads the workers


async def _deliver_one(
    number: int,
    postbox: Postbox,
    queue: Queue,
    delivery: Delivery,
    guard: Guard,
    room: Room,
) -> None:
    with await postbox.wait_available(number) as turn:
        lease = await queue.take()
        with guard.hold() as hold:  # no checkpoint between this and the line above: a taken note is always in hand
            failpoint("W1")
            async with room.take(lease.note.size if lease.note else 0):
                await delivery.deliver(lease, turn, hold)
