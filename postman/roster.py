"""Who delivers how much: the workers of this process, and the instances on one ledger.

Counted is only while mail waits and can leave: then whoever could deliver would, and one that delivers much less than
the others hangs, starves, or has a slow provider. Who has nothing to do is not to blame.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import trio

from postman.ledger import Instance, Ledger
from postman.sending.postbox import Postbox

PERIOD = 15.0
"""Seconds of a round."""
ROUNDS = 20
"""So many rounds in which mail waited are looked at: five minutes."""
MUCH_LESS = 0.2
"""Of what the others' pace makes: who delivered less is named."""
ENOUGH = 20.0
"""Mails that the others' pace must make before anybody is named."""
SILENT = 60.0
"""Seconds after which an instance that said nothing hangs or is dead."""
NAMED = 3
"""So many workers, or silent instances, are named one by one."""


class Share(NamedTuple):
    """What one delivered, in so many seconds of a worker's time."""

    name: str
    delivered: int
    seconds: float


def lagging(shares: Sequence[Share]) -> Iterator[tuple[Share, float]]:
    """Those that delivered much less than the others did on average, each with what the others' pace makes."""
    delivered, seconds = sum(share.delivered for share in shares), sum(share.seconds for share in shares)
    for share in shares:
        others = seconds - share.seconds
        pace = (delivered - share.delivered) / others if others > 0 else 0.0
        expected = pace * share.seconds
        if expected >= ENOUGH and share.delivered < MUCH_LESS * expected:
            yield share, expected


class Roster:
    """Counts, and exchanges counts with the other instances through the ledger.

    Args:
        ledger: where instances find each other.
        postbox: knows what its workers do.
        workers: how many there are.
        only: see `config.Loaded`; "": all.
    """

    def __init__(
        self,
        ledger: Ledger,
        postbox: Postbox,
        *,
        workers: int,
        only: str,
    ) -> None:
        self._ledger = ledger
        self._postbox = postbox
        self._round_at = trio.current_time()
        self._before = [0] * workers
        self._rounds: deque[tuple[list[int], float]] = deque(maxlen=ROUNDS)
        self._waits = False
        self._began = math.inf
        """By the ledger's clock."""
        self._has_replaced = False
        self.me = Instance(
            id=secrets.token_hex(8), name=socket.gethostname(), pid=os.getpid(), only=only, workers=workers
        )
        self.instances: Sequence[Instance] = ()

    async def look(self, *, waits: bool, at_once: bool = False) -> None:
        """End a round, if it is time, and tell the others.

        Args:
            waits: mail waits on the queue.
            at_once: tell them though it is not time.

        Raises:
            StoreError: the ledger does not answer.
        """
        self._waits = waits
        if self.me.left:
            return
        seconds = trio.current_time() - self._round_at
        if seconds >= PERIOD or not self.instances:
            self._end_round(seconds, waits=waits)
        elif not at_once:
            return
        found = await self._ledger.enrol(self.me)
        now = next((each.at for each in found if each.id == self.me.id), 0.0)
        self._began = min(self._began, now)
        replaced = self._replaced(found, now)
        for each in replaced:
            await self._ledger.enrol(msgspec.structs.replace(each, left=True))
        self.instances = [each for each in found if not (each.left or each in replaced)]

    def _replaced(self, found: Sequence[Instance], now: float) -> Sequence[Instance]:
        """In whose place this instance was started, so that nobody has to be told of them.

        All that fell silent before on its machine, as in a loop of crashes; or one on another, which may be gone.
        """
        alike = [each for each in found if each.only == self.me.only]
        silent = [each for each in alike if each.at < self._began and now - each.at > SILENT]
        here = [each for each in silent if each.name == self.me.name]
        if silent and not here and not self._has_replaced:
            here = [max(silent, key=lambda each: each.at)]
        self._has_replaced |= bool(here)
        return here

    def _end_round(self, seconds: float, *, waits: bool) -> None:
        now = self._postbox.delivered()
        if waits and self._postbox.available():
            self._rounds.append(([after - before for after, before in zip(now, self._before, strict=True)], seconds))
        self._before, self._round_at = now, trio.current_time()
        delivered = sum(sum(counts) for counts, _ in self._rounds)
        seconds = sum(seconds for _, seconds in self._rounds)
        self.me = msgspec.structs.replace(self.me, delivered=delivered, seconds=round(seconds, 1))

    async def leave(self) -> None:
        """Say that this instance has ended in good order.

        Raises:
            StoreError: the ledger does not answer.
        """
        self.me = msgspec.structs.replace(self.me, left=True)
        await self._ledger.enrol(self.me)

    def sentences(self) -> Iterator[str]:
        """Who delivers much less than the others, and what it does."""
        now = max((instance.at for instance in self.instances), default=0.0)
        heard = [instance for instance in self.instances if now - instance.at <= SILENT]
        # While none waits, all may be well: functions in AWS Lambda deliver, and are not on the roster.
        if self._waits and heard and not any(instance.workers for instance in heard):
            yield (
                "Mail waits and nobody delivers it: all instances on this ledger that are heard of run with --only"
                " http. Start one with --only workers; if AWS Lambda delivers, see the logs of its functions."
            )
        silent = [instance for instance in self.instances if instance not in heard]
        for instance in silent[:NAMED]:
            yield (
                f"Instance {_name(instance)} has said nothing for {now - instance.at:.0f} s: it hangs, was killed, or"
                " does not reach the ledger; its log may say why. What it was sending is in doubt when its leases are"
                " over; the rest is left to the others. Start another one in its place."
            )
        if len(silent) > NAMED:
            yield f"So have {len(silent) - NAMED} more instances; `postman status --json` lists them."
        for share, expected in lagging([_share(instance) for instance in heard]):
            yield (
                f"Instance {share.name} delivered {share.delivered} mails in the last minutes in which mail waited,"
                f" where the pace of the others makes {expected:.0f}. Its log, and its own status, may say why."
            )
        yield from self._about_workers()

    def _about_workers(self) -> Iterator[str]:
        seconds = sum(seconds for _, seconds in self._rounds)
        counts = [sum(of_worker) for of_worker in zip(*(counts for counts, _ in self._rounds), strict=True)]
        behind = list(lagging([Share(f"{number}", count, seconds) for number, count in enumerate(counts)]))
        if not behind:
            return
        doing = {f"{call.worker}": f"asks {call.provider}, for {call.seconds:.0f} s" for call in self._postbox.asking()}
        told = [f"{share.name} ({doing.get(share.name, 'asks nobody now')})" for share, _ in behind[:NAMED]]
        more = f" and {len(behind) - NAMED} more" if len(behind) > NAMED else ""
        most, expected = max(share.delivered for share, _ in behind), max(expected for _, expected in behind)
        yield (
            f"Of the workers here, {', '.join(told)}{more} delivered {most} mails or fewer each in the last minutes in"
            f" which mail waited, where the pace of the others makes {expected:.0f}."
        )


def _share(instance: Instance) -> Share:
    return Share(_name(instance), instance.delivered, instance.workers * instance.seconds)


def _name(instance: Instance) -> str:
    return f"{instance.name} (pid {instance.pid})"
