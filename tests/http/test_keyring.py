"""Who may do what."""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postman.config import Key
from postman.http.keyring import LOCAL, PREFIX, SOON, Client, Keyring, is_token, new_key


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def key_of(token: str, name: str = "shop", **more: Any) -> Key:  # noqa: ANN401  # whatever a key may have
    return Key(name=name, sha256=hashlib.sha256(token.encode()).hexdigest(), **more)


OLD, NEW = new_key("shop").token, new_key("shop").token


def test_a_new_key_is_known_by_its_lines_in_postman_toml() -> None:
    new = new_key("shop")
    [table] = tomllib.loads(new.toml)["http"]["key"]
    assert new.token not in new.toml
    assert table["sha256"] == hashlib.sha256(new.token.encode()).hexdigest()
    key = Key(name=table["name"], sha256=table["sha256"], scopes=frozenset(table["scopes"]))
    client = Keyring([key]).authenticate(f"Bearer {new.token}")
    assert client == Client("shop", frozenset({"send", "read", "cancel"}))


def test_new_keys_differ_and_have_one_form() -> None:
    tokens = {new_key("shop").token for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(PREFIX + "[a-z2-7]{40}", token) for token in tokens)


def test_a_key_with_one_character_changed_is_no_key() -> None:
    for at in range(len(PREFIX), len(OLD)):
        other = "a" if OLD[at] != "a" else "b"
        assert not is_token(OLD[:at] + other + OLD[at + 1 :])


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer ", OLD, f"Basic {OLD}", f"Bearer  {OLD}", f"Bearer {OLD} ", f"Bearer {OLD}\n",
        f"Bearer {OLD[:-1]}", f"Bearer {OLD}a", f"Bearer {OLD.upper()}", f"Bearer {PREFIX}", f"Bearer {NEW}",
        f"Bearer {hashlib.sha256(OLD.encode()).hexdigest()}", "Bearer \u00e4", f"Bearer {OLD},{OLD}",
        "Bearer " + "a" * 9_999,
    ],
    ids=itertools.count(),  # the values are made anew in each run
)  # fmt: skip  # a table
def test_anything_but_a_known_key_is_nobodys(authorization: str | None) -> None:
    assert Keyring([key_of(OLD)]).authenticate(authorization) is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_no_text_is_a_key_and_none_raises(text: str) -> None:
    assert Keyring([key_of(OLD)]).authenticate(f"Bearer {text}") is None


def test_the_scheme_may_be_in_any_case() -> None:
    assert Keyring([key_of(OLD)]).authenticate(f"bearer {OLD}") is not None


def test_two_keys_of_one_client_are_both_good_while_it_changes_over() -> None:
    keyring = Keyring([key_of(OLD), key_of(NEW)])
    old, new = (keyring.authenticate(f"Bearer {token}") for token in (OLD, NEW))
    assert old == new
    keyring.replace([key_of(NEW)])
    assert keyring.authenticate(f"Bearer {OLD}") is None


def test_without_keys_every_request_is_a_local_programs_with_every_scope() -> None:
    client = Keyring([]).authenticate(None)
    assert client is LOCAL
    assert all(client.may(scope) for scope in ("send", "read", "cancel", "admin"))


def test_a_scope_allows_itself_alone_and_admin_allows_all() -> None:
    reader = Client("a", frozenset({"read"}))
    assert reader.may("read")
    assert not any(reader.may(scope) for scope in ("send", "cancel", "admin"))
    assert all(Client("a", frozenset({"admin"})).may(scope) for scope in ("send", "read", "cancel", "admin"))


# --- rates ---------------------------------------------------------------------------------------------------------


def spender(clock: Clock, *rates: float | None, batch: int = 10) -> tuple[Keyring, list[Client]]:
    tokens = [new_key("shop").token for _ in rates]
    keyring = Keyring([key_of(t, rate=r) for t, r in zip(tokens, rates, strict=True)], batch=batch, clock=clock)
    clients = [keyring.authenticate(f"Bearer {token}") for token in tokens]
    return keyring, [client for client in clients if client]


def test_a_client_without_a_rate_is_never_asked_to_wait() -> None:
    keyring, [client] = spender(Clock(), None)
    assert all(keyring.spend(client, 10) == 0 for _ in range(1_000))


def test_a_client_may_send_a_whole_batch_and_then_waits_for_what_is_missing() -> None:
    clock = Clock()
    keyring, [client] = spender(clock, 2.0, batch=10)
    assert keyring.spend(client, 10) == 0
    assert keyring.spend(client, 4) == 2.0
    clock.now += 1.9
    assert keyring.spend(client, 4) == pytest.approx(0.1)
    clock.now += 0.1
    assert keyring.spend(client, 4) == pytest.approx(0)


def test_a_batch_larger_than_the_bucket_is_granted_from_a_full_one_and_paid_for_later() -> None:
    clock = Clock()
    keyring, [client] = spender(clock, 1.0, batch=1)
    assert keyring.spend(client, 5) == 0
    assert keyring.spend(client, 1) == 5.0


def test_the_keys_of_one_client_share_one_rate_the_lowest() -> None:
    keyring, [first, second, third] = spender(Clock(), 1.0, 5.0, None, batch=1)
    assert keyring.spend(first, 1) == 0
    assert keyring.spend(second, 1) == 1.0
    assert keyring.spend(third, 1) == 1.0


def test_a_reload_does_not_refill_a_bucket_whose_rate_did_not_change() -> None:
    keyring = Keyring([key_of(OLD, rate=1.0)], batch=1, clock=Clock())
    client = keyring.authenticate(f"Bearer {OLD}")
    assert client is not None
    assert keyring.spend(client, 1) == 0
    keyring.replace([key_of(NEW, rate=1.0)])
    assert keyring.spend(client, 1) == 1.0
    keyring.replace([key_of(NEW, rate=2.0)])
    assert keyring.spend(client, 1) == 0


@settings(max_examples=100, deadline=None)
@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.integers(1, 10), st.floats(0, 5)), max_size=50),
)
def test_no_client_sends_more_than_its_rate_and_one_burst(rate: float, steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    keyring, [client] = spender(clock, rate, batch=10)
    sent = 0
    for mails, pause in steps:
        clock.now += pause
        wait = keyring.spend(client, mails)
        sent += 0 if wait else mails
        assert 0 <= wait <= 10 / rate
    assert sent <= max(rate, 10) + rate * clock.now + 1e-6


def test_a_key_is_over_at_its_time_and_is_told_of_two_weeks_before() -> None:
    clock, end = Clock(), datetime(2027, 1, 1, tzinfo=UTC)
    keyring = Keyring([key_of(OLD, expires=end), key_of(NEW)], wall=clock)
    client = keyring.authenticate(f"Bearer {OLD}")
    assert client
    clock.now = end.timestamp() - SOON - 1
    assert not list(keyring.sentences())
    clock.now += 1
    assert [line.partition(" at ")[0] for line in keyring.sentences()] == ["A key of shop expires"]
    assert not keyring.is_over(client)
    clock.now = end.timestamp()
    assert [line.partition(" at ")[0] for line in keyring.sentences()] == ["A key of shop expired"]
    assert keyring.is_over(client)


def test_the_end_of_a_new_key_is_in_its_lines() -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC)
    assert tomllib.loads(new_key("shop", end).toml)["http"]["key"][0]["expires"] == end
