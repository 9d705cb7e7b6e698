"""Plugins are real ones: directories with a module and a dist-info, put on sys.path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from postman.config import load
from postman.errors import ConfigError
from postman.hookspecs import LEDGERS, PROVIDERS
from postman.kind import Kind
from postman.plugin_directory import add_directory
from postman.registry import decode_settings, discover, load_kind, set_up
from postman.secret import Secret

GOOD = """
from contextlib import asynccontextmanager
import msgspec
from postman.hookspecs import hookimpl
from postman.kind import Kind, ProviderSettings

class Settings(ProviderSettings, frozen=True):
    host: str = ""

@asynccontextmanager
async def open_it(settings, surroundings):
    yield object()

@hookimpl
def postman_register():
    return Kind("tiny", Settings, open_it)
"""


class Plugins:
    """A directory of plugins on sys.path."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.modules: list[str] = []

    def add(
        self, name: str, source: str, *, distribution: str = "", group: str = PROVIDERS, version: str = "1"
    ) -> None:
        distribution = distribution or f"postman-plugin-{name}"
        module = distribution.replace("-", "_")
        self.modules.append(module)
        (self.directory / f"{module}.py").write_text(source)
        info = self.directory / f"{module}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[Plugins]:
    directory = tmp_path / "plugins"
    directory.mkdir(mode=0o755)
    path = list(sys.path)
    found = Plugins(directory)
    add_directory(directory)
    yield found
    sys.path[:] = path
    for module in found.modules:
        sys.modules.pop(module, None)
    importlib.invalidate_caches()


def why_not(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_kind(PROVIDERS, name)
    return str(caught.value)


def test_discovery_lists_names_and_imports_nothing(plugins: Plugins) -> None:
    plugins.add("bomb", "raise SystemExit(3)")
    assert {"bomb", "fake", "lamda", "delta"} <= discover(PROVIDERS).keys()
    assert "postman_plugin_bomb" not in sys.modules
    assert {"memory", "sqlite"} <= discover(LEDGERS).keys()


def test_a_plugin_installed_later_is_found_by_the_next_discovery(plugins: Plugins) -> None:
    assert "tiny" not in discover(PROVIDERS)
    plugins.add("tiny", GOOD)
    kind = load_kind(PROVIDERS, "tiny")
    assert (kind.name, kind.delivers) == ("tiny", True)


def test_only_the_plugin_that_is_named_is_imported(plugins: Plugins) -> None:
    plugins.add("tiny", GOOD)
    plugins.add("bomb", "raise SystemExit(3)")
    load_kind(PROVIDERS, "tiny")
    assert "postman_plugin_bomb" not in sys.modules


def test_a_name_that_is_not_installed_gets_the_nearest_and_the_cure(plugins: Plugins) -> None:
    plugins.add("tiny", GOOD)
    why = why_not("tinny")
    assert why.startswith("no plugin named 'tinny'; did you mean 'tiny'? (installed: ")
    assert why.endswith("A provider is added by installing its distribution, see plugins/README.md")
    assert "did you mean" not in why_not("zzz")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise ValueError('no luck')", "cannot be used: ValueError: no luck; repair, upgrade or uninstall it"),
        ("import sys; sys.exit(1)", "cannot be used: SystemExit: 1"),
        ("import nothing_of_this_name", "cannot be used: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def broken(:", "cannot be used: SyntaxError"),
        ("", "it has no hook postman_register"),
        ("def postman_register(): return 1", "it has no hook postman_register"),
        (GOOD.replace('return Kind("tiny", Settings, open_it)', "return 3"), "returned int, not a postman.kind.Kind"),
        (GOOD.replace("Settings, open_it", "dict, open_it"), "settings are dict, not a msgspec.Struct"),
        (GOOD.replace("def postman_register()", "def postman_register(nobody)"), "PluginValidationError"),
        (GOOD.replace("return Kind(", "raise RecursionError('deep') or ("), "RecursionError: deep"),
    ],
)
def test_each_way_to_be_broken_is_told_with_plugin_and_distribution(plugins: Plugins, source: str, why: str) -> None:
    plugins.add("tiny", source, version="1.2")
    told = why_not("tiny")
    assert told.startswith("plugin 'tiny' (postman-plugin-tiny 1.2) cannot be used: ")
    assert why in told


