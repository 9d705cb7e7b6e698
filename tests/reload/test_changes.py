"""What a reload changes, and what it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import wait_all_tasks_blocked

from postman.breaker import State
from postman.errors import ProviderMisconfigured
from postman.reload import Report
from tests.reload.house import KEY, Account, House


async def test_a_reload_tells_what_was_added_changed_removed_and_kept(house: House) -> None:
    house.write("c", "b\nweight = 3", "a", "d")
    await house.reloader.reload()
    house.write("d", 'c\nsettings = { closes = "raises" }', "e", "b\nweight = 3")
    report = await house.reloader.reload()
    assert report == Report(added=("e",), changed=("c",), removed=("a",), kept=("d", "b"))
    await wait_all_tasks_blocked()
    assert house.names() == ["d", "c", "e", "b"]
    assert sorted(house.open_accounts()) == ["b", "c", "d", "e"]
    assert house.reloader.trouble == ""


@pytest.mark.parametrize(
    "line",
    ["weight = 7", "rate = 5", "max-concurrent = 2", 'from-domains = ["example.org"]', 'suppressed = "fail-over"'],
)
async def test_other_terms_are_granted_to_the_same_provider(house: House, line: str) -> None:
    provider, breaker, terms = house.carrier("a").provider, house.carrier("a").breaker, house.carrier("a").terms
    house.write(f"a\n{line}", "b")
    assert (await house.reloader.reload()).changed == ("a",)
    assert house.carrier("a").provider is provider
    assert house.carrier("a").breaker is breaker
    assert house.carrier("a").terms != terms
    assert len(house.accounts) == 2


async def test_weights_deal_the_workers_anew(house: House) -> None:
    house.write("a\nweight = 0", "b")
    await house.reloader.reload()
    for worker in range(64):
        with await house.postbox.wait_available(worker) as turn:
            assert turn.calls()[0].provider == "b"


@pytest.mark.parametrize("line", ["timeout = 3", 'settings = { closes = "raises" }'])
async def test_what_a_provider_was_opened_with_opens_it_anew(house: House, line: str) -> None:
    house.write(f"a\n{line}", "b")
    assert (await house.reloader.reload()).changed == ("a",)
    await wait_all_tasks_blocked()
    assert [(account.name, account.open) for account in house.accounts] == [("a", False), ("b", True), ("a", True)]


async def test_a_plugin_that_was_installed_again_is_opened_anew(house: House) -> None:
    house.version = "2"
    assert (await house.reloader.reload()).changed == ("a", "b")


async def test_a_changed_key_in_a_file_opens_the_provider_anew_and_an_unchanged_one_does_not(
    house: House, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    house.write('a\nsettings = { key = { file = "key" } }', "b")
    for text, kept in (("one", ("b",)), ("one", ("a", "b")), ("two", ("b",))):
        key.write_text(text)
        assert (await house.reloader.reload()).kept == kept
        provider = house.carrier("a").provider
        assert isinstance(provider, Account)
        assert provider.settings.key.reveal() == text


async def test_the_breaker_of_an_unchanged_provider_stays_open_and_a_changed_one_gets_a_new_chance(
    house: House,
) -> None:
    for name in ("a", "b"):
        with pytest.raises(ProviderMisconfigured), house.carrier(name).call():
            raise ProviderMisconfigured("401")
    house.write("a", "b\ntimeout = 3")
    await house.reloader.reload()
    assert house.carrier("a").breaker.state is State.OPEN
    assert house.carrier("b").breaker.state is State.CLOSED


async def test_a_provider_that_a_person_paused_stays_paused_when_it_is_opened_anew(house: House) -> None:
    house.postbox.pause(frozenset({"a"}))
    house.write("a\ntimeout = 3", "b")
    await house.reloader.reload()
    assert [carrier.paused for carrier in house.postbox.carriers] == [True, False]
    house.postbox.pause(frozenset("*"))
    house.write("a", "b", "c")
    await house.reloader.reload()
    assert all(carrier.paused for carrier in house.postbox.carriers)


async def test_policy_and_keys_are_those_of_the_new_file(house: House) -> None:
    house.write("a", "b", head=f"[delivery]\nmax-attempts = 3\n[ledger]\nretention = 300000\n{KEY}")
    report = await house.reloader.reload()
    assert report.kept == ("a", "b")
    assert (house.ledger.policy.max_attempts, house.ledger.policy.retention) == (3, 300_000)
    assert not house.keyring.open


async def test_a_reload_that_changes_nothing_moves_no_worker(house: House) -> None:
    choices = house.postbox._choices
    await house.reloader.reload()
    assert house.postbox._choices is choices
