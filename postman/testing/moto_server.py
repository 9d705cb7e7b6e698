"""moto's server with SQS alone, whose clock is ahead by what a file says. Run by `sqs_server`; PORT and the file.

moto looks at the clock some times for each message of a queue, and at all messages for each that is sent or received:
so the file is mapped into memory, not read.
"""

from __future__ import annotations

import sys
import time
from mmap import ACCESS_READ, mmap
from pathlib import Path

from moto.server import main
from moto.sqs import models

from postman.testing.sqs_server import AHEAD

LOOK = 0.005
"""Seconds between two looks of a call that waits for messages; moto itself looks each second."""


def run(port: str, ahead: Path) -> None:
    """Serve until killed."""
    with ahead.open("rb") as file:
        mapped = mmap(file.fileno(), AHEAD.size, access=ACCESS_READ)
    for place, name, replacement in (
        (models, "unix_time_millis", lambda: (time.time() + AHEAD.unpack(mapped)[0]) * 1_000),
        (models.Queue, "wait_for_messages", lambda _queue, _seconds: time.sleep(LOOK)),
    ):
        if not hasattr(place, name):
            raise RuntimeError(f"this moto has no {name}; look for its clock anew")
        setattr(place, name, replacement)
    main(["-H", "127.0.0.1", "-p", port])


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
