"""Notes that are doubled, damaged or of nobody, and a grave that cannot be dug: each mail is sent once, all is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import apsw

from postman.testing import sick_disk
from postman.testing.customer import MAIL, open_customer
from postman.testing.program import open_program
from postman.testing.waiting import wait_until

MAILS, COPIES, WORKERS = 20, 5, 16
NOBODYS: Sequence[str | bytes] = ("0x0000000000000001", "no id", "", b"\xff\xfe", "0x" + "f" * 400)


async def test_doubled_and_damaged_notes_cost_nothing_and_are_not_gone_before_they_are_buried(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]]
) -> None:
    queue = tmp_path / "queue.db"
    text = toml(queue="sqlite:queue.db", workers=WORKERS)
    async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        assert (await customer._http.post(f"{program.url}/pause", json={})).is_success
        await customer.post("key", [MAIL] * MAILS)
        await program.stop()
        with closing(apsw.Connection(str(queue))) as notes:
            put = "INSERT INTO note (lane, due, seq, id, size, version) VALUES (1, 1.0, ?, ?, 10, 1)"
            each = [*customer.ids * (COPIES - 1), *NOBODYS]
            notes.executemany(put, [(10_000 + number, id) for number, id in enumerate(each)])
        await program.start(before=sick_disk.install)
        sick_disk.break_(queue, "full")
        assert (await customer._http.post(f"{program.url}/resume", json={})).is_success
        await customer.wait_settled()
        await wait_until(lambda: sick_disk.was_met(queue))
        assert any("queue.db: the disk is full" in told for told in (await customer.get("/status"))["because"])
        sick_disk.heal(queue)
        status = await customer.wait_status(lambda now: now["queue"] and now["queue"]["buried"] >= len(NOBODYS))
        (sentence,) = status["because"]
        assert sentence.startswith(f"{len(NOBODYS)} notes on the queue were put aside: each could not be read")
        assert sum(status["queue"]["ready"]) == status["queue"]["leased"] == 0
        assert await program.stop() == 0
        assert program.log.count('"a note was buried"') == 1, "the others were buried when the queue was opened"
        with closing(apsw.Connection(str(queue))) as graves:
            kept = graves.execute("SELECT reason, bytes FROM buried").fetchall()
    assert len(kept) == len(NOBODYS)
    assert sorted(accepted()) == sorted(customer.ids)
