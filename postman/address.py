"""One strict reader of addresses; nothing else in Postman takes an address apart.

`local@domain` and nothing more: no comments, groups, lists, quotes, routes, literals or ports. The local part is an
ASCII dot-atom and stays as it is. The domain is IDNA 2008 (UTS 46, non-transitional) and is kept as A-labels in lower
case, so that the domain which was checked is the domain that is mailed to. A domain that would be read as another one
than was written (full-width letters, foreign dots, ligatures) is refused with what it would be.
"""

from __future__ import annotations

import functools
import re
import unicodedata

import idna

from postman.text import UNSEEN, decode_words, flaw

MAX_LOCAL = 64
MAX_ADDRESS = 254
MAX_DOMAIN = 253  # 255 octets on the wire of the DNS
MAX_NAME = 256

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
_DOT_ATOM = re.compile(rf"{_ATOM}(?:\.{_ATOM})*+")
_LABEL = r"(?!-)[a-z0-9-]{1,63}+(?<!-)"
_PLAIN = re.compile(rf"(?P<local>{_DOT_ATOM.pattern})@(?:{_LABEL}\.)++[a-z]{{2,63}}+")
_HOST = re.compile(rf"(?:{_LABEL}\.)++{_LABEL}")
_ADDRESS_IN_TEXT = re.compile(r"[^\s@<>()\[\],;:\"]@([^\s@<>()\[\],;:\"]+\.[^\s@<>()\[\],;:\".!?]+)")

_TOGETHER = (
    frozenset({"LATIN", "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "CJK", "IDEOGRAPHIC", "BOPOMOFO"}),
    frozenset({"LATIN", "CJK", "IDEOGRAPHIC", "HANGUL"}),
)
"""Scripts that one label may mix ("highly restrictive" of UTS 39); any single script is fine."""


class BadAddress(ValueError):
    """The address, domain or name is not acceptable; the text is a predicate: "has no @"."""


def parse_email(text: str) -> str:
    """The canonical form of an address: the local part as it is, the domain as lower-case A-labels.

    Raises:
        BadAddress: with the reason.
    """
    plain = _PLAIN.fullmatch(text)
    if plain and len(text) <= MAX_ADDRESS and plain.end("local") <= MAX_LOCAL and "--" not in text:
        return text
    if not text:
        raise BadAddress("must not be empty")
    if len(text) > MAX_ADDRESS:
        raise BadAddress(f"must not be longer than {MAX_ADDRESS} characters")
    hidden = UNSEEN.search(text)
    if hidden:
        raise BadAddress(f"holds the character U+{ord(hidden[0]):04X}, which is not allowed here")
    local, at, domain = text.rpartition("@")
    if not at:
        raise BadAddress("has no @")
    _check_local(local)
    email = f"{local}@{parse_domain(domain)}"
    if len(email) > MAX_ADDRESS:
        raise BadAddress(f"must not be longer than {MAX_ADDRESS} characters with the domain written as A-labels")
    return email


@functools.lru_cache(maxsize=4096)
def parse_domain(text: str) -> str:
    """A domain as lower-case A-labels.

    Raises:
        BadAddress: with the reason.
    """
    for wrong, reason in (
        (not text, "has no domain"),
        (text.startswith("["), "must have the name of a domain, not an IP address"),
        (":" in text, "must not have a port"),
        (text.endswith("."), "must not end with a dot"),
        ("." not in text, "has a domain without a dot"),
        (len(text) > MAX_DOMAIN, f"has a domain longer than {MAX_DOMAIN} characters"),
        (UNSEEN.search(text), "has an invisible character in the domain"),
    ):
        if wrong:
            raise BadAddress(reason)
    labels = _mapped(text).split(".")
    if not all(labels):
        raise BadAddress("has an empty label in the domain")
    domain = ".".join(map(_a_label, labels))
    if len(domain) > MAX_DOMAIN:
        raise BadAddress(f"has a domain longer than {MAX_DOMAIN} characters")
    if not _HOST.fullmatch(domain) or not re.fullmatch(r"[a-z]{2,}|xn--.+", domain.rpartition(".")[2]):
        raise BadAddress("has a domain that is not a host name")
    return domain


def check_name(name: str, domain: str) -> None:
    """Check a display name that stands beside an address at `domain`.

    Raises:
        BadAddress: it is too long, holds controls or invisible characters, or an address of another domain, which
            readers would take for the sender or recipient.
    """
    if len(name) > MAX_NAME:
        raise BadAddress(f"must not be longer than {MAX_NAME} characters")
    reason = flaw(name, UNSEEN)
    if reason:
        raise BadAddress(reason)
    if "@" not in name and "=?" not in name and name.isascii():
        return
    shown = unicodedata.normalize("NFKC", decode_words(name))
    for other in _ADDRESS_IN_TEXT.findall(shown):
        if not _is(other, domain):
            raise BadAddress("must not hold an address of another domain")


def _check_local(local: str) -> None:
    if not local:
        raise BadAddress("has nothing before the @")
    if local.startswith('"'):
        raise BadAddress("must not have a quoted part before the @")
    if "@" in local:
        raise BadAddress("has more than one @")
    if not local.isascii():
        raise BadAddress("must be ASCII before the @; few mail servers take anything else")
    if len(local) > MAX_LOCAL:
        raise BadAddress(f"must not have more than {MAX_LOCAL} characters before the @")
    if not _DOT_ATOM.fullmatch(local):
        raise BadAddress(
            "must have only letters, digits, !#$%&'*+/=?^_`{|}~- and single dots between them before the @"
        )


def _mapped(text: str) -> str:
    """`text` in lower case, if reading it as UTS 46 does changes nothing else."""
    lower = unicodedata.normalize("NFC", text.lower())
    try:
        mapped = idna.uts46_remap(text, std3_rules=True, transitional=False)
    except idna.IDNAError:
        raise BadAddress("has a domain with a character that domains cannot have") from None
    became_ascii = any(
        new.isascii() > old.isascii() for new, old in zip(mapped.split("."), text.split("."), strict=False)
    )
    if mapped != lower or became_ascii:
        raise BadAddress(f"has a domain that is read as {mapped!r}; write it so, if that is what is meant")
    return mapped


def _a_label(label: str) -> str:
    if re.fullmatch(_LABEL, label) and label[2:4] != "--":
        return label
    try:
        shown = idna.ulabel(label)
        ascii_label = idna.alabel(shown).decode()
    except (idna.IDNAError, UnicodeError):
        raise BadAddress("has a domain that is not valid under IDNA 2008") from None
    scripts = {re.split("[ -]", unicodedata.name(c, "?"))[0] for c in shown if c.isalpha()}
    if len(scripts) > 1 and not any(scripts <= allowed for allowed in _TOGETHER):
        raise BadAddress("has a domain that mixes scripts within one label")
    return ascii_label


def _is(other: str, domain: str) -> bool:
    try:
        return parse_domain(other) == domain
    except BadAddress:
        return False
