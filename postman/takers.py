"""Those who wait for a lease, in the order they came: what all queues have in common."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import outcome
import trio

from postman.queue import Lease


class Takers:
    """Tasks that wait; its length is their number."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tasks)

    async def wait(self, ask: Callable[[], None]) -> Lease:
        """Wait until a lease is given. Cancelled, it was given none.

        Args:
            ask: called once this task is among those who wait, so that somebody looks for a note; it gives none itself.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        self._tasks[task] = None
        ask()

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._tasks[task]
            return trio.lowlevel.Abort.SUCCEEDED

        lease: Lease = await trio.lowlevel.wait_task_rescheduled(abort)
        return lease

    def give(self, lease: Lease) -> bool:
        """Give it to the first; False: nobody waits."""
        if not self._tasks:
            return False
        self._resume(outcome.Value(lease))
        return True

    def fail(self, error: BaseException) -> None:
        """Tell all of them. Each raises an error of its own, since raising writes into it."""
        while self._tasks:
            self._resume(outcome.Error(copy.copy(error)))

    def _resume(self, result: outcome.Outcome[Lease]) -> None:
        task, _ = self._tasks.popitem(last=False)
        trio.lowlevel.reschedule(task, result)
