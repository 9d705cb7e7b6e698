from __future__ import annotations

import pytest
import trio
import trio.testing

from postman.errors import StoreUnavailable
from postman.queue import Lease
from postman.takers import Takers


async def test_who_came_first_is_given_first_and_who_left_nothing() -> None:
    takers, given = Takers(), dict[str, object]()
    asked: list[int] = []

    async def take(name: str, scope: trio.CancelScope) -> None:
        with scope:
            given[name] = (await takers.wait(lambda: asked.append(len(takers)))).handle

    async with trio.open_nursery() as nursery:
        leaves = trio.CancelScope()
        for name, scope in (("a", trio.CancelScope()), ("b", leaves), ("c", trio.CancelScope())):
            nursery.start_soon(take, name, scope)
            await trio.testing.wait_all_tasks_blocked()
        leaves.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert [takers.give(Lease(None, handle)) for handle in (1, 2, 3)] == [True, True, False]
        leaves.cancel()
    assert (given, asked) == ({"a": 1, "c": 2}, [1, 2, 3])


async def test_who_was_given_a_lease_has_it_though_it_is_cancelled_then() -> None:
    takers = Takers()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def give() -> None:
                assert takers.give(Lease(None, 1))
                scope.cancel()

            lease = await takers.wait(lambda: nursery.start_soon(give))
            assert lease.handle == 1


async def test_all_are_told_of_an_error_each_with_one_of_its_own() -> None:
    takers, errors = Takers(), list[StoreUnavailable]()

    async def take() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await takers.wait(lambda: None)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        takers.fail(StoreUnavailable("gone"))
    assert [str(error) for error in errors] == ["gone", "gone"]
    assert errors[0] is not errors[1]
