"""What a service is made of, looked at without one; and what `check` refuses `serve` refuses with the same words."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio

from postman.cli import main
from postman.config import load
from postman.errors import ConfigError
from postman.kind import ONLY_FAKES
from postman.testing.fault_server import Act, Turn, open_fault_server

FAKE = '[[provider]]\nname = "primary"\nplugin = "fake"\n'


def configured(directory: Path, text: str = FAKE) -> list[str]:
    path = directory / "postman.toml"
    path.write_text(text if "[http]" in text else f'{text}[http]\nbind = "127.0.0.1:0"\n')
    return ["--config", str(path)]


def ran(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, because it says how that process logs."""
    return subprocess.run(
        [sys.executable, "-m", "postman", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_configuration_ends_with_2_and_is_told_without_a_traceback(command: str, tmp_path: Path) -> None:
    ended = ran(command, *configured(tmp_path, FAKE.replace("fake", "fkae")))
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.startswith(
        "postman.toml: [[provider]] #1 \"primary\": no plugin named 'fkae'; did you mean 'fake'?"
    )


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_place_that_is_not_there_or_a_port_in_use_ends_with_2(command: str, tmp_path: Path) -> None:
    ended = ran(command, *configured(tmp_path, FAKE + '[ledger]\nurl = "sqlite:data/postman.db"\n'))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"postman.toml: [ledger]: url: there is no directory {tmp_path}/data; make it, or name another\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as another_program:
        another_program.settimeout(0)
        bind = f"127.0.0.1:{another_program.getsockname()[1]}"
        ended = ran(command, *configured(tmp_path), POSTMAN_BIND=bind)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"--bind {bind} (or POSTMAN_BIND): this port is in use; stop the other program, or choose another port\n"
    )


def test_check_refuses_a_pair_of_stores_that_serve_would_refuse(tmp_path: Path) -> None:
    text = FAKE + '[ledger]\nurl = "memory:"\n[queue]\nurl = "sqlite:postman.db"\n'
    ended = ran("check", *configured(tmp_path, text))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("[queue] outlives [ledger]")


def test_check_opens_nothing(tmp_path: Path) -> None:
    ended = ran("check", *configured(tmp_path, FAKE + 'settings = { file = "sent.jsonl" }\n'))
    assert ended.returncode == 0
    assert [line.split() for line in ended.stdout.splitlines()] == [
        ["primary", "good", "configured"],
        ONLY_FAKES.split(),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["postman.toml"]


def test_check_live_is_not_content_with_fakes_as_status_is_not(tmp_path: Path) -> None:
    ended = ran("check", "--live", *configured(tmp_path))
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[1] == ONLY_FAKES


def test_check_live_asks_each_provider_and_ends_with_1_when_one_is_not_well(tmp_path: Path) -> None:
    text = (
        f'{FAKE}[[provider]]\nname = "real"\nplugin = "sendgrid"\n'
        'settings = { api-key = { env = "A_KEY" }, base-url = "http://127.0.0.1:1" }\n'
    )
    ended = ran("check", "--live", "--json", *configured(tmp_path, text), A_KEY="a-canary")
    assert ended.returncode == 1
    document = json.loads(ended.stdout)
    assert [provider["good"] for provider in document["providers"]] == [True, False]
    assert document["providers"][0]["said"] == "a fake: delivers nothing"
    assert "canary" not in ended.stdout + ended.stderr


async def test_check_live_asks_all_providers_at_once_and_tells_them_in_the_order_of_the_file(tmp_path: Path) -> None:
    asked, names = trio.Event(), ["first", "second", "third"]
    answered = {name: trio.Event() for name in names}

    async def play(turn: Turn) -> bool:
        """The last one answers first, once all were asked."""
        await turn.read_request()
        name = turn.request.headers["authorization"].removeprefix("Bearer ")
        if len(vendor.requests) == len(names):
            asked.set()
        await asked.wait()
        if name != names[-1]:
            await answered[names[names.index(name) + 1]].wait()
        await turn.stream.send_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        answered[name].set()
        return True

    async with open_fault_server(otherwise=Act(play)) as vendor:
        tables = (
            f'[[provider]]\nname = "{name}"\nplugin = "sendgrid"\n'
            f'settings = {{ api-key = {{ env = "KEY_{name}" }}, base-url = "{vendor.url}" }}\n'
            for name in names
        )
        keys = {f"KEY_{name}": name for name in names}
        command = partial(ran, "check", "--live", *configured(tmp_path, "".join(tables)), **keys)
        ended = await trio.to_thread.run_sync(command)
    assert ended.returncode == 1
    lines = [line.split(maxsplit=2) for line in ended.stdout.splitlines()]
    assert [(name, verdict) for name, verdict, _ in lines] == [(name, "BAD") for name in names], ended.stdout
    assert all("401" in said for _, _, said in lines), ended.stdout


def test_plugins_are_listed_with_their_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    found = {
        (plugin["kind"], plugin["name"]): plugin["from"] for plugin in json.loads(capsys.readouterr().out)["plugins"]
    }
    assert found["ledger", "sqlite"][0].startswith("postman-mail ")
    assert found["provider", "lamda"][0].startswith("postman-plugin-fake ")


def test_a_new_key_is_shown_with_the_lines_for_postman_toml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "shop"]) == 0
    out = capsys.readouterr().out
    token = next(word for word in out.split() if word.startswith("pm_live_"))
    lines = out[out.index("[[http.key]]") :]
    assert tomllib.loads(lines)["http"]["key"][0]["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert load(Path(configured(tmp_path, lines + FAKE)[1])).config.http.key[0].name == "shop"


def test_a_new_key_may_have_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "shop", "--expires", "2027-01-01"]) == 0
    out = capsys.readouterr().out
    path = Path(configured(tmp_path, out[out.index("[[http.key]]") :] + FAKE)[1])
    assert load(path).config.http.key[0].expires == datetime(2027, 1, 1, tzinfo=UTC)
    path.write_text(path.read_text().replace("00:00+00:00", '00:00"').replace("= 2027", '= "2027'))
    with pytest.raises(ConfigError, match="a time with its offset, without quotes"):
        load(path)


def test_a_new_key_may_be_for_an_admin_or_for_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, scopes in (("--scope admin", {"admin"}), ("--scope send --scope read", {"send", "read"})):
        assert main(["key", "new", "ops", *words.split()]) == 0
        out = capsys.readouterr().out
        path = Path(configured(tmp_path, out[out.index("[[http.key]]") :] + FAKE)[1])
        assert load(path).config.http.key[0].scopes == scopes
    assert main(["key", "new", "ops", "--scope", "all"]) == 2


def test_a_key_for_a_name_that_cannot_be_one_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", 'x"\nscopes = ["admin"]']) == 2
    assert "1 to 64 of" in capsys.readouterr().err
