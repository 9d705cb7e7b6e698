"""Logs: structlog to stderr, for people on a terminal, JSON lines otherwise.

Nothing here waits: a line goes to a bounded queue, and a thread of its own writes it. When whoever reads the log stops
reading, lines are dropped and counted, and the mails go on.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import select
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

STDERR = 2

LONGEST = 2_000
"""Characters of a value in a log line; tracebacks may be longer."""

CAPACITY = 1_000
"""Lines that may wait to be written."""

GATHER = 0.02
"""Seconds in which lines gather: waking the thread for each costs more than everything else that is done for it."""

PATIENCE = 1.0
"""Seconds that the end of the process waits for the last lines to be written."""


_writers: list[Writer] = []
"""Those of this process; one, but in tests."""


class Writer:
    """Writes lines from a thread of its own; `write` never blocks, and drops when `capacity` lines wait.

    Args:
        fd: where to.
        capacity: lines that may wait.
    """

    def __init__(self, fd: int, capacity: int = CAPACITY) -> None:
        self.dropped = 0
        self._fd = fd
        self._untold = 0
        self._capacity = capacity
        self._lines: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        """Simple, since a finaliser may log while a line is put; a `Queue` would wait for itself."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Take a line that ends in a newline."""
        if self._lines.qsize() < self._capacity:
            self._lines.put(text.encode(errors="backslashreplace"))
        else:
            self.dropped += 1
            self._untold += 1

    def flush(self) -> None:
        """A file has this; the thread writes as soon as it can."""

    def wait_written(self) -> None:
        """Wait until all lines that were taken are written, for at most `PATIENCE` seconds."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(PATIENCE)

    def close(self, patience: float = PATIENCE) -> None:
        """Write what waits, for at most `patience` seconds."""
        self._lines.put(None)
        self._thread.join(patience)

    def _run(self) -> None:
        last = False
        while not last:
            lines = [self._lines.get()]
            time.sleep(GATHER)
            lines += [self._lines.get() for _ in range(self._lines.qsize())]
            last = None in lines
            try:
                self._write(b"".join(line for line in lines if isinstance(line, bytes)))
                if self._untold and self._lines.empty():
                    untold, self._untold = self._untold, 0
                    self._write(f"{untold} log lines were dropped: nobody read them in time\n".encode())
            except OSError:  # the reader is gone; a service goes on without its log
                self.dropped += len(lines)
            for line in lines:
                if isinstance(line, threading.Event):
                    line.set()

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody made the pipe non-blocking
                select.select([], [self._fd], [])


def configure(
    level: str = "info", *, pretty: bool | None = None, hide: Callable[[str], str] = lambda text: text
) -> None:
    """Send all logs of this process, those of libraries from warnings on, to stderr.

    Args:
        level: debug, info, warning, error or critical.
        pretty: for people, or JSON lines; None: for people when it is a terminal.
        hide: takes out of every text what a log must not hold.
    """
    pretty = os.isatty(STDERR) if pretty is None else pretty
    writer = Writer(STDERR)
    _writers.append(writer)
    atexit.register(writer.close)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(partial(_traced, words=threshold <= logging.DEBUG)),
        partial(sanitise, hide=hide),
    ]
    renderer: Processor = structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=writer),  # type: ignore[arg-type]  # it writes and flushes, no more
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        ),
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


def wait_written() -> None:
    """Wait until what was logged is written, for at most `PATIENCE` seconds; for who is about to be frozen."""
    for writer in _writers:
        writer.wait_written()


def sentences() -> Iterator[str]:
    """What somebody should know of the log."""
    if dropped := sum(writer.dropped for writer in _writers):
        yield (
            f"{dropped} lines of the log were dropped since the start, and the mails went on: whoever reads it stopped"
            " reading, or the disk that it goes to is full."
        )


def write_out() -> None:
    """Write what waits, for at most `PATIENCE` seconds each; for who is about to end the process by force."""
    for writer in _writers:
        writer.close()


def _traced(info: ExcInfo, *, words: bool) -> str:
    return "\n".join(_trace(info[1], words))


def _trace(error: BaseException, words: bool) -> Iterator[str]:  # noqa: FBT001  # one caller
    """A traceback without values of variables, and with the words of exceptions only if asked: they may be a mail's."""
    if cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        yield from _trace(cause, words)
        yield "from that came:"
    yield "Traceback (most recent call last):"
    yield from (line.rstrip("\n") for line in traceback.format_tb(error.__traceback__))
    yield "".join(traceback.format_exception_only(error)).rstrip("\n") if words else type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from (f"  | {line}" for part in _trace(member, words) for line in part.split("\n"))


def sanitise(
    _logger: WrappedLogger, _name: str, event: EventDict, *, hide: Callable[[str], str] = lambda text: text
) -> EventDict:
    """No control characters and no endless values, so that what somebody sent us cannot forge a line."""
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return {
        _escape(key): _clean(value, 10 * LONGEST if key == "exception" else LONGEST, hide)
        for key, value in {**first, **event}.items()
    }


def _clean(value: object, longest: int, hide: Callable[[str], str]) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_clean(item, longest, hide) for item in value[:100]]
    text = hide(str(value))
    if longest > LONGEST:  # a traceback: its own line breaks are ours
        return "\n".join(_escape(line) for line in text[:longest].splitlines())
    return _escape(text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)")


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
