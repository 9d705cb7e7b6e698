from __future__ import annotations

import threading

import trio
import trio.testing

from postman.lookups import MAX_LOOKUPS, Lookups


async def test_look_ups_find_what_the_system_finds() -> None:
    old = trio.socket.set_custom_hostname_resolver(Lookups())
    try:
        found = await trio.socket.getaddrinfo("localhost", 80, type=trio.socket.SOCK_STREAM)
        assert {address[0] for *_, address in found} <= {"127.0.0.1", "::1"}
        assert found
        assert (await trio.socket.getnameinfo(("127.0.0.1", 80), trio.socket.NI_NUMERICSERV))[1] == "80"
    finally:
        trio.socket.set_custom_hostname_resolver(old)


async def test_a_dead_resolver_takes_none_of_trios_own_threads() -> None:
    """As many look-ups as may run hang; whoever needs a thread of trio still has all of them."""
    answer = threading.Event()

    def hang(*_args: object) -> list[object]:
        answer.wait(5)
        return []

    resolver = Lookups(hang)
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_LOOKUPS + 40):
            nursery.start_soon(resolver.getaddrinfo, b"vendor.invalid", 443)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        nursery.cancel_scope.cancel()
    answer.set()
