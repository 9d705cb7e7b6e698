"""What README.md shows can be done."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from postman import service
from postman.cli import main
from postman.config import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    """The one block of code that has `word` in it."""
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    [found] = [text for text in blocks if word in text]
    return found


async def test_the_client_sends_once_however_often_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nursery: trio.Nursery
) -> None:
    config = tmp_path / "postman.toml"
    config.write_text('[http]\nbind = "127.0.0.1:0"\n[[provider]]\nname = "fake"\nplugin = "fake"\n')
    url: str = await nursery.start(partial(service.run, load(config)))
    capsys.readouterr()
    program = compile(block("python", "urlopen").replace("http://127.0.0.1:8901", url), "README.md", "exec")
    for _ in range(2):
        await trio.to_thread.run_sync(exec, program, {})
    first, second = [line for line in capsys.readouterr().out.splitlines() if "tracking-ids" in line]
    assert first == second
    nursery.cancel_scope.cancel()


def test_the_breaker_works_alone() -> None:
    names: dict[str, Any] = {}
    exec(block("python", "BreakerOpen"), names)  # noqa: S102  # our own text
    ask = names["ask"]
    assert ask(lambda: 42) == 42
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            ask(lambda: 1 / 0)
    assert ask(lambda: 42).startswith("ask somebody else")


def test_the_providers_shown_are_configured_rightly(tmp_path: Path) -> None:
    config = tmp_path / "postman.toml"
    config.write_text(block("toml", "backup"))
    (tmp_path / "smtp.password").write_text("secret")
    assert [provider.name for provider in load(config).config.provider] == ["primary", "backup"]


def commands() -> list[str]:
    shown = [line.partition("  #")[0].strip() for line in README.splitlines() if line.startswith("    postman ")]
    return sorted({part.strip() for line in shown for part in line.split(";")})


@pytest.mark.parametrize("command", commands())
def test_each_command_shown_exists_with_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in command.split()[1].split("|"):
        assert main([name, "--help"]) == 0
        help_text = capsys.readouterr().out
        options = [word for word in shlex.split(command) if word.startswith("--")]
        assert [option for option in options if option not in help_text] == []


def test_each_link_leads_somewhere() -> None:
    for text, directory in ((README, ROOT), ((ROOT / "plugins" / "README.md").read_text("utf-8"), ROOT / "plugins")):
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (directory / link).exists(), link
