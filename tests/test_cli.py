"""What every command has, and what it ends with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from postman.cli import main


@pytest.mark.parametrize(
    "arguments",
    [[], ["serve"], ["demo"], ["check"], ["plugins"], ["status"], ["send"], ["mail"], ["release"], ["key", "new"]],
)
def test_every_command_has_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--help"]) == 0
    assert "Usage: postman" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["frobnicate"], ["serve", "--fast"], ["serve", "--log-level", "loud"], ["key"]])
def test_wrong_use_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Usage: postman" in capsys.readouterr().err


def test_a_command_that_is_nearly_one_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statsu"]) == 2
    assert "there is no command 'statsu'; did you mean \"status\"?" in capsys.readouterr().err


def test_a_directory_of_plugins_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plugins", str(tmp_path / "nothing"), "plugins"]) == 2
    assert "no such directory of plugins" in capsys.readouterr().err


def program(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "postman", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_while_serving_is_quiet_and_good(tmp_path: Path) -> None:
    config = tmp_path / "postman.toml"
    config.write_text(
        '[http]\nbind = "127.0.0.1:0"\n[delivery]\ngrace = 1\n[[provider]]\nname = "primary"\nplugin = "fake"\n'
    )
    config.chmod(0o600)
    with program("serve", "--config", str(config)) as process:
        assert process.stderr
        events = []
        while "ready" not in events:
            events.append(json.loads(process.stderr.readline())["event"])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ""
    assert "Traceback" not in err
    assert any("a fake delivers nothing" in event for event in events)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_an_output_that_nobody_reads_any_more_is_told_to_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "postman", "plugins"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_ctrl_c_in_the_middle_of_a_question_is_quiet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with program("status", "--url", url) as process:
            silent.settimeout(60)
            connection, _ = silent.accept()
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            connection.close()
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "")
