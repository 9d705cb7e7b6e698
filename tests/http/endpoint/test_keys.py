"""Who may do what."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pytest
from werkzeug.datastructures import Headers as WerkzeugHeaders

from postman.config import Http, Key
from postman.http.keyring import NewKey, new_key
from tests.http.endpoint.house import MAIL, House, open_house


def key_of(new: NewKey, name: str = "shop", **more: Any) -> Key:  # noqa: ANN401  # whatever a key may have
    return Key(name=name, sha256=new.toml.split('sha256 = "')[1][:64], **more)


SHOP, BANK, READER, ADMIN = (new_key(name) for name in ("shop", "bank", "reader", "ops"))
KEYS = Http(
    max_batch=3,
    key=(
        key_of(SHOP, "shop", from_=frozenset({"example.org", "xn--mnchen-3ya.example"}), rate=2.0),
        key_of(BANK, "bank"),
        key_of(READER, "shop", scopes=frozenset({"read"})),
        key_of(ADMIN, "ops", scopes=frozenset({"admin"})),
    ),
)

# What each route answers: without a key, to a key that may only read, to shop, to bank (another client), to admin.
# `{id}` is a queued letter of shop's.
MATRIX = {
    ("POST", "/mail"): (401, 403, 202, 202, 202),
    ("GET", "/mail"): (401, 200, 200, 200, 200),
    ("GET", "/mail/<id>"): (401, 200, 200, 404, 200),
    ("DELETE", "/mail/<id>"): (401, 403, 200, 404, 200),
    ("POST", "/mail/<id>/release"): (401, 403, 403, 403, 409),
    ("POST", "/mail/<id>/discard"): (401, 403, 403, 403, 200),
    ("POST", "/mail/<id>/settle"): (401, 403, 403, 403, 409),
    ("POST", "/mail/<id>/replay"): (401, 403, 403, 403, 409),
    ("POST", "/mail/release"): (401, 403, 403, 403, 200),
    ("POST", "/mail/discard"): (401, 403, 403, 403, 200),
    ("POST", "/mail/settle"): (401, 403, 403, 403, 200),
    ("POST", "/mail/replay"): (401, 403, 403, 403, 200),
    ("POST", "/pause"): (401, 403, 403, 403, 200),
    ("POST", "/resume"): (401, 403, 403, 403, 200),
    ("POST", "/reload"): (401, 403, 403, 403, 200),
    ("GET", "/status"): (401, 200, 200, 200, 200),
    ("GET", "/"): (200, 200, 200, 200, 200),
    ("GET", "/health/live"): (200, 200, 200, 200, 200),
    ("GET", "/health/ready"): (200, 200, 200, 200, 200),
}


async def test_every_route_stands_in_the_matrix(house: House) -> None:
    routes = {
        (method, rule.rule) for rule in house.app.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD"}
    }
    assert routes == set(MATRIX)


@pytest.mark.parametrize(("method", "path"), MATRIX)
async def test_each_route_answers_each_client_as_the_matrix_says(method: str, path: str) -> None:
    for who, expected in zip((None, READER, SHOP, BANK, ADMIN), MATRIX[method, path], strict=True):
        async with open_house(KEYS) as house:
            [id] = await house.accepted(key=SHOP)
            body: Any = [MAIL] if path == "/mail" else {"ids": [id]} if path.count("/") == 2 else None
            status, document, _ = await house.ask(
                method, path.replace("<id>", id), body if method == "POST" else None, key=who
            )
            assert status == expected, (who, document)


async def test_a_key_that_has_expired_is_refused_and_says_so() -> None:
    expired = key_of(SHOP, expires=datetime(2026, 1, 1, tzinfo=UTC))
    async with open_house(Http(key=(expired, key_of(ADMIN, "ops")))) as house:
        status, document, _ = await house.ask("GET", "/status", key=SHOP)
    assert status == HTTPStatus.UNAUTHORIZED
    assert document["detail"].startswith("This key has expired, at 2026-01-01")


async def test_a_key_that_is_no_admins_is_told_whether_all_is_well_and_nothing_of_others() -> None:
    async with open_house(KEYS) as house:
        for key in (READER, BANK):
            assert (await house.ask("GET", "/status", key=key))[1] == {"well": True, "because": [], "up": 1.0}
        house.office.because = ["2 mails are held: of whom?", "A key of shop expires."]
        _, told, _ = await house.ask("GET", "/status", key=BANK)
        assert told == {"well": False, "because": ["A key with the scope admin is told why."], "up": 1.0}
        assert (await house.ask("GET", "/status", key=ADMIN))[1] == await house.office.status()


async def test_the_page_runs_its_own_script_alone_and_holds_no_data() -> None:
    async with open_house(KEYS) as house:
        [id] = await house.accepted(key=SHOP)
        _, _, answer = await house.ask("GET", "/")
        html = await answer.get_data(as_text=True)
        assert answer.mimetype == "text/html"
        assert id not in html
        assert not re.search(r"https?://|innerHTML|\son\w+=", html)
        rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split(";"))
        assert rules["default-src"] == "'none'"
        script = re.findall("<script>(.*?)</script>", html, re.DOTALL)
        (digest,) = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in script]
        assert rules["script-src"] == f"'sha256-{digest}'"


async def test_another_clients_letter_and_one_that_never_was_are_told_alike() -> None:
    async with open_house(KEYS) as house:
        [id] = await house.accepted(key=SHOP)
        for method in ("GET", "DELETE"):
            other = await house.ask(method, f"/mail/{id}", key=BANK)
            never = await house.ask(method, "/mail/0x0000000000000001", key=BANK)
            assert other[:2] == never[:2]
            assert dict(other[2].headers) == dict(never[2].headers)


async def test_a_client_lists_only_its_own_letters_and_admin_all() -> None:
    async with open_house(KEYS) as house:
        [ours] = await house.accepted(key=SHOP)
        [theirs] = await house.accepted(key=BANK)

        async def found(key: NewKey, query: str = "") -> list[str]:
            _, document, _ = await house.ask("GET", f"/mail{query}", key=key)
            return [mail["tracking-id"] for mail in document["mails"]]

        assert await found(SHOP) == await found(READER) == [ours]
        assert await found(BANK, "?client=shop") == [theirs]
        assert await found(ADMIN) == [theirs, ours]
        assert await found(ADMIN, "?client=shop") == [ours]


async def test_idempotency_keys_of_two_clients_do_not_meet() -> None:
    async with open_house(KEYS) as house:
        for key in (SHOP, BANK):
            status, _, answer = await house.post(MAIL, key=key, headers={"Idempotency-Key": "1"})
            assert status == HTTPStatus.ACCEPTED
            assert "Idempotency-Replayed" not in answer.headers


async def test_a_key_sends_only_from_its_domains() -> None:
    async with open_house(KEYS) as house:
        stranger = {**MAIL, "from": {"email": "shop@example.net"}}
        below = {**MAIL, "from": {"email": "shop@mail.example.org"}}
        status, document, _ = await house.post(MAIL, stranger, below, key=SHOP)
        assert status == HTTPStatus.FORBIDDEN
        assert [error["path"] for error in document["errors"]] == ["[1].from.email", "[2].from.email"]
        assert (await house.post(stranger, key=BANK))[0] == HTTPStatus.ACCEPTED
        german = {**MAIL, "from": {"email": "shop@xn--mnchen-3ya.example"}}
        assert (await house.post(german, key=SHOP))[0] == HTTPStatus.ACCEPTED


async def test_the_rate_counts_mails_and_says_when_to_come_back() -> None:
    async with open_house(KEYS) as house:
        assert (await house.post(MAIL, MAIL, MAIL, key=SHOP))[0] == HTTPStatus.ACCEPTED
        status, _, answer = await house.post(MAIL, MAIL, MAIL, key=SHOP)
        assert status == HTTPStatus.TOO_MANY_REQUESTS
        assert answer.headers["Retry-After"] == "2"  # three mails at two a second
        assert (await house.post(MAIL, key=BANK))[0] == HTTPStatus.ACCEPTED
        house.now += 1.5
        assert (await house.post(MAIL, MAIL, MAIL, key=SHOP))[0] == HTTPStatus.ACCEPTED


async def test_a_key_that_was_taken_away_is_refused_at_once() -> None:
    async with open_house(KEYS) as house:
        await house.accepted(key=SHOP)
        house.keyring.replace(KEYS.key[1:])
        assert (await house.post(MAIL, key=SHOP))[0] == HTTPStatus.UNAUTHORIZED


async def test_two_authorizations_are_none() -> None:
    async with open_house(KEYS) as house:
        bearer = ("Authorization", f"Bearer {ADMIN.token}")
        answer = await house.app.test_client().get("/status", headers=WerkzeugHeaders([bearer, bearer]))
        assert answer.status_code == HTTPStatus.UNAUTHORIZED
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Host": "10.0.0.1:80"}]
)
async def test_without_keys_a_web_page_cannot_ask(house: House, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/mail"), ("POST", "/pause"), ("POST", "/mail")):
        assert (await house.ask(method, path, headers=headers))[0] == HTTPStatus.FORBIDDEN
    assert house.office.asked == []
