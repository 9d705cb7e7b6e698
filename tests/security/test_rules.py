"""The rules of security, and the tests that hold them. A rule without a test of its own elsewhere has one here.

| rule | what must hold | test |
|---|---|---|
| S1 | no control characters in headers | test_a_line_end_inside_an_encoded_word_is_found |
| S2 | names of headers are a short list | test_a_header_outside_the_list_is_refused |
| S2 | relays take no orders from clients | test_a_header_that_a_vendors_relay_would_obey_is_left_out |
| S3 | nothing breaks out of an SMTP command | test_what_could_break_out_of_a_header_or_command_is_rejected |
| S4 | one end of data | test_lone_dots_and_bare_line_breaks_arrive_as_one_mail_each |
| S5 | one strict parser of addresses | test_a_trick_is_refused_with_a_reason |
| S6 | bounds of an address | test_the_reason_says_what_is_wrong |
| S7 | the domain that is checked is the one mailed to | test_an_address_is_read_as_its_canonical_form |
| S8 | no unseen characters | test_a_name_that_hides_something_or_shows_another_address_is_refused |
| S9 | addresses are compared in one form | test_local_parts_that_differ_in_case_are_two_addresses |
| S10 | no foreign address in a name | test_a_name_that_hides_something_or_shows_another_address_is_refused |
| S11 | a key sends from its domains alone | test_a_key_sends_only_from_its_domains |
| S12 | bounds of requests | test_what_is_just_within_its_bounds_is_read |
| S12 | before they take memory | test_values_are_counted_before_they_take_memory |
| S13 | nothing packed is taken | test_a_body_that_is_not_plain_json_is_415 |
| S14 | bounds of answers | test_a_body_may_be_as_long_as_the_limit_and_no_longer |
| S14 | bounds of what plugins say | test_nothing_comes_out_whatever_plugins_and_vendors_say |
| S15 | strict JSON | test_poison_is_400 |
| S16 | strict base64, types and names of files | test_a_filename_with_a_path_or_a_trick_is_refused |
| S20 | keys are long, with a checksum, and kept as digests | test_a_key_with_one_character_changed_is_no_key |
| S21 | keys are compared whole | test_anything_but_a_known_key_is_nobodys |
| S22 | scopes on every route | test_each_route_answers_each_client_as_the_matrix_says |
| S23 | an id is no authority | test_another_clients_letter_and_one_that_never_was_are_told_alike |
| S24 | rates count mails | test_the_rate_counts_mails_and_says_when_to_come_back |
| S25 | keys overlap, and are revoked at once | test_a_key_that_was_taken_away_is_refused_at_once |
| S29 | secrets do not come out | test_nothing_comes_out_whatever_plugins_and_vendors_say |
| S31 | nor what is in mails | test_nothing_comes_out_whatever_plugins_and_vendors_say |
| S33 | no log line is forged | test_a_value_cannot_forge_a_line |
| S34 | plugins come from where not everybody writes | test_nothing_is_imported_from_the_working_directory |
| S35 | a reload obeys no file that everybody may write | test_a_reload_of_a_file_that_everybody_may_write_is_refused |
| S36 | every distribution is pinned | test_every_installed_distribution_is_pinned |
| S37 | no ambiguous framing | test_bad_framing_is_refused_and_the_connection_closed |
| S38 | slow clients are cut | test_slow_clients_are_cut_while_others_are_served |
| S39 | TLS is verified | test_a_tls_failure_is_surely_not_accepted_and_never_gone_round |
| S39 | no proxies of the environment | test_proxies_of_the_environment_are_not_asked |
| S40 | no redirect is followed | test_a_redirect_is_an_answer_and_the_key_goes_nowhere_else |
| S41 | values are no SQL | test_whatever_a_client_names_is_no_sql |
| S42 | bytes of others are no code | test_a_pickle_on_the_queue_is_buried_and_not_run |
| S43 | problems are opaque | test_what_the_ledger_raises_becomes_a_problem_that_tells_nothing_of_our_insides |
| S44 | by default this machine alone is served | test_by_default_this_machine_alone_is_served_and_others_need_keys |
| S45 | files are their owner's | test_files_are_readable_by_their_owner_alone |

Not here, because there is nothing yet that it could be about: S17-S19 (attachments by URL), S26-S28 (webhooks), S30
(templates), S32 (encryption at rest), S46 (suppression lists). S25 asks for an end and a last use of keys, S44 for a
listener of its own for people: there are scopes instead.
"""

from __future__ import annotations

import ast
import os
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import apsw
import pytest
import trio

from postman import service
from postman.backends.sqlite.ledger import open_both
from postman.config import Http, load
from postman.errors import ConfigError
from postman.host import is_loopback, split_port
from postman.kind import Surroundings
from postman.ledger import Call, Claim, Filter, LedgerSettings
from postman.queue import QueueSettings
from postman.testing.letters import a_letter
from postman.wire import ClientFactory

ROOT = Path(__file__).parents[2]
TOML = '[http]\nbind = "127.0.0.1:0"\n[[provider]]\nname = "fake"\nplugin = "fake"\n'
SURROUNDINGS = Surroundings("test", 1, 1.0, ClientFactory())


