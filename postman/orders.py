"""What this process is told by signals, from the first moment on, and its end by force where it ends not by itself.

SIGHUP asks for a reload. The first SIGTERM or SIGINT asks for the end; so does a store that is broken for good. A
second signal ends at once; a watchdog ends what hangs: the loop, an fsync, a disk while it is being opened.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable

import structlog
import trio

from postman import logs
from postman.errors import StoreBroken

_log = structlog.get_logger()

EXIT_MARGIN = 2.0
"""Seconds after `grace` by which the process has ended, whatever hangs."""

SAME_WISH = 0.2
"""Seconds in which a second signal is the first once more: some supervisors tell the process and its group."""


class Orders:
    """What the process was told.

    Args:
        force: ends the process, for the reason that it is given; None: `end_now`.

    Attributes:
        opening: around everything that is done until `opened`; cancelled when the end is asked for meanwhile.
        end: set when the end is asked for.
        failure: why the process ends by itself; None: somebody asked for it.
    """

    def __init__(self, force: Callable[[str], None] | None = None) -> None:
        self._force = force or end_now
        self.opening = trio.CancelScope()
        self.end = trio.Event()
        self.failure: StoreBroken | None = None
        self._stopped_at = 0.0
        self._grace: Callable[[], float] | None = None
        self._reload: Callable[[], None] | None = None
        self._wants_reload = False

    def opened(self, grace: Callable[[], float], reload: Callable[[], None]) -> None:
        """From now on the end is left to whoever waits for it, and a reload can be had; perhaps one was asked for.

        Args:
            grace: seconds that the end may take, but for `EXIT_MARGIN`.
            reload: called at each SIGHUP.
        """
        self._grace, self._reload = grace, reload
        if self._wants_reload:
            reload()

    async def obey(self, signals: AsyncIterator[int]) -> None:
        """Obey, until cancelled."""
        async for number in signals:
            if number == signal.SIGHUP:
                self._wants_reload = True
                if self._reload is not None and not self.end.is_set():
                    self._reload()
            elif not self.end.is_set():
                self._stop(signal=signal.Signals(number).name)
            elif trio.current_time() > self._stopped_at + SAME_WISH:
                self._force("a second signal")

    def fail(self, error: StoreBroken) -> None:
        """End, because only a restart can help."""
        if not self.end.is_set():
            self.failure = error
            self._stop(reason=str(error))

    def _stop(self, **why: str) -> None:
        grace = 0.0 if self._grace is None else self._grace()
        _log.info("stopping", **why, grace=grace)
        self._watch(grace + EXIT_MARGIN)
        self._stopped_at = trio.current_time()
        self.end.set()
        if self._grace is None:
            self.opening.cancel()

    def _watch(self, seconds: float) -> None:
        """A thread of its own, so that it ends the process also when the loop or an fsync hangs."""
        watchdog = threading.Timer(seconds, self._force, ("something hangs",))
        watchdog.daemon = True
        watchdog.start()


def end_now(why: str) -> None:
    """End the process with exit code 1, whatever it is doing."""
    _log.error("ended by force; what was in hand is found in the ledger at the next start", why=why)
    logs.write_out()
    os._exit(1)
