"""The commands that ask a service, against the real way in over HTTP."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio

from postman.backends.memory.ledger import MemoryLedger
from postman.cli import main
from postman.commands.ask import PAGE
from postman.config import Http, Key
from postman.http.keyring import new_key
from postman.http.query import MOST
from postman.row import EndKind
from tests.commands.house import POST, House, Office, keep_house


@pytest.fixture(autouse=True)
def _logs_are_elsewhere() -> Iterator[None]:
    """The service logs in this very process; what a command says must be its own."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
async def house(capsys: pytest.CaptureFixture[str], nursery: trio.Nursery) -> House:
    ledger, office = MemoryLedger(), Office()
    url: str = await nursery.start(partial(keep_house, Http(bind="127.0.0.1:0"), ledger, office))
    return House(url, ledger, office, capsys)


async def test_a_mail_made_of_options_is_accepted_and_its_id_printed(house: House, tmp_path: Path) -> None:
    (tmp_path / "bill.pdf").write_bytes(b"%PDF")
    id = await house.sent(f"{POST} --cc bob@example.org --html '<b>x</b>' --tag order --attach {tmp_path}/bill.pdf")
    assert id.startswith("0x")
    for query in ("--recipient bob@example.org", "--tag order"):
        assert id in (await house.say(f"mail {query}")).out


