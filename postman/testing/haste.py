"""What a service under test does otherwise: called in its process before it starts, see `Program.start`."""

from __future__ import annotations

import os

from postman import clerk, office, roster, status
from postman.backends import rows
from postman.flake import Flake
from postman.sending import postbox


def hasten(overdue: float = 4.0) -> None:
    """Wait a second where it would wait a minute: leases are as long as a call, and the clerk is never far.

    An emulator of SQS is asked with keys of nobody.

    Args:
        overdue: seconds after which a note that nobody saw is taken for lost.
    """
    postbox.LEASE_MARGIN = 0.5
    clerk.PERIOD = 1.0
    rows.OVERDUE = overdue
    os.environ |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}


def lose_patience() -> None:
    """Count mail that is due as mail that waits."""
    status.WAITS = 0.0


def compare_often() -> None:
    """Compare what instances deliver within a second, where it would take minutes."""
    lose_patience()
    office.LOOK = roster.PERIOD = 0.2


def stop_minting_clock() -> None:
    """Let all processes with one node number mint the same ids."""
    Flake.__init__.__defaults__ = (None, lambda: 1_700_000_000.0)
