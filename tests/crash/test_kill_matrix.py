"""The process is killed at every step of a mail's way in and out; then it is started again.

At every step on SQLite; with every other pair of ledger and queue at the steps where the stores matter.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from postman.backends.sqlite.database import open_database
from postman.backends.sqlite.ledger import ledger_on
from postman.backends.sqlite.queue import queue_on
from postman.clerk import Clerk
from postman.provider import boottime
from postman.row import Now, Policy, Row, State
from postman.testing.customer import MAIL, Customer, open_customer
from postman.testing.fault_server import Act, FaultServer, Turn
from postman.testing.haste import hasten
from postman.testing.pairs import PAIRS, Pair, Places
from postman.testing.program import Program, open_program
from postman.testing.report import Report, report

KILLED = -signal.SIGKILL
Toml = Callable[..., str]


def a_mail(**more: object) -> dict[str, Any]:
    return {**MAIL, **more}


async def die_and_live_on(
    program: Program,
    customer: Customer,
    failpoints: str,
    mails: list[dict[str, Any]],
    before: Callable[[], object] | None = None,
) -> float:
    """Start, post, die; start again, and wait until the client has its promise and nothing moves; when it died."""
    await program.start(failpoints, before=before)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(customer.post, "key", mails)
        assert await program.wait_ended() == KILLED
        died = time.time()
        await program.start(before=before)
    await customer.wait_settled()
    assert await program.stop() == 0
    return died


def judge_way_in(rows: Sequence[Row], died: float, found: Report) -> None:
    """What may have become of two letters whose process was killed there: in doubt is what a worker had in hand."""
    assert (found.acked, found.lost, found.unexpected, found.duplicated) == (2, (), (), {})
    assert found.accepted + found.told == 2
    for row in rows:
        before = [entry.state for entry in row.history if entry.at < died]
        in_hand = before[-1:] == [State.SENDING]
        assert (row.state, row.crashes) == ((State.HELD, 1) if in_hand else (State.SENT, 0)), row.history


@pytest.mark.parametrize(
    ("point", "stored", "queue"),
    [
        ("A1", False, "postman.db"),
        ("A2", False, "postman.db"),
        ("A3", False, "postman.db"),
        ("A3", False, "queue.db"),
        ("A4", True, "postman.db"),
        ("A6", True, "postman.db"),
        ("A6", True, "queue.db"),
        ("A7", True, "postman.db"),
    ],
)
async def test_a_crash_on_the_way_in_leaves_all_of_a_request_or_nothing_and_the_key_gives_the_same_ids(
    tmp_path: Path, toml: Toml, accepted: Callable[[], list[str]], point: str, stored: bool, queue: str
) -> None:
    async with (
        open_program(tmp_path, toml(queue=f"sqlite:{queue}")) as program,
        open_customer(lambda: program.url) as customer,
    ):
        died = await die_and_live_on(program, customer, f"{point}=kill", [a_mail(), a_mail()])
        rows = await program.rows()
    found = report(customer.ids, accepted(), rows, customer.recovered)
    assert [row.id for row in rows] == customer.ids, "the request was stored once"
    judge_way_in(rows, died, found)
    assert found.recovered == (2 if stored and point != "A7" else 0)


async def look_a_minute_later(directory: Path) -> int:
    """Two rounds of a clerk whose clocks are a minute ahead; how many notes there are then."""

    def later() -> Now:
        return Now(time.time() + 62, boottime() + 62)

    async with (
        open_database(directory / "postman.db") as letters,
        open_database(directory / "queue.db") as notes,
        ledger_on(letters, Policy(), later) as ledger,
        queue_on(notes, 60) as queue,
    ):
        clerk = Clerk(ledger, queue, accounts=frozenset, delivering=lambda: True, wall=lambda: later().wall)
        await clerk.round()
        await clerk.round()
        statistics = await queue.statistics()
        return sum(statistics.ready) + statistics.delayed


@pytest.mark.parametrize(("point", "noted"), [("A4", 0), ("A5", 1)])
async def test_letters_whose_notes_a_crash_prevented_are_found_and_sent_once(
    tmp_path: Path, toml: Toml, accepted: Callable[[], list[str]], point: str, noted: int
) -> None:
    async with (
        open_program(tmp_path, toml(queue="sqlite:queue.db")) as program,
        open_customer(lambda: program.url) as customer,
    ):
        await program.start(f"{point}=kill")
        soon = datetime.now(UTC) + timedelta(seconds=1.5)  # what is due has the same delay as others, and one put
        mails = [a_mail(**{"send-at": (soon + timedelta(milliseconds=n)).isoformat()}) for n in range(3)]
        assert await customer.try_post("key", mails) is None
        assert await program.wait_ended() == KILLED
        assert await look_a_minute_later(tmp_path) == noted + 3, "a second note is harmless"
        await program.start()
        await customer.post("key", mails)
        await customer.wait_settled()
        await program.stop()
        found = report(customer.ids, accepted(), await program.rows(), customer.recovered)
    assert (found.acked, found.accepted, found.recovered) == (3, 3, 3)
    assert (found.lost, found.unexpected, found.duplicated) == ((), (), {})


WAY_IN = {f"A{number}" for number in range(1, 8)}
SAFE = {"W1", "W9", "W10"}
"""Where a crash leaves no doubt: before the claim, or after its end."""
BEFORE_THE_LAST_BYTE = {"W2", "W3", "W4"}


@pytest.mark.parametrize(
    ("point", "on_doubt"),
    [
        *((f"W{number}", "hold") for number in range(1, 11)),
        *((f"W{number}", "resend") for number in range(2, 9)),  # at the others there is no doubt
    ],
)
async def test_a_crash_on_the_way_out_loses_nothing_and_doubles_nothing_unless_the_policy_says_so(
    tmp_path: Path, toml: Toml, vendor: FaultServer, accepted: Callable[[], list[str]], point: str, on_doubt: str
) -> None:
    async def take_and_kill(turn: Turn) -> bool:
        await turn.read_request()
        turn.request.accepted = True
        program.signal(signal.SIGKILL)
        await turn.stream.receive_some(1)
        return False

    if point == "W6":
        vendor.script(Act(take_and_kill))
    size = 1_000_000 if point == "W4" else 1  # a kernel takes the small one in one go
    mail = a_mail(**{"on-doubt": on_doubt, "content": [{"type": "text/plain", "value": "x" * size}]})
    async with open_program(tmp_path, toml()) as program, open_customer(lambda: program.url) as customer:
        await die_and_live_on(program, customer, "" if point == "W6" else f"{point}=kill", [mail])
        (row,) = await program.rows()
        found = report(customer.ids, accepted(), [row])
    judge_way_out(point, on_doubt, row, found)


def judge_way_out(point: str, on_doubt: str, row: Row, found: Report) -> None:
    """What may have become of a letter whose process was killed there."""
    assert (found.acked, found.lost, found.unexpected) == (1, (), ())
    if point in SAFE:
        assert (row.state, found.accepted, found.copies, row.crashes) == (State.SENT, 1, 0, 0)
    elif on_doubt == "hold":
        assert (row.state, found.accepted) == (State.HELD, point not in BEFORE_THE_LAST_BYTE)
        assert (found.copies, row.crashes) == (0, 1)
        assert row.history[-1].reason == "vendor may have taken it; a person decides"
    else:
        assert (row.state, found.accepted, row.crashes) == (State.SENT, 1, 1)
        assert found.copies == (point not in BEFORE_THE_LAST_BYTE)
        assert "sent again by policy; may be a second copy" in {entry.reason for entry in row.history}


STEPS = (
    *((point, "hold") for point in ("A3", "A4", "A5", "A6", "W2", "W5", "W9", "W10")),
    ("W5", "resend"),
)
AT_ONCE = 24


def matters(pair: Pair, point: str) -> bool:
    """Whether a crash there is another with this pair than with others."""
    match point:
        case "A3" | "W2":
            return pair.ledger == pair.queue  # the queue has no part in it
        case "A5":
            return not pair.one
        case _:
            return True


async def test_with_every_pair_a_crash_where_the_stores_matter_loses_nothing_and_doubles_nothing(
    tmp_path: Path, toml: Toml, accepted: Callable[[], list[str]], places: Places
) -> None:
    limiter = trio.CapacityLimiter(AT_ONCE)
    promised: list[str] = []

    async def crash(pair: Pair, point: str, on_doubt: str) -> None:
        directory = tmp_path / f"{pair} {point} {on_doubt}"
        directory.mkdir()
        ledger, queue = pair.urls(places)
        text = toml(ledger=ledger, queue=queue, timeout=8, visibility=2)  # a shared ledger's lease is as long
        mails = [a_mail(**{"on-doubt": on_doubt})] * (2 if point in WAY_IN else 1)
        async with open_program(directory, text) as program, open_customer(lambda: program.url) as customer:
            died = await die_and_live_on(program, customer, f"{point}=kill", mails, hasten)
            rows = await program.rows()
        promised.extend(customer.ids)
        taken = [id for id in accepted() if id in customer.ids]
        found = report(customer.ids, taken, rows, customer.recovered)
        assert len(rows) == len(mails), "the request was stored once"
        if point in WAY_IN:
            judge_way_in(rows, died, found)
            assert found.recovered == (0 if point == "A3" else 2)
        else:
            judge_way_out(point, on_doubt, rows[0], found)

    async def named(pair: Pair, point: str, on_doubt: str) -> None:
        try:
            async with limiter:
                await crash(pair, point, on_doubt)
        except Exception as error:
            error.add_note(f"{pair}, {point}, {on_doubt}")
            raise

    async with trio.open_nursery() as nursery:
        for pair, step in itertools.product(PAIRS, STEPS):
            if pair.durable and matters(pair, step[0]):
                nursery.start_soon(named, pair, *step)
    assert set(accepted()) <= set(promised)
