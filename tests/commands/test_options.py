"""Where the commands look for the service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from postman.cli import main
from postman.commands.options import url_of
from postman.errors import ConfigError


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("[::1]:8901", "http://[::1]:8901"),
        ("localhost:1", "http://localhost:1"),
    ],
)
def test_the_address_of_the_service_is_in_postman_toml(tmp_path: Path, bind: str, url: str) -> None:
    config = tmp_path / "postman.toml"
    config.write_text(f'[http]\nbind = "{bind}"\n[[provider]]\nname = "a"\nplugin = "fake"\n')
    assert url_of(config) == url


def test_without_postman_toml_the_usual_address_is_asked_but_not_in_place_of_a_file_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert url_of(Path("postman.toml")) == "http://127.0.0.1:8901"
    assert main(["replay", "--all", "--state", "failed", "--config", "prod.tml"]) == 2
    assert "prod.tml does not exist" in capsys.readouterr().err


def test_a_mistake_in_the_file_does_not_keep_a_service_that_runs_from_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "postman.toml"
    config.write_text('[http]\nbind = "127.0.0.1:7"\n[[provider]]\nwieght = 2\n')
    assert url_of(config) == "http://127.0.0.1:7"
    config.write_text('[http]\nbind = "nowhere"\n')
    with pytest.raises(ConfigError, match=r'postman\.toml: \[http\]: bind = "nowhere" is not an .*\n--url URL'):
        url_of(config)
    monkeypatch.setenv("POSTMAN_BIND", "8901")
    with pytest.raises(ConfigError, match=r'^POSTMAN_BIND = "8901" is not an address'):
        url_of(config)
    config.write_text("[http")
    with pytest.raises(ConfigError, match=r"postman\.toml: not TOML(.|\n)*--url URL"):
        url_of(config)


@pytest.mark.parametrize(("bind", "url"), [("0.0.0.0:1", "http://127.0.0.1:1"), ("[::]:1", "http://[::1]:1")])
def test_a_service_on_all_addresses_is_asked_on_this_machine(tmp_path: Path, bind: str, url: str) -> None:
    config = tmp_path / "postman.toml"
    key = '[[http.key]]\nname = "a"\nsha256 = "' + "0" * 64
    config.write_text(f'[http]\nbind = "{bind}"\n{key}"\n[[provider]]\nname = "a"\nplugin = "fake"\n')
    assert url_of(config) == url


def test_who_may_not_read_postman_toml_may_ask_by_url(tmp_path: Path) -> None:
    config = tmp_path / "postman.toml"
    config.touch(mode=0)
    command = [sys.executable, "-m", "postman", "status", "--config", str(config)]
    if os.geteuid() == 0:  # root may read it, unless it is somebody else's and this is forbidden
        os.chown(config, 65_534, 65_534)
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]
    for words, code, said in (
        ([], 2, f"{config} cannot be read: Permission denied\n--url URL asks a service that runs all the same."),
        (["--url", "http://127.0.0.1:1"], 3, "http://127.0.0.1:1 does not answer"),
    ):
        ended = subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=60)
        assert (ended.returncode, ended.stderr[: len(said)]) == (code, said), ended.stderr
