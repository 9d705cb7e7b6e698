from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from postman.hookspecs import PROVIDERS
from postman.kind import Surroundings
from postman.mail import Address, Letter
from postman.provider import (
    LiveCheck,
    MailRefused,
    MailRejected,
    OutcomeUnknown,
    Phase,
    ProviderMisconfigured,
    ProviderUnavailable,
    Receipt,
)
from postman.registry import decode_settings, load_kind
from postman.testing.letters import a_letter, an_attempt
from postman.wire import ClientFactory
from postman_plugin_fake import OUTCOMES, Fake, NoException, Outcome

ENDS: dict[Outcome, tuple[type[BaseException] | None, Phase, bool]] = {
    "accept": (None, Phase.HANDED_OVER, True),
    "accept-some": (None, Phase.HANDED_OVER, True),
    "unavailable": (ProviderUnavailable, Phase.HANDED_OVER, False),
    "throttle": (ProviderUnavailable, Phase.HANDED_OVER, False),
    "drop": (ProviderUnavailable, Phase.STARTED, False),
    "misconfigured": (ProviderMisconfigured, Phase.HANDED_OVER, False),
    "refuse": (MailRefused, Phase.HANDED_OVER, False),
    "reject": (MailRejected, Phase.HANDED_OVER, False),
    "suppress": (MailRejected, Phase.HANDED_OVER, False),
    "unknown": (OutcomeUnknown, Phase.HANDED_OVER, True),
    "hang": (trio.TooSlowError, Phase.HANDED_OVER, False),
    "hang-before": (trio.TooSlowError, Phase.UNMARKED, False),
    "block": (None, Phase.HANDED_OVER, True),
    "bug": (ZeroDivisionError, Phase.UNMARKED, False),
    "bug-after": (ZeroDivisionError, Phase.HANDED_OVER, True),
    "memory-error": (MemoryError, Phase.HANDED_OVER, False),
    "recursion-error": (RecursionError, Phase.HANDED_OVER, False),
    "base-exception": (NoException, Phase.HANDED_OVER, False),
}


def letter(to: str = "ann@example.org", *more: str, id: int = 1) -> Letter:
    return a_letter(id, to=tuple(Address(email=email) for email in (to, *more)))


@asynccontextmanager
async def opened(plugin: str, **settings: object) -> AsyncIterator[Fake]:
    kind = load_kind(PROVIDERS, plugin)
    decoded = decode_settings(kind, settings, "test", Path("/nowhere"))
    surroundings = Surroundings("primary", 1, 25.0, cast("ClientFactory", None))
    async with kind.open(decoded, surroundings) as provider:
        yield provider


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("plugin", ["lamda", "delta"])
async def test_every_second_call_fails(plugin: str) -> None:
    async with opened(plugin) as provider:
        for _ in range(3):
            assert await provider.send(letter(), an_attempt()) == Receipt("fake: not delivered")
            with pytest.raises(ProviderUnavailable):
                await provider.send(letter(), an_attempt())


async def test_every_nth_call_fails_or_none() -> None:
    async with opened("lamda", **{"fail-every": 1}) as provider:
        with pytest.raises(ProviderUnavailable):
            await provider.send(letter(), an_attempt())
    async with opened("lamda", **{"fail-every": 0}) as provider:
        for _ in range(5):
            await provider.send(letter(), an_attempt())


def test_every_outcome_but_the_crash_is_in_the_table_of_ends() -> None:
    assert set(ENDS) == set(OUTCOMES) - {"crash"}


@pytest.mark.parametrize("outcome", ENDS)
@pytest.mark.parametrize("asked_by", ["script", "recipient"])
async def test_each_outcome_ends_as_the_table_says(
    outcome: Outcome, asked_by: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    error, phase, taken = ENDS[outcome]
    file = tmp_path / "taken.jsonl"
    script = [outcome] if asked_by == "script" else ["accept"]
    attempt = an_attempt()
    async with opened("fake", outcomes=script, file=str(file)) as provider:
        to = "ann@example.org" if asked_by == "script" else f"{outcome}@example.org"
        if error is None:
            receipt = await provider.send(letter(to, "bob@example.org"), attempt)
            assert [refusal.recipient for refusal in receipt.refused] == ["bob@example.org"][: outcome == "accept-some"]
        else:
            with pytest.raises(error), trio.fail_after(60):
                await provider.send(letter(to), attempt)
    assert attempt.phase is phase
    assert autojump_clock.current_time() == pytest.approx(60 if outcome.startswith("hang") else 0)
    assert len(lines(file)) == taken


async def test_outcomes_come_one_after_the_other_and_over_again() -> None:
    async with opened("fake", outcomes=["accept", "unavailable"]) as provider:
        for _ in range(2):
            await provider.send(letter(), an_attempt())
            with pytest.raises(MailRejected):
                await provider.send(letter("reject@example.org"), an_attempt())  # does not count
            with pytest.raises(ProviderUnavailable):
                await provider.send(letter(), an_attempt())


async def test_an_answer_takes_its_latency(autojump_clock: trio.testing.MockClock) -> None:
    async with opened("fake", latency=3) as provider:
        await provider.send(letter(), an_attempt())
    assert autojump_clock.current_time() == pytest.approx(3)


@pytest.mark.parametrize("fsync", [False, True])
async def test_what_was_accepted_is_in_the_file_line_by_line(tmp_path: Path, fsync: bool) -> None:  # a parameter
    file = tmp_path / "taken.jsonl"
    async with opened("fake", file=str(file), fsync=fsync) as provider:
        await provider.send(letter("ann@example.org", "bob@example.org"), an_attempt())
        await provider.send(letter(id=2), an_attempt())
        await provider.send(letter(), an_attempt())
    first, second, third = lines(file)
    assert (first["id"], first["key"], first["provider"]) == (letter().id, an_attempt().key, "primary")
    assert first["recipients"] == ["ann@example.org", "bob@example.org"]
    assert len({entry["sha256"] for entry in (first, second, third)}) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_the_same_letter_has_the_same_digest(tmp_path: Path) -> None:
    file = tmp_path / "taken.jsonl"
    async with opened("fake", file=str(file)) as provider:
        await provider.send(letter(), an_attempt())
        await provider.send(letter(), an_attempt())
    assert len({entry["sha256"] for entry in lines(file)}) == 1


def test_a_crash_kills_the_process_after_the_letter_was_accepted(tmp_path: Path) -> None:
    file = tmp_path / "taken.jsonl"
    program = (
        "import sys, trio\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_postman_plugin_fake as t\n"
        "async def main():\n"
        f"    async with t.opened('fake', outcomes=['crash'], file={str(file)!r}) as provider:\n"
        "        await provider.send(t.letter(), t.an_attempt())\n"
        "trio.run(main)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    assert len(lines(file)) == 1


async def test_a_fake_answers_the_live_check_and_says_that_it_delivers_nothing() -> None:
    async with opened("fake") as provider:
        assert isinstance(provider, LiveCheck)
        assert "delivers nothing" in await provider.check()
    for plugin in ("lamda", "delta", "fake"):
        assert not load_kind(PROVIDERS, plugin).delivers
