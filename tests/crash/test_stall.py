"""The process stands still for longer than a lease, at each step; and letters that kill it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from postman.pulse import LIMIT
from postman.row import Row, State
from postman.testing.customer import open_customer
from postman.testing.haste import hasten
from postman.testing.program import open_program
from postman.testing.report import report

TIMEOUT = 2.0
LEASE = TIMEOUT + 0.5
"""As `hasten` has it."""
STEPS = {
    **{f"A{number}": {State.SENT} for number in range(1, 8)},
    "W1": {State.SENT},
    "W2": {State.SENT},
    "W3": {State.SENT, State.IN_DOUBT, State.HELD},
    "W4": {State.SENT},
    "W5": {State.SENT, State.IN_DOUBT, State.HELD},
    "W7": {State.SENT, State.IN_DOUBT, State.HELD},
    "W8": {State.SENT},
    "W9": {State.SENT},
    "W10": {State.SENT},
}
"""What may become of a letter whose delivery stood still there. A call that is out of time is in doubt if all of it was
with the kernel; an answer that had come by then counts."""


def a_mail(to: str = "ann@example.com", size: int = 1) -> dict[str, Any]:
    return {
        "to": [{"email": to}],
        "from": {"email": "shop@example.org"},
        "subject": "hello",
        "content": [{"type": "text/plain", "value": "x" * size}],
    }


async def test_a_stall_beyond_the_lease_sends_nothing_late_and_nothing_twice(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]], long: bool
) -> None:
    rows: dict[str, Row] = {}

    async def stall(step: str) -> None:
        directory = tmp_path / step
        directory.mkdir()
        async with (
            open_program(
                directory, toml(timeout=TIMEOUT, queue="sqlite:queue.db" if step == "A5" else "sqlite:postman.db")
            ) as program,
            open_customer(lambda: program.url) as customer,
        ):
            await program.start(f"{step}=stop", before=hasten)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(customer.post, step, [a_mail(size=1_000_000 if step == "W4" else 1)])
                await program.wait_stopped()
                await trio.sleep(LEASE * (3 if long else 1.1))  # the lease is a matter of the machine's own clock
                program.signal(signal.SIGCONT)
            await customer.wait_settled(doubt=False)
            assert await program.stop() == 0
            (rows[step],) = await program.rows()
            assert customer.ids == [rows[step].id]

    async with trio.open_nursery() as nursery:
        for step in STEPS:
            nursery.start_soon(stall, step)
    found = report([row.id for row in rows.values()], accepted(), rows.values())
    assert (found.acked, found.accepted, found.duplicated) == (len(STEPS), len(STEPS), {})
    assert {step: row.state for step, row in rows.items() if row.state not in STEPS[step]} == {}
    assert {step: row.attempts for step, row in rows.items()} == dict.fromkeys(STEPS, 1), "TooLate burns no attempt"


async def test_a_plugin_that_holds_up_the_whole_process_costs_time_and_is_named(
    tmp_path: Path, toml: Callable[..., str], provider: Callable[..., str], accepted: Callable[[], list[str]]
) -> None:
    blocking = provider(
        "rude",
        settings=f'outcomes = ["block", "accept"], latency = {LIMIT + 0.6}, file = "taken"',
        more='from-domains = ["rude.example"]\ntimeout = 0.5',  # its leases are over before it is
    )
    patient = provider("patient", more='from-domains = ["rude.example"]', weight=0)
    text = toml(blocking, patient, workers=4, more='from-domains = ["example.org"]')
    async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
        await program.start(before=hasten)
        rude = {**a_mail(), "from": {"email": "shop@rude.example"}}
        (id, *_) = await customer.post("key", [rude, *[a_mail()] * 5])
        await customer.wait_settled()
        status, told = await customer.get("/status"), await customer.get(f"/mail/{id}")
        assert await program.stop() == 0
        rows = await program.rows()
    found = report(customer.ids, accepted(), rows)
    assert (found.accepted, found.lost, found.unexpected, found.duplicated) == (6, (), (), {})
    assert {row.state for row in rows} == {State.SENT}
    assert any("lease" in entry.get("reason", "") for entry in told["history"]), "it came too late, and began anew"
    (sentence,) = [sentence for sentence in status["because"] if "stood still" in sentence]
    assert "while provider rude was asked, at postman_plugin_fake:" in sentence


@pytest.mark.parametrize(
    ("on_doubt", "state", "deaths", "reason"),
    [
        ("hold", State.HELD, 1, "fake may have taken it; a person decides"),
        ("resend", State.FAILED, 3, "given up after 3 calls that were cut; may have been sent"),
    ],
)
async def test_a_letter_that_kills_the_process_is_put_aside_and_the_rest_goes_on(
    tmp_path: Path,
    toml: Callable[..., str],
    provider: Callable[..., str],
    accepted: Callable[[], list[str]],
    on_doubt: str,
    state: State,
    deaths: int,
    reason: str,
) -> None:
    poisonous = provider("fake", more='from-domains = ["example.org"]')
    text = toml(poisonous, more='from-domains = ["example.com"]')
    async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        async with trio.open_nursery() as nursery:
            poison = {**a_mail("crash@example.com"), "on-doubt": on_doubt}
            nursery.start_soon(customer.post, "poison", [poison])
            for death in range(deaths):
                assert await program.wait_ended() == -signal.SIGKILL
                await program.start(ready=death == deaths - 1)
            nursery.start_soon(customer.post, "others", [a_mail()] * 3)
        await customer.wait_settled()
        told = await customer.get(f"/mail/{customer.promised['poison'][0]}")
        await program.stop()
        rows = await program.rows()
    assert (told["state"], told["history"][-1]["reason"]) == (state, reason)
    assert [row.state for row in rows if row.id != told["tracking-id"]] == [State.SENT] * 3
    found = report(customer.ids, accepted(), rows)
    assert (found.lost, found.unexpected, found.copies) == ((), (), deaths - 1)
