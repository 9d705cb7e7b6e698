"""The workers of one event: each waits for a provider and delivers a letter, while there are any and time is left."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import trio

from postman.errors import StoreError
from postman.failpoint import failpoint
from postman.guard import Guard
from postman.sending.delivery import Delivery
from postman.sending.postbox import Postbox, Turn
from postman.sending.room import Room
from postman.sqs_event import Records

PATIENCE = 5.0
"""Seconds that a note waits for a provider's limits or breaker: waiting is paid for."""

_log = structlog.get_logger()


@dataclass
class Crew:
    """See the module.

    Attributes:
        records: what is to be delivered.
        postbox: at which each waits for a turn.
        delivery: of one letter.
        guard: holds each delivery together.
        room: bounds what is in memory.
        failed: a store did not do its part; nothing more is begun.
    """

    records: Records
    postbox: Postbox
    delivery: Delivery
    guard: Guard
    room: Room
    failed: bool = False

    async def work(self, count: int, until: float, longest: float) -> None:
        """Deliver with so many workers; begin nothing after `until`, cut what is under way `longest` seconds later."""
        if trio.current_time() >= until:
            _log.warning("opening took the time; no calls are begun: give the function a longer timeout")
            return
        async with trio.open_nursery() as timer:
            with trio.CancelScope() as working:
                timer.start_soon(self._stop, working, until, longest)
                async with trio.open_nursery() as workers:
                    for number in range(count):
                        workers.start_soon(self._work, number)
            timer.cancel_scope.cancel()

    async def _stop(self, working: trio.CancelScope, until: float, longest: float) -> None:
        await trio.sleep_until(until)
        _log.warning("the time is nearly over; no more calls are begun", in_hand=self.guard.held)
        self.guard.drain(longest)
        working.cancel()

    async def _work(self, number: int) -> None:
        while self.records.waiting and not self.failed:
            turn = None
            with trio.move_on_after(PATIENCE):
                turn = await self.postbox.wait_available(number)
            if turn is None:
                return
            with turn:
                await self._deliver_one(turn)

    async def _deliver_one(self, turn: Turn) -> None:
        if (lease := self.records.next()) is None:
            return
        try:
            with self.guard.hold() as hold:
                failpoint("W1")
                async with self.room.take(lease.note.size if lease.note else 0):
                    await self.delivery.deliver(lease, turn, hold)
        except StoreError as error:
            _log.error("the ledger does not work; what is left is shown again", reason=str(error))
            self.failed = True
        except Exception:  # noqa: BLE001  # the others' letters outlive our own bugs
            _log.exception("a bug of ours; the letter is in the ledger, and its note is shown again")
