"""The bound on bytes in flight."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from postman.sending.room import Room


async def test_letters_wait_for_room_in_the_order_of_asking(autojump_clock: MockClock) -> None:
    room = Room(100)
    entered: list[int] = []

    async def stay(size: int, seconds: float) -> None:
        async with room.take(size):
            entered.append(size)
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        for size in (60, 50, 10):
            nursery.start_soon(stay, size, 1)
            await trio.sleep(0.1)
        assert entered == [60]
        assert room.taken == 60
    assert entered == [60, 50, 10]
    assert room.taken == 0


async def test_a_letter_larger_than_all_of_it_goes_alone(autojump_clock: MockClock) -> None:
    room = Room(100)
    async with trio.open_nursery() as nursery:
        async with room.take(10):
            nursery.start_soon(_stay, room, 1000)
            await trio.sleep(1)
            assert room.taken == 10
        await trio.sleep(1)
        assert room.taken == 1000
        nursery.cancel_scope.cancel()
    assert room.taken == 0


async def test_one_who_gives_up_waiting_takes_no_room(autojump_clock: MockClock) -> None:
    room = Room(100)
    async with room.take(100):
        with trio.move_on_after(1) as scope:
            async with room.take(1):
                pytest.fail("there is no room")
        assert scope.cancelled_caught
    assert room.taken == 0
    async with room.take(100):
        assert room.taken == 100


async def _stay(room: Room, size: int) -> None:
    async with room.take(size):
        await trio.sleep_forever()
