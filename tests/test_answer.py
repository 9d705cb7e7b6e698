from __future__ import annotations

import email.utils
import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postman.answer import MAX_BODY, MAX_DETAIL, STATUSES, Answer, decoded, failure, wait_asked, without_addresses
from postman.errors import (
    MailRefused,
    MailRejected,
    OutcomeUnknown,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
)


def outcome(status: int) -> type[ProviderError]:
    return type(failure(Answer(status, {}, b"")))


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((400, 422), MailRejected),
        ((413,), MailRefused),
        ((429, 503), ProviderUnavailable),
        ((401, 402, 403, 404, 405, 406, 410, 415, 300, 301, 302, 304, 307, 308, 399), ProviderMisconfigured),
        ((200, 202, 204, 206, 299, 408, 409, 418, 421, 425, 451, 500, 501, 502, 504, 520, 599, 999), OutcomeUnknown),
    ],
)
def test_a_status_means_what_the_table_says(statuses: tuple[int, ...], expected: type[ProviderError]) -> None:
    assert {status: outcome(status) for status in statuses} == dict.fromkeys(statuses, expected)


def test_what_the_table_does_not_name_is_in_doubt() -> None:
    assert {status for status in range(200, 1_000) if outcome(status) is not OutcomeUnknown} == set(STATUSES)


def test_a_plugin_may_know_better_than_the_table() -> None:
    assert type(failure(Answer(403, {}, b""), outcome=MailRefused)) is MailRefused


def test_only_429_is_a_limit() -> None:
    for status, limit in ((429, True), (503, False)):
        error = failure(Answer(status, {"retry-after": "9"}, b""))
        assert isinstance(error, ProviderUnavailable)
        assert (error.throttled, error.retry_after) == (limit, 9.0)


def test_the_reason_is_one_sentence_with_the_status_and_the_vendors_words() -> None:
    error = failure(Answer(401, {}, b""), " The key\r\n is\x00 revoked ")
    assert error.reason == "the provider answered 401 Unauthorized: The key is revoked"
    assert failure(Answer(599, {}, b"")).reason == "the provider answered 599"


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("315360000", 315_360_000.0),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90.0),
        ("Sunday, 17-Jan-27 08:01:30 GMT", 172_890.0),
        (email.utils.formatdate(NOW - 1, usegmt=True), None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("\u0661", None),
        ("soon", None),
        ("", None),
        ("Mon, 99 Jan 2027 00:00:00 GMT", None),
        ("9" * 4_000, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date_or_not_at_all(value: str, seconds: float | None) -> None:
    assert wait_asked({"retry-after": value}, NOW) == seconds


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_no_retry_after_makes_an_error_or_a_negative_wait(value: str) -> None:
    wait = wait_asked({"retry-after": value}, NOW)
    assert wait is None or wait >= 0


def test_addresses_are_taken_out_of_a_vendors_words() -> None:
    said = "to <ann.o'neil+x@example.org>, 'bob@example.org' and zoë@münchen.example: bad; see docs@vendor.example."
    assert without_addresses(said) == "to <(address)>, (address)' and (address): bad; see (address)"


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_a_vendors_words_become_one_short_printable_line_without_an_at_between_words(text: str) -> None:
    line = without_addresses(f"{text} ann@example.org {text}")
    assert len(line) <= MAX_DETAIL
    assert line == "" or line.isprintable()
    assert "ann@example" not in line


def test_a_body_is_decoded_when_it_is_plain_or_gzip() -> None:
    assert decoded({}, b"ok") == b"ok"
    assert decoded({"content-encoding": "GZIP"}, gzip.compress(b"ok")) == b"ok"
    assert len(decoded({"content-encoding": "gzip"}, gzip.compress(bytes(MAX_BODY)))) == MAX_BODY


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", b"ok"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"ok"))),
        ("deflate", zlib.compress(b"ok")),
        ("gzip", b"ok"),
        ("gzip", gzip.compress(b"ok")[:-9]),
        ("gzip", gzip.compress(bytes(MAX_BODY + 1))),
        ("gzip", gzip.compress(bytes(128 * MAX_BODY))),
    ],
    ids=["brotli", "twice", "deflate", "not packed", "cut", "one byte too long", "a bomb"],
)
def test_a_body_of_another_coding_cut_or_too_long_is_refused(coding: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"gzip|coding"):
        decoded({"content-encoding": coding}, body)


@given(st.binary() | st.text(alphabet='[]{}":,0', min_size=1).map(str.encode))
@settings(max_examples=100, deadline=None)
def test_any_body_can_be_asked_for_json(body: bytes) -> None:
    assert isinstance(Answer(200, {}, body).decode(dict[str, int]), dict | None)


def test_deeply_nested_json_is_no_answer() -> None:
    assert Answer(200, {}, b"[" * 500_000).decode(list[object]) is None
