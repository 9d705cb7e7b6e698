"""Fair shares between clients: what a client posts beyond its allowance waits in the lane of bulk mail.

Each client has an allowance for mails of high and another for those of normal priority: a burst, which comes back at a
steady rate. So a flood, whatever it calls itself, keeps others waiting for a burst and no longer, and a client's own
password resets do not wait behind its newsletter. It costs nothing while nothing waits: lanes are only an order.

The lane is decided once, and stored with the letter, so every store serves it alike. Queueing by client within each
store would be fairer among floods, but costs every engine a list of clients that is kept with each note put and taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from postman.bucket import Bucket
from postman.mail import Mail, Priority


class Allowances:
    """What each client may have done before bulk mail. Of this process alone; forgotten at its end.

    Args:
        burst: mails of each priority at once.
        rate: mails of each priority a second, from then on.
        several: whether there are other clients to be fair to; while there are none, nothing is changed.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        burst: float,
        rate: float,
        *,
        several: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._several = several
        self._clock = clock
        self._buckets: dict[tuple[str, Priority], Bucket] = {}

    def place(self, client: str, mails: Sequence[Mail]) -> Sequence[Mail]:
        """The mails as they are to be stored: those beyond the client's allowance as bulk."""
        return [mail if self._spend(client, mail.priority) else _as_bulk(mail) for mail in mails]

    def _spend(self, client: str, priority: Priority) -> bool:
        if priority is Priority.BULK or not self._several():
            return True
        bucket = self._buckets.get((client, priority))
        if bucket is None:
            bucket = self._buckets[client, priority] = Bucket(self._rate, self._burst, self._clock)
        if bucket.seconds_until(1):
            return False
        bucket.spend(1)
        return True


def _as_bulk(mail: Mail) -> Mail:
    return msgspec.structs.replace(mail, priority=Priority.BULK)
