"""The backlog moves to another ledger while nobody runs: the real export and import, cut at any step and run again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from postman.config import Config, LedgerTable, Loaded, QueueTable
from postman.errors import StoreError
from postman.failpoint import Failure, arm
from postman.kind import Kind, Surroundings
from postman.ledger import LedgerSettings
from postman.queue import Queue, QueueSettings
from postman.registry import Configured, Setup
from postman.removal import export, take_in
from postman.row import Now
from postman.testing.simulation.dice import Dice
from postman.testing.simulation.stores import SimulatedLedger

STEPS = ("X1", "X2", "X3", "X4", "X5", "Y1", "Y2", "Y3")
LOOK = 10.0
"""Seconds between two exports: what a dead instance was sending stays until its lease is over."""
EXPORTS = 100
"""What is left after so many is left for ever, which breaks the law."""


async def move(
    old: SimulatedLedger, new: SimulatedLedger, queue: Queue, *, dice: Dice, clock: Callable[[], Now]
) -> None:
    """Export and import, until nothing that has not ended is left in the old ledger."""
    with TemporaryDirectory() as directory:
        for number in range(EXPORTS):
            path = Path(directory) / f"backlog-{number}"
            exported = await _whatever_cuts_it(partial(export, _setup(old, queue), path), dice)
            await _whatever_cuts_it(partial(take_in, _setup(new, queue), path, clock=clock), dice)
            if not exported.left:
                return
            await trio.sleep(LOOK)


async def _whatever_cuts_it[T](command: Callable[[], Awaitable[T]], dice: Dice) -> T:
    while True:
        arm(f"{dice.choice(STEPS)}=raise" if dice.even() else "")
        try:
            return await command()
        except (Failure, StoreError):  # a queue may be down
            await trio.sleep(1.0)
        finally:
            arm("")


def _setup(ledger: SimulatedLedger, queue: Queue) -> Setup:
    config = Config(ledger=LedgerTable(url="simulated:ledger"), queue=QueueTable(url="simulated:queue"))
    stores = (
        Configured(Kind("ledger", LedgerSettings, _opening(ledger)), LedgerSettings(url=""), "", ""),
        Configured(Kind("queue", QueueSettings, _opening(queue)), QueueSettings(url=""), "", ""),
    )
    return Setup(Loaded(config, Path()), stores[0], stores[1:], ())


def _opening[T](store: T) -> Callable[[object, Surroundings], AbstractAsyncContextManager[T]]:
    @asynccontextmanager
    async def opening(_settings: object, _surroundings: Surroundings) -> AsyncGenerator[T]:
        yield store

    return opening
