"""Providers that do not open, and those that do not close."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from postman.fleet import CLOSE_LIMIT, OPEN_LIMIT
from tests.reload.house import House, refused


@pytest.mark.parametrize(
    ("opens", "why"),
    [
        ("raises", "did not open: ZeroDivisionError: by zero"),
        ("exits", "did not open: SystemExit: 3"),
        ("refuses", "the key is worn out"),
    ],
)
async def test_when_the_second_of_two_new_providers_does_not_open_the_first_is_closed_again(
    house: House, opens: str, why: str
) -> None:
    house.write("b", "c", f'd\nsettings = {{ opens = "{opens}" }}')
    assert await refused(house) == f'[[provider]] "d": {why}'
    await wait_all_tasks_blocked()
    assert [(account.name, account.open) for account in house.accounts] == [("a", True), ("b", True), ("c", False)]


async def test_a_provider_that_never_opens_is_given_up(house: House, mock_clock: MockClock) -> None:
    house.write("a", "b", 'c\nsettings = { opens = "never" }')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, house)
        await house.opening.wait()
        mock_clock.jump(OPEN_LIMIT)
    assert '[[provider]] "c": did not open within 10 s' in house.reloader.trouble
    assert house.open_accounts() == ["a", "b"]


async def test_a_retired_provider_is_closed_only_when_its_call_in_flight_has_ended(house: House) -> None:
    house.write("a", "b\nweight = 0")
    await house.reloader.reload()
    with await house.postbox.wait_available(0) as turn:
        assert turn.calls()[0].provider == "a"
        with turn.call("a") as carrier:
            house.write("a\ntimeout = 3", "b\nweight = 0")
            assert (await house.reloader.reload()).changed == ("a",)
            await wait_all_tasks_blocked()
            assert house.accounts[0].open
            assert carrier.provider is house.accounts[0]
            with await house.postbox.wait_available(1) as another:
                another.calls()
                with another.call("a") as successor:
                    assert successor.provider is house.accounts[2]
        await wait_all_tasks_blocked()
        assert house.accounts[0].open
    await wait_all_tasks_blocked()
    assert not house.accounts[0].open


async def test_a_provider_that_does_not_close_is_ended_and_holds_up_nothing(
    house: House, mock_clock: MockClock
) -> None:
    house.write('a\nsettings = { closes = "never" }')
    await house.reloader.reload()
    await wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    house.write("b")
    assert (await house.reloader.reload()).removed == ("a",)
    await wait_all_tasks_blocked()
    mock_clock.jump(CLOSE_LIMIT)
    await wait_all_tasks_blocked()
    assert house.open_accounts() == ["b"]
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_the_end_of_the_house_and_a_retirement_may_close_one_provider_both(
    house: House, mock_clock: MockClock
) -> None:
    house.write('a\nsettings = { closes = "never" }', 'b\nsettings = { closes = "raises" }')
    await house.reloader.reload()
    house.write("c")
    await house.reloader.reload()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.fleet.close_all)
        await wait_all_tasks_blocked()
        mock_clock.jump(CLOSE_LIMIT)
    await wait_all_tasks_blocked()
    assert house.open_accounts() == []
