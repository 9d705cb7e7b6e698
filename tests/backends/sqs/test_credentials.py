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
from postman.testing import acts
from postman.testing.fault_server import open_fault_server


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


async def test_a_role_that_aws_does_not_give_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of a pod")
    refusal = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not for you</Message></Error></ErrorResponse>"
    async with open_fault_server(otherwise=acts.answer(403, body=refusal)) as sts:
        for name, value in {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/postman",
            "AWS_ENDPOINT_URL_STS": sts.url,
            "AWS_REGION": "eu-central-1",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with pytest.raises(StoreUnavailable, match=r"cannot be had.*AccessDenied.*Not for you"):
            await Credentials().keys()
