from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from postman.config import SMALLEST, DeliveryTable, Http, LedgerTable, Loaded, QueueTable, load
from postman.errors import ConfigError
from postman.mail import OnDoubt

DIGEST = "0" * 64
OURS = Path(__file__).parents[1] / "postman.toml"


def write(directory: Path, text: str) -> Path:
    path = directory / "postman.toml"
    path.write_text(text)
    return path


def loaded(directory: Path, text: str) -> Loaded:
    return load(write(directory, text))


def mistakes(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(directory, text)
    return str(caught.value).splitlines()


def test_the_smallest_file_is_enough_and_all_else_has_a_default(tmp_path: Path) -> None:
    config = loaded(tmp_path, SMALLEST).config
    assert config.http.bind == "127.0.0.1:8901"
    assert config.delivery.on_doubt is OnDoubt.HOLD
    assert [provider.name for provider in config.provider] == ["lamda"]


def test_the_file_of_the_repository_can_be_loaded() -> None:
    assert load(OURS).config.provider


def test_the_postman_toml_of_the_repository_shows_every_key_with_its_default() -> None:
    text = OURS.read_text(encoding="utf-8").partition("# Providers,")[0]
    text = re.sub(r"^# \[\[.*?\n\n", "\n", text, flags=re.MULTILINE | re.DOTALL)  # the example of a key
    shown = tomllib.loads(re.sub(r"^# (?!node)(?=[a-z-]+ = )", "", text, flags=re.MULTILINE))
    assert shown["queue"].pop("url") == shown["ledger"]["url"]
    tables: dict[str, type[msgspec.Struct]] = {
        "http": Http,
        "ledger": LedgerTable,
        "queue": QueueTable,
        "delivery": DeliveryTable,
    }
    for name, table in tables.items():
        assert msgspec.convert(shown[name], table) == table(), name
        left_out = {field.encode_name for field in msgspec.structs.fields(table)} - shown[name].keys()
        assert left_out == {"http": {"key"}, "queue": {"url"}}.get(name, set())


def test_paths_are_relative_to_the_file_and_the_queue_is_on_the_ledger_by_default(tmp_path: Path) -> None:
    config = loaded(tmp_path, f'[ledger]\nurl = "sqlite:a/b.db"\n{SMALLEST}').config
    assert config.ledger.url == config.queue_urls[0] == f"sqlite:{tmp_path}/a/b.db"
    config = loaded(tmp_path, f'[ledger]\nurl = "sqlite:/x/y.db"\n[queue]\nurl = "memory:"\n{SMALLEST}').config
    assert (config.ledger.url, config.queue.url) == ("sqlite:/x/y.db", "memory:")


def test_several_queues_are_a_list(tmp_path: Path) -> None:
    for url, whole in (
        ('["sqlite:a.db", "redis://x"]', (f"sqlite:{tmp_path}/a.db", "redis://x")),
        ('["memory:"]', "memory:"),
    ):
        config = loaded(tmp_path, f"[queue]\nurl = {url}\n{SMALLEST}").config
        assert config.queue.url == whole


@pytest.mark.parametrize(
    ("urls", "mistake"),
    [
        ("[]", "url = [] names no queue; leave it out to have the queue where the ledger is"),
        ('["sqlite:a.db", "memory"]', 'url = "memory" has no scheme, such as memory: or sqlite:postman.db'),
        ('["redis://x", "redis://x"]', "url names the queue [0] several times; name each once"),
        ('["memory:", "sqlite:/l.db"]', 'url: "sqlite:/l.db" is the file of the ledger; several queues need files of'),
    ],
)
def test_what_is_wrong_with_a_list_of_queues_is_told(tmp_path: Path, urls: str, mistake: str) -> None:
    text = f'[ledger]\nurl = "sqlite:/l.db"\n[queue]\nurl = {urls}\n{SMALLEST}'
    [told] = mistakes(tmp_path, text)
    assert told.startswith(f"postman.toml: [queue]: {mistake}")


def test_the_largest_body_fits_among_all_bodies(tmp_path: Path) -> None:
    [told] = mistakes(tmp_path, f"[http]\nmax-body = 2_000\nmax-bodies = 1_999\n{SMALLEST}")
    assert "max-bodies is smaller than max-body" in told


def test_every_mistake_is_named_at_once_with_file_table_and_cure(tmp_path: Path) -> None:
    text = f"""
    nodes = 3
    [http]
    max_batch = 5
    [[http.key]]
    name = "shop"
    sha256 = "abc"
    scopes = ["send", "delete"]
    [delivery]
    workers = 0
    grace = "soon"
    on-doubt = "panic"
    timeout = inf
    [[provider]]
    name = "first"
    plugin = "lamda"
    [[provider]]
    name = "back up"
    plugin = "delta"
    wieght = 1
    [[provider]]
    weight = 1
    {""}
    """
    assert sorted(mistakes(tmp_path, text)) == sorted(
        [
            'postman.toml: unknown key "nodes"; did you mean "node"?',
            'postman.toml: [http]: unknown key "max_batch"; did you mean "max-batch"?',
            'postman.toml: [[http.key]] #1 "shop": "sha256": must be 64 hex digits, as `postman key new` prints them',
            'postman.toml: [[http.key]] #1 "shop": "scopes": [1] must be one of send, read, cancel, admin',
            'postman.toml: [delivery]: "workers": must be a whole number >= 1',
            'postman.toml: [delivery]: "grace": must be a number, not text',
            'postman.toml: [delivery]: "on-doubt": must be one of hold, resend',
            'postman.toml: [delivery]: "timeout": must be finite',
            'postman.toml: [[provider]] #2 "back up": unknown key "wieght"; did you mean "weight"?',
            'postman.toml: [[provider]] #2 "back up": "name": must be 1 to 64 of A-Z, a-z, 0-9, dot, dash, underscore',
            'postman.toml: [[provider]] #3: "name" is missing',
            'postman.toml: [[provider]] #3: "plugin" is missing',
        ],
    )


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[http\n", "postman.toml: not TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"),
        ("http = 3\n" + SMALLEST, "postman.toml: [http]: must be a table"),
        (
            "[provider]\nname = 'x'",
            'postman.toml: "provider" is a table that may be there several times: write [[provider]]',
        ),
        ('provider = "x"', 'postman.toml: "provider" is a table that may be there several times: write [[provider]]'),
        (f"a = {5_000 * '['}{5_000 * ']'}", "postman.toml: not TOML: maximum recursion depth"),
        (
            f"b = 1\na = 1\n{SMALLEST}",
            'unknown key "b" (known: delivery, http, ledger, node, provider, queue)\npostman.toml:',
        ),
        (f'{SMALLEST}from-domains = "example.com"', '"from-domains": must be a list, not text'),
        (f"{SMALLEST}weight = 0.5", '"weight": must be a whole number'),
        (f"{SMALLEST}timeout = 2026-01-01", '"timeout": must be a number, not a date'),
        ("", "there is no [[provider]], so nothing can be sent"),
        (SMALLEST * 2, 'several [[provider]] have name = "lamda"; each needs one of its own'),
        (
            f'[[http.key]]\nname="a"\nsha256="{DIGEST}"\n[[http.key]]\nname="b"\nsha256="{DIGEST}"\n{SMALLEST}',
            'several [[http.key]] have sha256 = "00000000..."',
        ),
        (
            f'[[http.key]]\nname="a"\nsha256="{DIGEST}"\nfrom=["Example.com"]\n{SMALLEST}',
            "[0] must be a domain in lower case",
        ),
        (
            f'[http]\nbind = "0.0.0.0:80"\n{SMALLEST}',
            "can be reached from other machines, and there is no [[http.key]]",
        ),
        (f'[http]\nbind = "8901"\n{SMALLEST}', 'bind = "8901" is not an address and a port'),
        (f'[ledger]\nurl = "postman.db"\n{SMALLEST}', 'url = "postman.db" has no scheme'),
        (f'[ledger]\nurl = ["memory:"]\n{SMALLEST}', '[ledger]: "url": must be one URL, such as sqlite:postman.db'),
        (f"[queue]\nurl = 3\n{SMALLEST}", '[queue]: "url": must be text or a list, not a whole number'),
        (f"[ledger]\nretention = 10\n{SMALLEST}", "key-retention is longer than retention"),
        (f"[delivery]\ntimeout = true\n{SMALLEST}", "must be a number, not true or false"),
        (f"[delivery]\ntimeout = nan\n{SMALLEST}", "must be a number > 0"),
        (f'[[provider]]\nname = "a\\n"\nplugin = "x"\n{SMALLEST}', '"name": must be 1 to 64 of'),
    ],
)
def test_a_mistake_is_told_in_words(tmp_path: Path, text: str, mistake: str) -> None:
    assert mistake in "\n".join(mistakes(tmp_path, text))


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:8901", "[::]:8901", "10.0.0.1:80", "example.com:80", "localhost.evil.com:80", "127.1:80"]
)
def test_an_address_that_other_machines_reach_needs_a_key(tmp_path: Path, bind: str) -> None:
    assert "`postman key new NAME` makes one" in "\n".join(mistakes(tmp_path, f'[http]\nbind = "{bind}"\n{SMALLEST}'))


