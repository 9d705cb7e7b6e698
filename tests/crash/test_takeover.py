"""An instance stands still in the middle of a call, and another one judges that call before it goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import trio

from postman.row import State
from postman.testing.customer import MAIL, Customer, open_customer
from postman.testing.haste import hasten
from postman.testing.pairs import Places
from postman.testing.program import open_program
from postman.testing.waiting import wait_for

STEPS = {
    "W2": {State.SENT},
    "W5": {State.SENT, State.HELD},
    "W1": {State.SENT},
    "W3": {State.SENT, State.HELD},
    "W7": {State.SENT, State.HELD},
    "W8": {State.SENT},
}
"""What may become of a letter in the end. Whose call is over its time is told nothing by an answer that it cannot read
any more; then a person decides."""


async def wait_told(customer: Customer, id: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until something is true of a mail."""
    return await wait_for(partial(customer.get, f"/mail/{id}"), true, within=40)


def is_in(*states: State) -> Callable[[dict[str, Any]], bool]:
    return lambda told: told["state"] in states


async def test_what_another_instance_has_judged_meanwhile_is_mended_and_nothing_is_sent_twice(
    tmp_path: Path,
    toml: Callable[..., str],
    accepted: Callable[[], list[str]],
    places: Places,
    long: bool,
) -> None:
    promised: list[str] = []

    async def stall(engine: str, step: str) -> None:
        url = places.url(engine)
        text = toml(ledger=url, queue=url, timeout=2, visibility=2)
        async with AsyncExitStack() as stack:
            directories = [tmp_path / f"{engine} {step} {number}" for number in (1, 2)]
            for directory in directories:
                directory.mkdir()
            one, other = [await stack.enter_async_context(open_program(place, text)) for place in directories]
            customer = await stack.enter_async_context(open_customer(lambda: one.url))
            judge = await stack.enter_async_context(open_customer(lambda: other.url))
            await one.start(f"{step}=stop", before=hasten)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(customer.post, step, [MAIL])
                await one.wait_stopped()
                await other.start(before=hasten)
                (id,) = [mail["tracking-id"] for mail in (await judge.get("/mail"))["mails"]]
                judged = await wait_told(judge, id, is_in(State.SENT if step == "W1" else State.HELD))
                one.signal(signal.SIGCONT)
            if step != "W1":
                await wait_told(judge, id, lambda told: len(told["history"]) > len(judged["history"]))
            await wait_told(judge, id, is_in(*STEPS[step]))
            promised.extend(customer.ids)
            assert await one.stop() == await other.stop() == 0

    async with trio.open_nursery() as nursery:
        for engine in ("redis", "postgresql")[: 1 + long]:
            for step in list(STEPS)[: len(STEPS) if long else 2]:
                nursery.start_soon(stall, engine, step)
    assert sorted(accepted()) == sorted(promised), "each was taken once"
