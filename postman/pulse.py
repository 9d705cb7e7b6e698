"""The pulse of the loop: a thread notices when it stands still, and says where.

Everything here happens in one loop, so a plugin that computes, or waits without a checkpoint, holds up all the others.
Leases and deadlines go on by the machine's clock, so that costs time and no promise; but somebody should know why.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import structlog
import trio

_log = structlog.get_logger()

BEAT = 0.25
LIMIT = 2.0
"""Seconds without a beat that are worth a word."""
REMEMBERED = 3_600.0
"""Seconds for which it is told."""


class Pulse:
    """See the module's docstring.

    Args:
        where: what a stack is doing, to follow "the loop stood still".
        limit: see `LIMIT`.
    """

    def __init__(self, where: Callable[[FrameType], str], limit: float = LIMIT) -> None:
        self.seen = ""
        """What the loop is doing while it stands still."""
        self._where = where
        self._limit = limit
        self._beat = time.monotonic()
        self._told_at = 0.0
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """The last time that the loop stood still, in a sentence; empty: not lately."""
        return self._trouble if time.monotonic() < self._told_at + REMEMBERED else ""

    async def run(self) -> None:
        """Beat, and be watched, until cancelled."""
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(threading.get_ident(), ended), name="pulse", daemon=True).start()
        try:
            while True:
                self._beat = time.monotonic()
                await trio.sleep(BEAT)
                self._look_back()
        finally:
            ended.set()

    def _look_back(self) -> None:
        now = time.monotonic()
        stood, self._beat = now - self._beat, now  # before `seen` is emptied, else the watcher would tell it again
        seen, self.seen = self.seen, ""
        if stood < self._limit + BEAT:
            return
        self._told_at = time.monotonic()
        what = f"The loop stood still for {stood:.1f} s at {time.strftime('%H:%M:%S')}"
        if seen:
            self._trouble = f"{what} {seen}: nothing else was sent or answered meanwhile."
        else:
            self._trouble = f"{what}: the whole process was stopped, or the machine had no time for it."
        _log.warning("the loop goes on", seconds=round(stood, 1))

    def _watch(self, loop: int, ended: threading.Event) -> None:
        looked = time.monotonic()
        while not ended.wait(BEAT):
            before, looked = looked, time.monotonic()
            if looked - self._beat < self._limit or looked - before > self._limit / 2 + BEAT or self.seen:
                continue  # all is well, or this thread stood still too, or it is said
            frame = sys._current_frames().get(loop)  # noqa: SLF001  # documented, in spite of its name
            if frame is not None:
                self.seen = self._where(frame)
                _log.warning("the loop stands still; nothing is sent or answered meanwhile", where=self.seen)