@pytest.mark.parametrize("domain", ["Example.com", "münchen.example", "a@b.com", "localhost", "a..b", ".com"])
def test_a_domain_that_no_address_has_is_refused(tmp_path: Path, domain: str) -> None:
    key = f'[[http.key]]\nname = "a"\nsha256 = "{DIGEST}"\nfrom = ["{domain}"]\n{SMALLEST}'
    for text in (key, f'{SMALLEST}from-domains = ["{domain}"]'):
        assert "[0] must be a domain in lower case, or in its xn-- form" in "\n".join(mistakes(tmp_path, text))


def test_a_bind_of_the_command_line_takes_the_place_of_the_file_s_and_is_checked_like_it(tmp_path: Path) -> None:
    path = write(tmp_path, f'http.bind = "127.0.0.1:1"\n{SMALLEST}')
    given = load(path, bind="[::1]:2", only="http")
    assert given.config.http.bind == "[::1]:2"
    assert given.again() == given
    for bind, mistake in (("8901", "is not an address"), ("0.0.0.0:1", "can be reached")):
        with pytest.raises(ConfigError, match=rf"^--bind {bind} \(or POSTMAN_BIND\) {mistake}"):
            load(path, bind=bind)


def test_keys_allow_an_address_that_other_machines_reach(tmp_path: Path) -> None:
    text = f'[http]\nbind = "0.0.0.0:80"\n[[http.key]]\nname = "shop"\nsha256 = "{DIGEST}"\n{SMALLEST}'
    assert loaded(tmp_path, text).config.http.key[0].scopes == {"send", "read", "cancel"}


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    for name in ("postman.toml", "a" * 300):
        with pytest.raises(ConfigError, match=rf"{name} does not exist. --config PATH names another(.|\n)*provider"):
            load(tmp_path / name)


def test_a_file_that_everybody_may_write_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="may be written by everybody; run: chmod o-w"):
        load(path)


@pytest.mark.parametrize("text", ["\ufeff" + SMALLEST, SMALLEST.replace("\n", "\r\n")])
def test_a_file_may_come_from_an_editor_of_windows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "postman.toml"
    path.write_bytes(text.encode())
    assert load(path).config.provider[0].name == "lamda"


def test_a_file_that_is_no_text_or_a_directory_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
