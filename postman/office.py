"""The office: what the way in may ask of the whole house. Status, health, pause, resume and reload."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
import structlog
import trio

from postman import logs, status
from postman.clerk import Clerk
from postman.errors import StoreBroken, StoreError, StoreFull
from postman.guard import Guard
from postman.http.keyring import Keyring
from postman.http.server import Server
from postman.intake import Intake
from postman.ledger import ALL, Ledger, LedgerStatistics, Pause
from postman.pulse import Pulse
from postman.queue import Queue, QueueStatistics
from postman.reload import Reloader
from postman.roster import Roster
from postman.row import Row
from postman.sending.postbox import Postbox
from postman.sending.room import Room

_log = structlog.get_logger()

LOOK = 2.0
"""Seconds between two looks at whether the stores answer and who is paused."""

PATIENCE = 3.0
"""Seconds that a look at a store may take."""

FAREWELL = 0.5
"""Seconds that telling others of our end may take."""


@dataclass(kw_only=True, eq=False)
class Office:
    """Answers for the whole house; the parts do the work."""

    intake: Intake
    ledger: Ledger
    queue: Queue
    postbox: Postbox
    clerk: Clerk
    guard: Guard
    room: Room
    server: Server
    reloader: Reloader
    keyring: Keyring
    pulse: Pulse
    roster: Roster
    on_broken: Callable[[StoreBroken], None]

    def __post_init__(self) -> None:
        """Nothing was looked at yet."""
        self._version = version("postman-mail")  # read now: later there may be no file to open left
        self._started = time.time()
        self._ledger_error = self._queue_error = ""

    async def watch(self) -> None:
        """Look again and again whether the stores answer and whom a person paused, until cancelled.

        An outage is two lines in the log.
        """
        told = ""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001  # deliveries go on without it
                _log.exception("a bug of ours; the next look may work")
            error = self._ledger_error or self._queue_error
            if error and not told:
                _log.warning("a store does not answer", store="ledger" if self._ledger_error else "queue", reason=error)
            if told and not error:
                _log.info("the stores answer again")
            told = error
            await trio.sleep(LOOK)

    async def look(self) -> tuple[LedgerStatistics | None, QueueStatistics | None, Sequence[Pause]]:
        """Look once: the stores' numbers, and who is paused, which is obeyed. None: that store does not answer.

        Pauses are in the ledger, so that they survive a restart and reach every instance.
        """
        doubt = self._ledger_error or self._queue_error or self.intake.failing
        found, ledger_error = await self._asked(self._look_at_ledger)
        queue, queue_error = None, ""
        if found is not None:
            self.postbox.pause(frozenset(pause.provider for pause in found[1]))  # at once: it may change as we wait
            queue, queue_error = await self._asked(self.queue.statistics)
            waits = queue is not None and status.waits(found[0], queue, time.time())
            write = partial(self._write_to_ledger, waits=waits, at_once=bool(doubt or queue_error))
            _, ledger_error = await self._asked(write)
        self._ledger_error, self._queue_error = ledger_error, queue_error
        ledger, pauses = found or (None, ())
        return ledger, queue, pauses

    async def _look_at_ledger(self) -> tuple[LedgerStatistics, Sequence[Pause]]:
        return await self.ledger.statistics(), await self.ledger.pauses()

    async def _write_to_ledger(self, *, waits: bool, at_once: bool) -> None:
        """Write, from time to time, or at once when there is doubt: a store may be read that cannot be written."""
        with suppress(StoreFull):  # the intake tells; sending goes on
            await self.roster.look(waits=waits, at_once=at_once)

    async def _asked[T](self, ask: Callable[[], Awaitable[T]]) -> tuple[T | None, str]:
        """What a store answers; or None, and why not."""
        try:
            with trio.fail_after(PATIENCE):
                return await ask(), ""
        except trio.TooSlowError:
            return None, f"no answer within {PATIENCE:g} s; its disk or its server hangs, or is overloaded"
        except StoreError as error:
            if isinstance(error, StoreBroken):
                self.on_broken(error)
            return None, str(error)

    async def leave(self) -> None:
        """Tell the other instances that this one ends in good order, if the ledger answers."""
        if not self._ledger_error:  # what is asked of a ledger that hangs may have to end before it can be closed
            with trio.move_on_after(FAREWELL), suppress(StoreError):
                await self.roster.leave()

    def unready(self) -> str | None:
        """Why no mail can be accepted now, for anyone to read; None: it can. `status` has the details."""
        if self.guard.draining:
            return "the service is stopping"
        return "the store does not answer" if self._ledger_error else None

    async def status(self) -> dict[str, Any]:
        """The document of `GET /status`."""
        ledger, queue, pauses = await self.look()
        return status.document(
            status.Facts(
                version=self._version,
                now=time.time(),
                started=self._started,
                durable=self.ledger.durable,
                ledger=ledger,
                queue=queue,
                ledger_error=self._ledger_error,
                queue_error=self._queue_error or self.intake.unnoted,
                providers=[carrier.statistics() for carrier in self.postbox.carriers],
                pauses=pauses,
                http=self.server.statistics(),
                held=self.guard.held,
                bytes_in_flight=self.room.taken,
                stopping=self.guard.draining,
                instance=self.roster.me,
                instances=self.roster.instances,
                troubles=[
                    *(part.trouble for part in (self.intake, self.reloader, self.pulse) if part.trouble),
                    *self.roster.sentences(),
                    *logs.sentences(),
                    *self.keyring.sentences(),
                ],
            ),
        )

    async def pause(self, provider: str, who: str) -> bool | None:
        """Begin no more calls of `provider` (`*`: of any); whether it was not paused before. None: there is no such."""
        if provider != ALL and provider not in {carrier.name for carrier in self.postbox.carriers}:
            return None
        before = await self._paused()
        await self.ledger.pause(provider, who)
        await self.look()
        return provider not in before

    async def resume(self, provider: str, who: str) -> bool | None:  # noqa: ARG002  # who resumed is the way in's to log
        """End a pause, also of one that is gone, and ask it at once; whether there was one. None: no such provider."""
        paused = await self._paused()
        ended = paused if provider == ALL else paused & {provider}
        for name in ended:
            await self.ledger.pause(name, None)
        for carrier in self.postbox.carriers:
            if provider in {ALL, carrier.name}:
                carrier.breaker.reset()  # who resumes a provider says that it was mended
        await self.look()
        known = provider in {ALL, *paused, *(carrier.name for carrier in self.postbox.carriers)}
        return bool(ended) if known else None

    async def _paused(self) -> set[str]:
        return {pause.provider for pause in await self.ledger.pauses()}

    async def reload(self) -> dict[str, Any]:
        """Read postman.toml anew; what changed.

        Raises:
            ConfigError: nothing changed, and why.
        """
        report: dict[str, Any] = msgspec.to_builtins(await self.reloader.reload())
        return report

    async def wake(self, rows: Sequence[Row]) -> None:
        """Put notes for rows that a person queued again; those that cannot be put now the clerk will put."""
        try:
            await self.clerk.put(rows)
        except StoreError as error:
            _log.warning("notes were not put; the clerk will", mails=len(rows), reason=str(error))