def test_every_test_of_the_table_exists(not_there: Callable[[str], set[str]]) -> None:
    assert not_there(__doc__ or "") == set()


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "postman.toml"
    path.write_text(TOML)
    return path


def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, toml: Path) -> None:
    evil = tmp_path / "evil-1.dist-info"
    evil.mkdir()
    (evil / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (evil / "entry_points.txt").write_text("[postman.providers]\nevil = evil\n")
    for name in ("evil", "structlog", "trio", "postman_plugin_fake"):
        (tmp_path / f"{name}.py").write_text("open('was-run', 'w')\n")
    program = Path(sys.executable).with_name("postman")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for words in (["plugins"], ["check", "--config", str(toml)]):
        said = subprocess.run(
            [program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert "evil" not in said.stdout
    assert not (tmp_path / "was-run").exists()


async def test_a_reload_of_a_file_that_everybody_may_write_is_refused(toml: Path) -> None:
    reload = ["reload", "--json", "--url"]
    program = Path(sys.executable).with_name("postman")
    async with trio.open_nursery() as nursery:
        url = await nursery.start(service.run, load(toml))
        toml.write_text(TOML.replace('name = "fake"', 'name = "other"'))
        toml.chmod(0o666)
        ended = await trio.run_process([program, *reload, url], capture_stdout=True, capture_stderr=True, check=False)
        assert ended.returncode == 1
        assert b"may be written by everybody; run: chmod o-w" in ended.stdout + ended.stderr
        nursery.cancel_scope.cancel()


def test_every_installed_distribution_is_pinned() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    pinned = dict(pin.split("==") for pin in tool["constraint-dependencies"])
    loose = {
        f"{found.name} {found.version}"
        for found in distributions()
        if not found.name.startswith("postman") and pinned.get(found.name.lower().replace("_", "-")) != found.version
    }
    assert not loose


async def test_whatever_a_client_names_is_no_sql(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/p.db"
    nasty = ["'; DROP TABLE letter; --", '"', "{}*", "%", "_", "\\", "a b", "?1", "x" * 255]
    async with open_both(LedgerSettings(url=url), QueueSettings(url=url), SURROUNDINGS) as (ledger, _):
        for number, word in enumerate(nasty, 1):
            accepted = await ledger.accept([a_letter(number, tags=(word,))], word, word, b"1")
            again = await ledger.accept([a_letter(number + 100)], word, word, b"1")
            assert again.replayed
            assert again.ids == accepted.ids
            await ledger.pause(word, word)
        assert [pause.provider for pause in await ledger.pauses()] == nasty
        for number, word in enumerate(nasty, 1):
            for filter in (Filter(client=word), Filter(tag=word)):
                assert [row.id for row in await ledger.find(filter, None, 100)] == [a_letter(number).id]
        for since in (-1e11, 0.0, 4e9, 2.5e11):  # from the year 1 to 9999
            await ledger.find(Filter(since=since), None, 100)


def test_statements_are_made_of_our_own_text_alone() -> None:
    """An f-string that is SQL has its reason beside it: ruff's S608 asks for it."""
    for path in (ROOT / "postman").rglob("*.py"):
        for line in path.read_text().splitlines():
            if "noqa: S608" in line:
                assert re.search(r"noqa: S608[^#]*# *(our|numbers|the)", line), f"{path.name}: {line}"


async def test_a_pickle_on_the_queue_is_buried_and_not_run(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/p.db"
    settings = LedgerSettings(url=url), QueueSettings(url=url)
    async with open_both(*settings, SURROUNDINGS) as (ledger, _):
        await ledger.accept([a_letter(1)], "shop", None, b"")
    connection = apsw.Connection(str(tmp_path / "p.db"))
    evil = pickle.dumps(Evil(tmp_path / "was-run"))
    ids: list[bytes | str] = [evil, evil.decode("latin-1"), "0xEVIL", ""]
    for number, id in enumerate(ids, 100):
        connection.execute("INSERT INTO note VALUES (1, 1.0, ?, ?, 10, 1)", (number, id))
    connection.close()
    async with open_both(*settings, SURROUNDINGS) as (ledger, queue):
        lease = await queue.take()
        assert lease.note is not None
        assert isinstance(await ledger.claim(lease.note.id, [Call("a", "", 30)]), Claim)
        statistics = await queue.statistics()
        assert (sum(statistics.ready), statistics.buried) == (0, 4)
    assert not (tmp_path / "was-run").exists()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_of_ours_can_make_code_of_bytes() -> None:
    for path in [*(ROOT / "postman").rglob("*.py"), *ROOT.glob("plugins/*/postman_plugin_*/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "marshal", "shelve", "yaml", "dill"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile"}, path


@pytest.mark.parametrize("bind", ["0.0.0.0:8901", "[::]:8901", "192.0.2.1:8901"])
def test_by_default_this_machine_alone_is_served_and_others_need_keys(bind: str, toml: Path) -> None:
    assert is_loopback(split_port(Http().bind)[0])
    toml.write_text(TOML.replace("127.0.0.1:0", bind))
    with pytest.raises(ConfigError, match="postman key new"):
        load(toml)
