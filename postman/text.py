"""What text may hold that ends up in a header: a subject, a name, a value, a file's name.

Whatever could end a header line, hide something or turn the direction of reading is refused, and looked for again in
what encoded words (RFC 2047) would become at a reader.
"""

from __future__ import annotations

import binascii
import quopri
import re

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""C0 and C1 controls, line and paragraph separators, lone surrogates, and what is no character at all."""

UNSEEN = re.compile(
    CONTROL.pattern[:-1]
    + "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    + "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]",
)
"""The same, with characters that nobody sees and those that turn the direction of reading."""

_SPELLED = re.compile(
    "(?<=[\u0600-\u1cff])[\u200c\u200d]"  # in the scripts from Arabic to the last of India
    "|(?<=[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d(?=[\u2190-\u2bff\U0001f000-\U0001faff])"  # one emoji
    "|(?<=\U0001f3f4)[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f"  # the flag of England, and the like
)
"""What is not seen, but what spelling needs."""

_ENCODED_WORD = re.compile(r"=\?([^?\s*]*)(?:\*[^?\s]*)?\?([bBqQ])\?([^?]*)\?=")
_DEEPEST = 3


def flaw(text: str, forbidden: re.Pattern[str] = CONTROL) -> str | None:
    """Why `text` must not be in a header; None: it may. The answer is a predicate: "holds ..."."""
    if text.isprintable() and "=?" not in text and (forbidden is CONTROL or text.isascii()):
        return None
    for depth in range(_DEEPEST):
        found = forbidden.search(text if forbidden is CONTROL else _SPELLED.sub("", text))
        if found:
            inside = " inside an encoded word" if depth else ""
            return f"holds the character U+{ord(found[0]):04X}{inside}, which is not allowed here"
        decoded = decode_words(text)
        if decoded == text:
            return None
        text = decoded
    return "holds encoded words within encoded words"


def decode_words(text: str) -> str:
    """`text` as a lenient reader would show it: encoded words decoded, nothing else changed."""
    return _ENCODED_WORD.sub(_decode_word, text) if "=?" in text else text


def _decode_word(word: re.Match[str]) -> str:
    charset, encoding, payload = word.groups()
    raw = payload.encode("utf-8", "surrogatepass")
    if encoding in "bB":
        try:
            raw = binascii.a2b_base64(raw + b"===")
        except binascii.Error:
            return ""
    else:
        raw = quopri.decodestring(raw, header=True)
    try:
        return raw.decode(charset, "replace")
    except (LookupError, ValueError):
        return raw.decode("latin-1")