def test_ctrl_c_while_a_plugin_is_imported_is_still_ctrl_c(plugins: Plugins) -> None:
    plugins.add("tiny", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_kind(PROVIDERS, "tiny")


def test_two_distributions_of_one_name_are_a_conflict_only_for_who_asks_for_it(plugins: Plugins) -> None:
    plugins.add("tiny", GOOD)
    plugins.add("tiny", GOOD, distribution="tiny-of-somebody-else")
    plugins.add("other", GOOD)
    assert load_kind(PROVIDERS, "other")
    told = why_not("tiny")
    assert "postman-plugin-tiny 1 and tiny-of-somebody-else 1 both bring a provider named 'tiny'" in told
    assert "uninstall one of them" in told


def test_a_directory_of_plugins_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "plugin.py"
    module.touch()
    for path in (tmp_path, module):
        path.chmod(0o777)
        with pytest.raises(ConfigError, match=f"{path}: everybody may write this directory of plugins; run: chmod -R"):
            add_directory(tmp_path)
        path.chmod(0o755)
    with pytest.raises(ConfigError, match="no such directory"):
        add_directory(tmp_path / "nothing")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """Settings of an imaginary provider."""

    api_key: Secret
    spare_key: Secret | None = None
    host: str = "localhost"
    port: int = 25
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if self.port == 13:
            raise ValueError("port 13 is unlucky")


def decoded(directory: Path, **settings: object) -> Settings:
    kind = Kind[Settings, object]("imaginary", Settings, lambda *_: None)  # type: ignore[arg-type]  # is never opened
    return decode_settings(kind, settings, 'postman.toml: [[provider]] "x"', directory)


def refused(directory: Path, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        decoded(directory, **settings)
    return str(caught.value)


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AN_API_KEY", "abc")
    (tmp_path / "key").write_text("def\n")
    (tmp_path / "key").chmod(0o400)
    settings = decoded(tmp_path, **{"api-key": {"env": "AN_API_KEY"}, "spare-key": {"file": "key"}})
    assert settings.api_key.reveal() == "abc"
    assert settings.spare_key == Secret("def")
    assert "abc" not in repr(settings)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AN_API_KEY", "abc")
    key = {"env": "AN_API_KEY"}
    assert decoded(tmp_path, **{"api-key": key, "ca-file": "ca.pem"}).ca_file == tmp_path / "ca.pem"
    assert decoded(tmp_path, **{"api-key": key, "ca-file": "/etc/ca.pem"}).ca_file == Path("/etc/ca.pem")


@pytest.mark.parametrize(
    "secret",
    ["sk_live_canary", {"env": "sk_live_canary", "file": "x"}, {"value": "sk_live_canary"}, {}, ["sk_live_canary"]],
)
def test_a_secret_that_is_not_one_is_refused_and_not_repeated(tmp_path: Path, secret: object) -> None:
    told = refused(tmp_path, **{"api-key": secret})
    assert 'a secret is not written here: use { env = "NAME" } or { file = "PATH" }' in told
    assert "canary" not in told


def test_each_secret_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    assert "the environment variable NOBODY_SET_THIS is not set" in refused(
        tmp_path, **{"api-key": {"env": "NOBODY_SET_THIS"}}
    )
    assert "nothing cannot be read: No such file" in refused(tmp_path, **{"api-key": {"file": "nothing"}})
    (tmp_path / "empty").write_text("\n")
    assert "the file empty is empty" in refused(tmp_path, **{"api-key": {"file": "empty"}})
    (tmp_path / "open").write_text("abc")
    (tmp_path / "open").chmod(0o602)
    assert "may be written by everybody" in refused(tmp_path, **{"api-key": {"file": "open"}})


def test_wrong_settings_are_named_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AN_API_KEY", "abc")
    told = refused(tmp_path, **{"api-key": {"env": "AN_API_KEY"}, "hots": "x", "port": "25"})
    assert sorted(told.splitlines()) == [
        'postman.toml: [[provider]] "x": "port": must be a whole number, not text',
        'postman.toml: [[provider]] "x": unknown key "hots"; did you mean "host"?',
    ]
    assert "port 13 is unlucky" in refused(tmp_path, **{"api-key": {"env": "AN_API_KEY"}, "port": 13})


def configured(directory: Path, text: str) -> Path:
    path = directory / "postman.toml"
    path.write_text(text)
    return path


def test_set_up_decodes_everything_that_the_file_names(tmp_path: Path) -> None:
    text = '[[provider]]\nname = "a"\nplugin = "fake"\nsettings = { file = "a.jsonl" }\n'
    setup = set_up(load(configured(tmp_path, text)))
    assert setup.ledger.kind.name == setup.queues[0].kind.name == "sqlite"
    assert setup.providers[0].table.name == "a"
    assert setup.providers[0].origin.startswith("postman-plugin-fake ")
    assert getattr(setup.providers[0].settings, "file") == tmp_path / "a.jsonl"  # noqa: B009  # the kind's own settings
    assert set_up(load(configured(tmp_path, text))).providers == setup.providers


@pytest.mark.parametrize(
    ("url", "mistake"),
    [
        ("sqlight:x", "[ledger]: url: no plugin named 'sqlight'"),
        ("memory:?colour=red", '[ledger.url]: unknown key "colour"'),
        ("sqlite:", "[ledger]: url: 'sqlite:' names no file"),
        ("sqlite:no/postman.db", "[ledger]: url: there is no directory {}/no; make it"),
        ("sqlite:.", "[ledger]: url: {} is not a file"),
        ("sqlite:a\\u0000b", "[ledger]: url: {}/a\0b cannot be opened"),
        ("sqlite:" + 300 * "a", "[ledger]: url: {}/" + 300 * "a" + " cannot be opened: File name too long"),
        ("sqlite:///postman.db", "[ledger]: url: 'sqlite:///postman.db' names no file; write sqlite:PATH"),
        ("redis://", "[ledger]: url: this URL names no server"),
        ("postgresql://a b", "[ledger]: url: this is no URL of PostgreSQL; write postgresql://USER@HOST"),
        ("redis://h?wait=1&wait=2", '[ledger.url]: "wait" is there 2 times'),
        ("redis://h?policy=x", '[ledger.url]: unknown key "policy" (known: '),
    ],
)
def test_a_ledger_that_cannot_be_opened_is_told_before_it_is_and_once(tmp_path: Path, url: str, mistake: str) -> None:
    text = f'[ledger]\nurl = "{url}"\n[[provider]]\nname = "a"\nplugin = "fake"\n'
    with pytest.raises(ConfigError) as caught:
        set_up(load(configured(tmp_path, text)))
    [told] = str(caught.value).splitlines()
    assert told.startswith(f"postman.toml: {mistake.format(tmp_path)}")


def test_a_queue_that_cannot_be_opened_is_told_before_it_is(tmp_path: Path) -> None:
    text = '[queue]\nurl = ["sqs:mail", "sqlite:no/a.db"]\n[[provider]]\nname = "a"\nplugin = "fake"\n'
    with pytest.raises(ConfigError) as caught:
        set_up(load(configured(tmp_path, text)))
    sqs, sqlite = str(caught.value).splitlines()
    assert sqs.startswith("postman.toml: [queue]: url: '' is no region of AWS")
    assert sqlite.startswith(f"postman.toml: [queue]: url: there is no directory {tmp_path}/no")


def test_set_up_tells_the_mistakes_of_all_tables_at_once(tmp_path: Path) -> None:
    text = (
        '[ledger]\nurl = "sqlight:x"\n[queue]\nurl = "memory:?colour=red"\n'
        '[[provider]]\nname = "a"\nplugin = "fkae"\n'
        '[[provider]]\nname = "b"\nplugin = "fake"\nsettings = { latency = -1, outcome = ["accept"] }\n'
    )
    with pytest.raises(ConfigError) as caught:
        set_up(load(configured(tmp_path, text)))
    ledger, queue, first, *second = str(caught.value).splitlines()
    assert ledger.startswith("postman.toml: [ledger]: url: no plugin named 'sqlight'; did you mean 'sqlite'?")
    assert queue.startswith('postman.toml: [queue.url]: unknown key "colour"')
    assert first.startswith("postman.toml: [[provider]] #1 \"a\": no plugin named 'fkae'; did you mean 'fake'?")
    assert sorted(second) == [
        'postman.toml: [[provider]] #2 "b" settings: "latency": must be a number >= 0.0',
        'postman.toml: [[provider]] #2 "b" settings: unknown key "outcome"; did you mean "outcomes"?',
    ]
