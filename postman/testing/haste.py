"""A service that waits a second where it would wait a minute, so that a crash can be seen through in a test."""

from __future__ import annotations

import os

from postman import clerk, postbox
from postman.backends import rows


def hasten(overdue: float = 4.0) -> None:
    """For `Program.start(before=hasten)`: leases are as long as a call, and the clerk is never far.

    An emulator of SQS is asked with keys of nobody.

    Args:
        overdue: seconds after which a note that nobody saw is taken for lost.
    """
    postbox.LEASE_MARGIN = 0.5
    clerk.PERIOD = 1.0
    rows.OVERDUE = overdue
    os.environ |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
