"""Many reloads, at once and one after the other."""

from __future__ import annotations

import gc
import threading
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from postman.errors import ConfigError
from postman.registry import Setup
from tests.reload.house import House


async def test_a_hundred_reloads_at_once_are_at_most_two_and_all_see_the_last_file(house: House) -> None:
    reading, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def wait() -> None:
        token.run_sync_soon(reading.set)
        assert go_on.wait(10)

    house.on_read = wait
    seen: list[bool] = []

    async def reload_and_look() -> None:
        await house.reloader.reload()
        seen.append("c" in house.names())

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(house.reloader.reload)
        await reading.wait()
        for _ in range(50):
            nursery.start_soon(reload_and_look)
        await wait_all_tasks_blocked()
        house.write("a", "b", "c")
        go_on.set()
    assert house.reads <= 1 + 2
    assert seen == [True] * 50


async def test_who_waited_for_a_reload_that_was_cancelled_reloads_in_its_place(house: House) -> None:
    reading, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def wait() -> None:
        token.run_sync_soon(reading.set)
        assert go_on.wait(10)

    await house.reloader.reload()
    house.on_read = wait
    house.write("a", "b", "c")
    scopes: dict[trio.lowlevel.Task | None, trio.CancelScope] = {}
    added: list[tuple[str, ...]] = []

    async def reload() -> None:
        with trio.CancelScope() as scope:
            scopes[trio.lowlevel.current_task()] = scope
            added.append((await house.reloader.reload()).added)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        nursery.start_soon(reload)
        await reading.wait()
        scopes[house.reloader._lock.statistics().owner].cancel()
        go_on.set()
    assert added == [("c",)]


async def test_a_thousand_reloads_leave_tasks_descriptors_connections_and_memory_flat(house: House) -> None:
    connected = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connected
        connected += 1
        with trio.move_on_after(60):
            async for _ in stream:
                pass
        connected -= 1
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        variants: list[Setup] = []
        for providers in (
            ("a", f"b\nsettings = {{ connects = {port} }}", "c"),
            (f"b\nsettings = {{ connects = {port} }}\ntimeout = 3", "c\nweight = 0", "a\nrate = 9"),
            ("a", f"d\nsettings = {{ connects = {port} }}", 'e\nsettings = { opens = "raises" }'),
        ):
            house.write(*providers)
            variants.append(house.read(house.path))
        turns = cycle(variants)
        house.reloader._read = lambda _: next(turns)

        async def reload(times: int) -> tuple[int, ...]:
            for variant in islice(cycle(variants), times):
                try:
                    report = await house.reloader.reload()
                    assert report.changed or report.added
                except ConfigError:
                    assert variant is variants[2]
                house.accounts.clear()
            await wait_all_tasks_blocked(0.01)
            gc.collect()
            return (
                trio.lowlevel.current_statistics().tasks_living,
                len(list(Path("/proc/self/fd").iterdir())),
                threading.active_count(),
                connected,
                len(gc.get_objects()),
            )

        *before, objects = await reload(102)
        *after, objects_after = await reload(900)
        assert after == before
        assert abs(objects_after - objects) < 300
        nursery.cancel_scope.cancel()
