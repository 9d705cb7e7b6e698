"""moto's server with SQS alone, whose clock is ahead by what a file says. Run by `sqs_server`; PORT and the file."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from moto.server import main
from moto.sqs import models

LOOK = 0.005
"""Seconds between two looks of a call that waits for messages; moto itself looks each second."""


def run(port: str, ahead: Path) -> None:
    """Serve until killed."""
    for place, name, replacement in (
        (models, "unix_time_millis", lambda: (time.time() + float(ahead.read_text())) * 1_000),
        (models.Queue, "wait_for_messages", lambda _queue, _seconds: time.sleep(LOOK)),
    ):
        if not hasattr(place, name):
            raise RuntimeError(f"this moto has no {name}; look for its clock anew")
        setattr(place, name, replacement)
    main(["-H", "127.0.0.1", "-p", port])


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