async def test_what_is_wrong_with_a_whole_file_is_told_of_the_body(house: House, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_bytes(b"[]")
    said = await house.say(f"send {tmp_path}/none.json")
    assert (said.code, said.err.splitlines()[1:]) == (1, ["  the body: must not be empty"])


@pytest.mark.parametrize("wrap", [False, True])
async def test_mails_are_read_from_a_file_one_or_many(house: House, tmp_path: Path, *, wrap: bool) -> None:
    mail: Mapping[str, Any] = {
        "to": [{"email": "ann@example.org"}],
        "from": {"email": "shop@example.com"},
        "subject": "",
        "content": [{"type": "text/plain", "value": "x"}],
    }
    file = tmp_path / "mails.json"
    file.write_text(json.dumps([mail, mail] if wrap else mail))
    said = await house.say(f"send {file} --json")
    assert said.code == 0
    assert len(said.document["tracking-ids"]) == (2 if wrap else 1)


async def test_a_wrong_mail_names_every_bad_place_and_ends_with_1(house: House) -> None:
    said = await house.say("send --from shop --to ann --to bob@example.org --text x")
    assert said.code == 1
    assert said.out == ""
    assert "[0].to[0].email" in said.err
    assert "[0].from.email" in said.err


async def test_the_same_idempotency_key_gives_the_same_id(house: House) -> None:
    line = f"{POST} --idempotency-key once"
    assert await house.sent(line) == await house.sent(line)
    assert await house.sent() != await house.sent()


@pytest.mark.parametrize(
    "line",
    [
        "send",
        "send --from a@example.org --to b@example.org",
        "send - --subject both",
        "release",
        "release 0x0000000000000001 --all",
        "release 0x0000000000000001 --state held",
        "replay --all",
        "cancel",
        "mail --since yesterday",
        "mail --since 999999999d",
        "mail --since 9999999999999999999s",
        "mail --state lost",
        "mail 0x0000000000000001 --state held",
        "release --all --state sent",
        "mail --limit 0",
    ],
)
async def test_wrong_use_ends_with_2_and_says_how(house: House, line: str) -> None:
    said = await house.say(line)
    assert said.code == 2
    assert "Usage: postman" in said.err


@pytest.mark.parametrize("line", ["mail {}", "cancel {}", "release 0x0000000000000001 {}"])
@pytest.mark.parametrize("id", ["bogus", "0x1/?x", "0X0000000000000002"])
async def test_what_is_no_tracking_id_is_told_with_one_to_compare(house: House, line: str, id: str) -> None:
    said = await house.say(line.format(id))
    assert said.code == 2
    assert f"'{id}' is no tracking id; they look like 0x6882f4a1c0001000" in said.err


async def test_the_story_of_a_mail_is_told_with_what_can_be_done(house: House) -> None:
    id = await house.held()
    said = await house.say(f"mail {id}")
    assert said.code == 0
    assert "because of the test" in said.out
    assert f"`postman release {id}`" in said.out
    assert (await house.say(f"mail {id} --json")).document["state"] == "held"


async def test_mails_are_listed_newest_first_page_by_page(house: House) -> None:
    ids = await house.fill(2 * PAGE + 1)
    newest = ids[::-1]
    for limit in (1, PAGE, PAGE + 1, 2 * PAGE, 10 * PAGE):
        said = await house.say(f"mail --json --limit {limit}")
        assert [mail["tracking-id"] for mail in said.document["mails"]] == newest[:limit]
    assert len((await house.say("mail --since 1h")).out.splitlines()) == 50
    said = await house.say("mail --state held")
    assert (said.out, said.err) == ("", "no mail fits\n"), "a list that is empty is one for a program"


@pytest.mark.parametrize(
    ("verb", "state"), [("release", "queued"), ("discard", "cancelled"), ("settle", "sent"), ("replay", None)]
)
async def test_a_person_acts_on_one_mail_and_a_refusal_ends_with_1(house: House, verb: str, state: str | None) -> None:
    id = await house.held()
    said = await house.say(f"{verb} {id} 0x0000000000000001")
    assert said.code == 1
    assert "0x0000000000000001" in said.out
    assert "not done, there is no such mail" in said.out
    assert (await house.say(f"mail {id} --json")).document["state"] == (state or "held")


async def test_a_person_acts_on_all_mails_that_fit(house: House) -> None:
    held = {await house.held() for _ in range(3)}
    other = await house.sent()
    said = await house.say("release --all --state held --json")
    assert said.code == 0
    assert set(said.document["done"]) == held
    assert other not in said.out
    assert (await house.say("release --all --state held")).out == "no mail fits\n"


async def test_more_mails_than_one_request_takes_are_acted_on_in_several(house: House) -> None:
    ids = await house.fill(2 * MOST + 1)
    said = await house.say("discard --json", *ids[: MOST + 1])
    assert (said.code, len(said.document["done"])) == (0, MOST + 1)
    said = await house.say("discard --all --state queued --json")
    assert sorted(said.document["done"]) == ids[MOST + 1 :]


async def test_what_an_act_is_for_must_be_said_once(house: House) -> None:
    assert "give IDS, or --all --state failed or rejected" in (await house.say("replay")).err
    assert "not both" in (await house.say("replay --all --state failed 0x0000000000000001")).err


async def test_rejected_mails_are_replayed(house: House) -> None:
    id = await house.sent()
    await house.end(id, EndKind.REJECTED)
    assert (await house.say(f"replay {id}")).out == f"{id}  replay: done\n"


async def test_a_queued_mail_is_cancelled_and_a_sent_one_is_not(house: House) -> None:
    queued, sent = await house.sent(), await house.sent()
    await house.end(sent, EndKind.ACCEPTED)
    said = await house.say(f"cancel {queued} {sent}")
    assert said.code == 1
    assert said.out.splitlines() == [f"{queued}  cancel: done", f"{sent}  cancel: not done, it is sent"]


async def test_status_tells_why_and_only_check_makes_it_an_exit_code(house: House) -> None:
    said = await house.say("status --check")
    assert said.code == 0
    assert "queue: 5 ready, 2 delayed, 3 in hand\n" in said.out
    assert said.out.splitlines()[-1].split() == ["lamda", "fails", "3", "accepted,", "7", "not,", "1", "unknown", "503"]
    house.office.well = house.office.durable = False
    said = await house.say("status")
    assert said.code == 0
    assert said.out.startswith("not well, not durable\n  Provider lamda is paused")
    assert said.out.splitlines()[-1].split()[:2] == ["lamda", "paused"]
    said = await house.say("status --check --json")
    assert (said.code, said.document["well"]) == (1, False)


async def test_providers_are_paused_and_resumed_one_or_all(house: House) -> None:
    assert (await house.say("pause lamda")).out == "paused: lamda\n"
    assert (await house.say("resume")).out == "resumed: all providers\n"
    assert house.office.asked == [("lamda", "local"), ("*", "local")]
    assert (await house.say("pause lamda")).out == "lamda: paused already\n"
    assert (await house.say("resume")).out == "all providers: not paused; asked at once\n"
    said = await house.say("pause nobody")
    assert said.code == 1
    assert "There is no provider named 'nobody'" in said.err


async def test_a_reload_is_reported_and_a_failed_one_says_why(house: House) -> None:
    assert (await house.say("reload")).out == "changed  delta\nkept     lamda, fake\n"
    house.office.broken = "postman.toml: line 3"
    said = await house.say("reload")
    assert (said.code, said.out) == (1, "")
    assert "postman.toml: line 3" in said.err


async def test_the_key_is_taken_from_the_environment(
    capsys: pytest.CaptureFixture[str], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key("shop")
    digest = key.toml.split('sha256 = "')[1][:64]
    http = Http(bind="127.0.0.1:0", key=(Key(name="shop", sha256=digest),))
    url: str = await nursery.start(partial(keep_house, http, MemoryLedger(), Office()))
    house = House(url, MemoryLedger(), Office(), capsys)
    said = await house.say("status")
    assert said.code == 1
    assert "the key is taken from POSTMAN_KEY" in said.err
    monkeypatch.setenv("POSTMAN_KEY", key.token)
    said = await house.say("status")
    assert (said.code, said.out) == (0, "well\n"), "and nothing of others"
    said = await house.say("pause")
    assert said.code == 1
    assert "admin" in said.err


def test_a_mail_whose_fate_is_not_known_can_be_sent_again_with_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(POST), "--url", "http://127.0.0.1:1", "--idempotency-key", "once"]) == 3
    assert "Send it again with --idempotency-key once" in capsys.readouterr().err


async def test_a_mail_that_is_not_taken_now_can_be_sent_again_with_its_key_and_a_wrong_one_not(house: House) -> None:
    house.office.reason = "the store does not answer"
    said = await house.say(POST, "--idempotency-key", "once")
    assert (said.code, "Send it again with --idempotency-key once" in said.err) == (1, True)
    house.office.reason = None
    said = await house.say(POST, "--idempotency-key", "two words")
    assert (said.code, "Send it again" in said.err) == (1, False)


async def test_an_address_at_which_a_service_is_already_is_no_mistake_of_the_configuration(
    house: House, tmp_path: Path
) -> None:
    config = tmp_path / "postman.toml"
    config.write_text(
        f'[http]\nbind = "{house.url.removeprefix("http://")}"\n[[provider]]\nname = "a"\nplugin = "fake"\n'
    )
    command = [sys.executable, "-m", "postman", "check", "--config", str(config)]
    ended = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert f"A service is at {house.url} already." in ended.stdout.decode().splitlines()
