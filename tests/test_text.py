"""What text may hold that ends up in a header."""

from __future__ import annotations

import base64
import sys
import unicodedata
from email.header import decode_header, make_header

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from postman.text import CONTROL, UNSEEN, decode_words, flaw


def test_every_control_and_every_format_character_but_the_joiners_of_spelling_is_found() -> None:
    kept = {
        "\u0600",
        "\u0601",
        "\u0602",
        "\u0603",
        "\u0604",
        "\u0605",
        "\u06dd",
        "\u070f",
        "\u0890",
        "\u0891",
        "\u08e2",
    }
    kept |= {"\U000110bd", "\U000110cd"}  # marks of numbers and verses, which are seen
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        match unicodedata.category(character):
            case "Cc" | "Cs" | "Zl" | "Zp":
                assert CONTROL.search(character), hex(code)
                assert UNSEEN.search(character), hex(code)
            case "Cf" if character not in kept and not 0x13430 <= code <= 0x1345F:  # hieroglyphs are joined by some
                assert UNSEEN.search(character), hex(code)
            case "Lu" | "Ll" | "Nd" | "Po":
                assert not CONTROL.search(character), hex(code)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.sampled_from("\0\n\r\t\x1b\x7f\x85\u2028\u2029\ud800"), st.text(max_size=30))
def test_a_control_is_found_wherever_it_stands(before: str, control: str, after: str) -> None:
    assert flaw(before + control + after)


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn"]), max_size=20),
    st.sampled_from(["utf-8", "latin-1", "utf-16"]),
    st.sampled_from("bq"),
)
@example("a\nb", "utf-8", "q")
def test_an_encoded_word_is_read_as_the_standard_library_reads_it(text: str, charset: str, encoding: str) -> None:
    raw = text.encode(charset, "replace")
    payload = base64.b64encode(raw).decode() if encoding == "b" else "".join(f"={byte:02X}" for byte in raw)
    word = f"=?{charset}?{encoding}?{payload}?="
    assert decode_words(word) == (str(make_header(decode_header(word))) if payload else "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Your order",
        "50 % off?",
        "a =? b",
        "=?x?=",
        "=?utf-8?q?plain?=",
        "Ünïcode",
        "日本語",
        "שלום",
        "🙂\ufe0f",
        "=?utf-8?x?a?=",
    ],
)
def test_a_plain_subject_has_no_flaw(text: str) -> None:
    assert flaw(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "=?utf-8?q?a=0Ab?=", "=?utf-8?Q?a=0d=0ab?=", "=?UTF-8?B?YQ0KQmNjOiB4?=", "=?utf-8?b?YQpi====?=",
        "=?utf-8?b?YQ pi?=", "=?nonsense?q?=0A?=", "=??q?=0A?=", "=?utf-8*en?q?=0A?=", "=?utf-16be?b?AAo=?=",
        "=?utf-8?q?=E2=80=A9?=",
        "x=?utf-8?q?=0A?=x", "=?utf-8?q?=?==?utf-8?q?=0A?=", "=?utf-8?q?=3D=3Futf-8=3Fq=3F=3D0A=3F=3D?=",
    ],
)  # fmt: skip  # a table
def test_a_line_end_inside_an_encoded_word_is_found(text: str) -> None:
    assert flaw(text)


def test_words_within_words_within_words_are_refused() -> None:
    text = "a"
    for _ in range(4):
        text = "=?utf-8?q?" + "".join(f"={byte:02X}" for byte in text.encode()) + "?="
    assert flaw(text) == "holds encoded words within encoded words"
