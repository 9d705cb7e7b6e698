"""Signals at every moment of a life, told to an `Orders` as the system would tell them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import structlog.testing
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from postman import orders
from postman.errors import StoreBroken
from postman.orders import SAME_WISH, Orders


class Told:
    """An `Orders` that is told signals.

    Attributes:
        forced: why the process was ended by force.
        reloads: how often one was asked for.
    """

    def __init__(self, signals: trio.MemorySendChannel[int]) -> None:
        self.forced: list[str] = []
        self.ended = threading.Event()
        self.reloads = 0
        self.orders = Orders(self._force)
        self._signals = signals

    def opened(self, grace: float = 30.0) -> None:
        self.orders.opened(lambda: grace, self._reload)

    async def tell(self, *numbers: int) -> None:
        for number in numbers:
            await self._signals.send(number)
        await wait_all_tasks_blocked()

    def _force(self, why: str) -> None:
        self.forced.append(why)
        self.ended.set()

    def _reload(self) -> None:
        self.reloads += 1


@pytest.fixture
async def told() -> AsyncGenerator[Told]:
    async with listening() as told:
        yield told


@asynccontextmanager
async def listening() -> AsyncGenerator[Told]:
    send, receive = trio.open_memory_channel[int](100)
    told = Told(send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.orders.obey, receive)
        yield told
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_all_is_opened_cuts_that_short(told: Told, number: int) -> None:
    with told.orders.opening:
        await told.tell(number)
        await trio.sleep_forever()
    assert told.orders.end.is_set()
    assert told.orders.failure is None


async def test_once_all_is_open_a_signal_cuts_nothing_and_whoever_waits_for_the_end_is_told(told: Told) -> None:
    with told.orders.opening as opening:
        told.opened()
        await told.tell(signal.SIGTERM)
        await told.orders.end.wait()
    assert not opening.cancelled_caught


async def test_reloads_that_are_asked_for_before_one_can_be_had_are_one_afterwards(told: Told) -> None:
    await told.tell(signal.SIGHUP, signal.SIGHUP)
    assert told.reloads == 0
    told.opened()
    assert told.reloads == 1
    await told.tell(signal.SIGHUP)
    assert told.reloads == 2


async def test_nobody_asks_for_a_reload_of_what_ends(told: Told) -> None:
    told.opened()
    await told.tell(signal.SIGTERM, signal.SIGHUP)
    assert told.reloads == 0
    assert told.orders.end.is_set()
    assert told.forced == [], "a SIGHUP is no second wish for the end"


async def test_the_same_wish_told_twice_is_one_and_a_later_one_ends_the_process(
    told: Told, mock_clock: MockClock
) -> None:
    told.opened()
    await told.tell(signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    mock_clock.jump(SAME_WISH)
    await told.tell(signal.SIGTERM)
    assert told.forced == []
    mock_clock.jump(0.01)
    await told.tell(signal.SIGINT)
    assert told.forced == ["a second signal"]


async def test_a_second_signal_ends_also_what_is_still_opened(told: Told, mock_clock: MockClock) -> None:
    with told.orders.opening, trio.CancelScope(shield=True):  # a disk that hangs
        await told.tell(signal.SIGTERM)
        mock_clock.jump(2 * SAME_WISH)
        await told.tell(signal.SIGTERM)
    assert told.forced == ["a second signal"]


@pytest.mark.parametrize("opened", [False, True])
async def test_what_does_not_end_by_itself_is_ended_by_a_thread_though_the_loop_hangs(
    opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "EXIT_MARGIN", 0.02)
    async with listening() as told:
        if opened:
            told.opened(grace=0.02)
        await told.tell(signal.SIGTERM)
        assert told.ended.wait(10)  # the loop stands still meanwhile
        assert told.forced == ["something hangs"]


async def test_a_store_that_is_broken_asks_for_the_end_and_is_why_it_came(told: Told, mock_clock: MockClock) -> None:
    broken = StoreBroken("the disk failed")
    told.opened()
    with structlog.testing.capture_logs() as logs:
        told.orders.fail(broken)
        told.orders.fail(StoreBroken("again"))
    assert told.orders.failure is broken
    assert [(log["event"], log["reason"]) for log in logs] == [("stopping", "the disk failed")]
    mock_clock.jump(2 * SAME_WISH)
    await told.tell(signal.SIGTERM)
    assert told.forced == ["a second signal"], "whoever does not want to wait need not"


async def test_what_ends_because_somebody_asked_is_no_failure_whatever_breaks_meanwhile(told: Told) -> None:
    told.opened()
    await told.tell(signal.SIGTERM)
    told.orders.fail(StoreBroken("the disk failed"))
    assert told.orders.failure is None


def test_the_end_by_force_is_code_1_and_the_log_is_written_out_though_threads_and_exit_handlers_hang() -> None:
    hanging = (
        "import atexit, threading, time; from postman import logs, orders; logs.configure('info', hide=str)\n"
        "atexit.register(time.sleep, 60); threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "orders.end_now('a test')"
    )
    ran = subprocess.run([sys.executable, "-c", hanging], capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 1
    assert '"why": "a test"' in ran.stderr
