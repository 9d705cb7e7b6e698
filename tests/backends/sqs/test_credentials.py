from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from postman.backends.sqs.credentials import LOOK, Credentials
from postman.errors import StoreUnavailable


@pytest.fixture
def tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A program that gives keys for five minutes, as the test says; "": it fails."""
    said = tmp_path / "keys.json"
    config = tmp_path / "config"
    program = f"import pathlib; t = pathlib.Path('{said}').read_text(); print(t); assert t"
    (tmp_path / "program.py").write_text(program)
    config.write_text(f"[default]\ncredential_process = {sys.executable} {tmp_path / 'program.py'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    def tells(key: str) -> None:
        ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        said.write_text(
            key and f'{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "s", "Expiration": "{ends}"}}'
        )

    return tells


async def keys_after_a_look(credentials: Credentials, clock: MockClock, unlike: str = "") -> str:
    """The keys when the keeper has looked again: at once when they are to stay the same."""
    clock.jump(LOOK)
    for _ in range(200):
        await trio.testing.wait_all_tasks_blocked(0.02)
        if not credentials._lock.locked() and (await credentials.keys()).access_key != unlike:
            break
    return str((await credentials.keys()).access_key)


async def test_keys_are_renewed_ahead_and_kept_when_that_fails(
    tells: Callable[[str], None], mock_clock: MockClock
) -> None:
    credentials = Credentials()
    tells("FIRST")
    assert (await credentials.keys()).access_key == "FIRST"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(credentials.keep)
        await trio.testing.wait_all_tasks_blocked()
        tells("SECOND")
        assert await keys_after_a_look(credentials, mock_clock, unlike="FIRST") == "SECOND"
        tells("")
        assert await keys_after_a_look(credentials, mock_clock) == "SECOND"
        nursery.cancel_scope.cancel()


async def test_a_program_that_gives_none_is_named(tells: Callable[[str], None]) -> None:
    tells("")
    with pytest.raises(StoreUnavailable, match="credentials cannot be had"):
        await Credentials().keys()
