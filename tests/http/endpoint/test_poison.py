"""Whatever is sent, it is never a 500."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from http import HTTPStatus

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.http.endpoint.house import MAIL, House, open_house

POISON = [
    b'[{"to":[{"email":"a@b.com"}],"from":{"email":"a@b.com"},"subject":"\\ud800","content":[{"type":"text/plain","value":"x"}]}]',
    b'[{"to":[{"email":"a@b.com"}],"from":{"email":"a@b.com"},"subject":"","content":[{"type":"text/plain","value":"\\udfff"}]}]',
    b'[{"\\ud800":1}]',
    b"[" * 200_000,
    b"[" * 200_000 + b"]" * 200_000,
    b'{"a":' * 200_000,
    b"[NaN]",
    b"[Infinity]",
    b"[-Infinity]",
    b'[{"subject":"a","subject":"b"}]',
    b"[" + b"9" * 5_000 + b"]",
    b"[1e999999]",
    b"[-0]",
    b"",
    b"null",
    b"[null]",
    b"[[]]",
    b"[{}]",
    b"\xff\xfe[\x00]\x00",
    b"\xef\xbb\xbf[]",
    b'["\x00"]',
    b"[" + b"{}," * 100_000 + b"{}]",
    b"[" + b"0," * 1_000_000 + b"0]",
]


@pytest.mark.parametrize("body", POISON, ids=range(len(POISON)))
async def test_poison_is_400(house: House, body: bytes) -> None:
    status, document, _ = await house.ask("POST", "/mail", body)
    assert status == HTTPStatus.BAD_REQUEST
    assert document["errors"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
NAMES = st.sampled_from([*MAIL, "email", "type", "value", "headers", "tags"]) | st.text(max_size=5)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
HEADER_NAMES = st.sampled_from(["X-A", "To", "x-a", "List-Id"]) | st.text(max_size=4)
FILE_FIELDS = st.sampled_from(["filename", "type", "content"])
ODD_MAILS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            **{name: JSON_VALUES | st.just(value) for name, value in MAIL.items()},
            "cc": JSON_VALUES,
            "headers": st.dictionaries(HEADER_NAMES, JSON_VALUES),
            "attachments": st.lists(st.dictionaries(FILE_FIELDS, JSON_VALUES), max_size=2),
            "send-at": st.datetimes().map(str) | JSON_VALUES,
            "expires-at": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
            "metadata": JSON_VALUES,
        },
    ),
    max_size=3,
)
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(JSON_VALUES | ODD_MAILS)
@example([{**MAIL, "attachments": [{"filename": "a", "type": "a/b", "content": "ä"}]}])
@example([{**MAIL, "send-at": "9999-12-31T23:59:59-23:59"}])
async def test_no_json_gives_a_500(value: object) -> None:
    async with open_house() as house:
        status, _, _ = await house.ask("POST", "/mail", json.dumps(value).encode())
        assert status in {HTTPStatus.ACCEPTED, HTTPStatus.BAD_REQUEST}


@QUICK
@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda raw: b'[{"to":"' + raw + b'"}]'))
async def test_no_bytes_give_a_500_on_any_route_that_reads_a_body(raw: bytes) -> None:
    async with open_house() as house:
        for path in ("/mail", "/mail/release", "/pause"):
            status, _, _ = await house.ask("POST", path, raw)
            assert status in {HTTPStatus.BAD_REQUEST, HTTPStatus.OK if raw == b"" else HTTPStatus.BAD_REQUEST}


@QUICK
@given(st.text(max_size=30))
async def test_no_query_gives_a_500(text: str) -> None:
    async with open_house() as house:
        answer = await house.app.test_client().get(
            "/mail", query_string={"tag": text, "state": text, text or "x": text}
        )
        assert answer.status_code == HTTPStatus.BAD_REQUEST
