"""The database comes to harm while it is in use: it is said in a sentence, nothing is promised, nothing is doubled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from postman.testing.customer import MAIL, open_customer
from postman.testing.program import open_program

BULKY = {**MAIL, "content": [{"type": "text/plain", "value": "x" * 5_000}]}


def overwrite(database: Path) -> None:
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.write(os.urandom(size))


def truncate(database: Path) -> None:
    os.truncate(database, 0)


def delete(database: Path) -> None:
    database.unlink()


def replace(database: Path) -> None:
    other = database.with_name("other")
    shutil.copy(database, other)
    other.rename(database)


def delete_log(database: Path) -> None:
    Path(f"{database}-wal").unlink()


def move_directory(database: Path) -> None:
    database.parent.rename(database.parent.with_name("elsewhere"))


MOVED = "was moved or deleted while it is in use; put it back"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, "was cut short while it is in use; end the service and restore a copy"),
        (delete, MOVED),
        (replace, MOVED),
        (delete_log, MOVED),
        (move_directory, MOVED),
    ],
)
async def test_what_happens_to_the_file_is_said_and_nothing_is_promised(
    tmp_path: Path,
    toml: Callable[..., str],
    accepted: Callable[[], list[str]],
    harm: Callable[[Path], None],
    words: str,
) -> None:
    (tmp_path / "data").mkdir()
    url = "sqlite:data/postman.db"
    text = toml(ledger=url, queue=url, grace=0.5)
    async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        ids = await customer.post("before", [BULKY] * 20)
        await customer.wait_settled()
        harm(tmp_path / "data" / "postman.db")
        assert await customer.try_post("after", [BULKY]) is None
        status = await customer.get("/status")
        assert any(words in sentence for sentence in status["because"]), status["because"]
        assert await program.stop() == 1
    assert "put it, or a copy of it, back before the next start" in program.log
    assert "Traceback" not in program.log
    assert sorted(accepted()) == sorted(ids)


async def test_a_file_that_is_no_database_any_more_is_refused_by_the_next_start_and_kept(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]]
) -> None:
    """While it is in use its pages are in memory, and nobody need notice."""
    database = tmp_path / "postman.db"
    async with open_program(tmp_path, toml()) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        ids = await customer.post("before", [BULKY] * 20)
        await customer.wait_settled()
        await program.kill()
        Path(f"{database}-wal").unlink()
        overwrite(database)
        content = database.read_bytes()
        await program.start()
        assert await program.wait_ended() == 2
        assert "this is no SQLite file, and was kept as it is" in program.log
    assert database.read_bytes() == content
    assert sorted(accepted()) == sorted(ids)


async def test_a_log_whose_database_was_moved_is_kept_until_it_is_back(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]]
) -> None:
    """What was accepted before a crash may be in the log alone."""
    database, moved = tmp_path / "postman.db", tmp_path / "moved.db"
    async with open_program(tmp_path, toml()) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        ids = await customer.post("before", [BULKY] * 20)
        await customer.wait_settled()
        await program.kill()
        database.rename(moved)
        await program.start()
        assert await program.wait_ended() == 2
        assert "the database it belongs to is gone" in program.log
        moved.rename(database)
        await program.start()
        assert [(await customer.get(f"/mail/{id}"))["state"] for id in ids] == ["sent"] * 20
    assert sorted(accepted()) == sorted(ids)


async def test_a_lock_file_that_was_removed_lets_no_second_process_in(tmp_path: Path, toml: Callable[..., str]) -> None:
    (tmp_path / "other").mkdir()
    url = f"sqlite:{tmp_path / 'postman.db'}"
    text = toml(ledger=url, queue=url)
    async with open_program(tmp_path, text) as program, open_program(tmp_path / "other", text) as second:
        await program.start()
        (tmp_path / "postman.db.lock").unlink()
        await second.start()
        assert await second.wait_ended() == 2
        assert "is in use by process" in second.log
        assert await program.stop() == 0
