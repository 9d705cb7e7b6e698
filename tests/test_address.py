"""One strict reader of addresses, against a corpus of tricks."""

# ruff: noqa: RUF001  # characters that look like others are what this is about

from __future__ import annotations

import re
import time
from email.errors import HeaderParseError
from email.headerregistry import Address as StandardAddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postman.address import BadAddress, check_name, parse_domain, parse_email

GOOD = {
    "a@b.co": None,
    "Ann.Lee+tag@example.com": None,
    "!#$%&'*+/=?^_`{|}~-@example.com": None,
    "1@example.com": None,
    "-a@example.com": None,
    "user%relay@example.com": None,
    "a!b@example.com": None,
    f"{'l' * 64}@example.com": None,
    f"a@{'d' * 63}.com": None,
    f"{'l' * 64}@{'d' * 63}.{'d' * 63}.{'d' * 57}.com": None,
    "a@1.example.com": None,
    "a@123.com": None,
    "a@a-b.example.com": None,
    "a--b@example.com": None,
    "a@xn--mnchen-3ya.de": None,
    "a@xn--strae-oqa.de": None,
    "a@example.xn--p1ai": None,
    "a@EXAMPLE.com": "a@example.com",
    "A@EXAMPLE.COM": "A@example.com",
    "a@XN--MNCHEN-3YA.de": "a@xn--mnchen-3ya.de",
    "a@münchen.de": "a@xn--mnchen-3ya.de",
    "a@MÜNCHEN.DE": "a@xn--mnchen-3ya.de",
    "a@mu\u0308nchen.de": "a@xn--mnchen-3ya.de",  # decomposed, as macOS writes it
    "a@straße.de": "a@xn--strae-oqa.de",  # not strasse.de, which is somebody else's
    "a@почта.com": "a@xn--80a1acny.com",
    "a@пример.рф": "a@xn--e1afmkfd.xn--p1ai",
    "a@例え.jp": "a@xn--r8jz45g.jp",
    "a@例え.テスト": "a@xn--r8jz45g.xn--zckzah",
    "a@日本カナabc.jp": "a@xn--abc-jj4b4fs673ao4b.jp",
    "a@한국.kr": "a@xn--3e0b707e.kr",
    "a@παράδειγμα.gr": "a@xn--hxajbheg2az3al.gr",
    "a@مثال.com": "a@xn--mgbh0fb.com",
    "a@דוגמה.com": "a@xn--6dbbec0c.com",
    "a@उदाहरण.com": "a@xn--p1b6ci4b4b3a.com",
}

BAD = [
    # shape
    "", " ", "@", "a", "a@", "@b.com", "a@b", "a@@b.com", "a@b@c.com", "a@b.com@", "@@", "a b@c.com", "a@b c.com",
    " a@b.com", "a@b.com ", "\ta@b.com", "a@b.com\t", "a@b.com\n", "a\n@b.com", "a@b.com\r\nBcc: x@y.com",
    "a\0@b.com",
    "a@b.com\0", "a@\nb.com", "a\x7f@b.com", "a\x85@b.com", "a\u2028@b.com", "a@b\u2029.com",
    # more than one mailbox, or one and something else
    "a@b.com,c@d.com", "a@b.com;c@d.com", "a@b.com c@d.com", "a@b.com, c@d.com", "alice@example.org)bob@evil.com",
    "alice@example.org(bob@evil.com", "a@b.com(comment)", "(comment)a@b.com", "a(comment)@b.com",
    "a@(comment)b.com",
    "<a@b.com>", "Ann <a@b.com>", "Ann<a@b.com>", '"Ann" <a@b.com>', "a@b.com>", "<a@b.com", "mailto:a@b.com",
    "group:a@b.com;", "undisclosed-recipients:;", "@relay.com:a@b.com", "<@relay.com:a@b.com>", "a@b.com:25",
    "a@b.com?cc=x@y.com", "a@b.com/x", "a@b.com#x", "a@b.com\\", "a@b.com'", 'a@b.com"', "a@b.com,", "a@b.com;",
    # local part
    ".a@b.com", "a.@b.com", "a..b@c.com", ".@b.com", "..@b.com", '"a"@b.com', '"a b"@c.com', '"a@b"@c.com',
    '""@b.com', '"a\\"b"@c.com', 'a"b"c@d.com', "a\\@b.com", "a\\b@c.com", "a,b@c.com", "a;b@c.com", "a:b@c.com",
    "a(b)@c.com", "a<b@c.com", "a>b@c.com", "a[b@c.com", "a]b@c.com", f"{'l' * 65}@b.com", "ä@b.com", "mıke@b.com",
    "jörg@b.com", "用户@b.com", "а@b.com", "a\u200b@b.com", "a\u00ad@b.com", "a\u202e@b.com", "a\ufeff@b.com",
    "\ufeffa@b.com", "a\u2060@b.com", "a\u3164@b.com", "a\ud800@b.com", "ａ@b.com", "a＠b.com", "a﹫b.com",
    "a\u00a0@b.com",
    # shape of the domain
    "a@.com", "a@b.", "a@b.com.", "a@.b.com", "a@b..com", "a@..", "a@.", "a@-b.com", "a@b-.com", "a@b.-com",
    "a@b.com-",
    "a@b_c.com", "a@_dmarc.b.com", "a@b.c", "a@b.1", "a@b.c1", "a@b.123", "a@ab--cd.com", "a@*.com", "a@b*.com",
    "a@b!.com",
    "a@b$.com", "a@b%.com", "a@b&c.com", "a@b+c.com", "a@b=c.com", "a@b'c.com", "a@b/c.com", "a@b\\c.com",
    "a@b|c.com",
    "a@b~c.com", "a@b`c.com", "a@{b}.com", "a@b,com", "a@b;com", "a@localhost", "a@com", f"a@{'d' * 64}.com",
    f"a@{'d' * 63}.{'d' * 63}.{'d' * 63}.{'d' * 63}.com", f"{'l' * 64}@{'d' * 63}.{'d' * 63}.{'d' * 58}.com",
    f"a@{'ü' * 60}.com", f"a@{'ü.' * 70}com",
    # literals, ports, numbers
    "a@[127.0.0.1]", "a@[IPv6:::1]", "a@[::1]", "a@127.0.0.1", "a@1.2.3.4", "a@0x7f.1", "a@0x7f000001",
    "a@2130706433",
    "a@::1", "a@b.com:587", "a@localhost:25", "a@[b.com]", "a@017700000001", "a@127.1",
    # characters that nobody sees, or that are read as others
    "a@b\u200b.com", "a@b\u200c.com", "a@b\u200d.com", "a@b\u00ad.com", "a@b\u2060.com", "a@\u202eb.com",
    "a@b\u202d.com",
    "a@b\ufeff.com", "a@b\ufe0f.com", "a@b\u180e.com", "a@b\u034f.com", "a@b\u3164.com", "a@b\uffa0.com",
    "a@b\U000e0041.com",
    "a@gmail。com", "a@gmail．com", "a@gmail｡com", "a@gmail․com", "a@ｇｍａｉｌ.com", "a@gmail.ｃｏｍ", "a@\u212a.com",
    "a@\u212ab.münchen.de", "a@ﬁle.com", "a@①.com", "a@½.com", "a@℃.com", "a@ⅷ.com", "a@ª.com", "a@ſ.com",
    "a@ĳ.com",
    "a@i❤.ws", "a@💩.la", "a@☃.net", "a@a‐b.com", "a@a−b.com", "a@a–b.com", "a@b⁄c.com", "a@b∕c.com", "a@b\u2024com",
    # mixed scripts
    "a@аpple.com", "a@gооgle.com", "a@pаypal.com", "a@exаmple.com", "a@βank.com", "a@bаnk.xn--p1ai",
    "a@xn--pple-43d.com",
    "a@xn--ggle-55da.com", "a@рaypal.рф", "a@αа.com", "a@aא.com",
    # A-labels that are none
    "a@xn--.com", "a@xn--a.com", "a@xn---.com", "a@xn--zzzz-.com", "a@xn--ls8h.la", "a@xn--mnchen-.de",
    "a@xn--MNCHEN-3yaa.d",
    "a@xn--strasse-.de", "a@xn--abc.com", "a@xn--80ak6aa92e-.com", "a@xn--iñvalid.com",
]  # fmt: skip  # one line a family


@pytest.mark.parametrize(("address", "canonical"), GOOD.items())
def test_an_address_is_read_as_its_canonical_form(address: str, canonical: str | None) -> None:
    assert parse_email(address) == (canonical or address)


@pytest.mark.parametrize("address", GOOD)
def test_a_canonical_form_is_its_own(address: str) -> None:
    canonical = parse_email(address)
    assert parse_email(canonical) == canonical


def test_the_corpus_is_large_and_holds_nothing_twice() -> None:
    assert len(set(BAD)) == len(BAD) >= 150


@pytest.mark.parametrize("address", BAD)
def test_a_trick_is_refused_with_a_reason(address: str) -> None:
    with pytest.raises(BadAddress) as caught:
        parse_email(address)
    assert str(caught.value).split()[0] in {"must", "may", "has", "holds"}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ann", "has no @"),
        ("a@b@c.com", "has more than one @"),
        ("a@b.com.", "must not end with a dot"),
        ("a@b.com:25", "must not have a port"),
        ("a@[127.0.0.1]", "must have the name of a domain, not an IP address"),
        ("a@gmail\u3002com", "has a domain without a dot"),
        ("a@ｇｍａｉｌ.com", "has a domain that is read as 'gmail.com'; write it so, if that is what is meant"),
        ("a@аpple.com", "has a domain that mixes scripts within one label"),
        ("a\u200b@b.com", "holds the character U+200B, which is not allowed here"),
    ],
)
def test_the_reason_says_what_is_wrong(address: str, reason: str) -> None:
    with pytest.raises(BadAddress, match=f"^{re.escape(reason)}$"):
        parse_email(address)


ATOM = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=8)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9]{0,6}[a-z0-9])?", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(ATOM, min_size=1, max_size=4), st.lists(LABEL, min_size=1, max_size=3))
def test_every_dot_atom_at_a_host_name_is_read_as_it_is(atoms: list[str], labels: list[str]) -> None:
    address = f"{'.'.join(atoms)}@{'.'.join(labels)}.com"
    assert parse_email(address) == address
    assert StandardAddress(addr_spec=address).domain == address.rpartition("@")[2]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40) | st.text('ab.@"<>(),:;\\ \n[]ü\u200b', max_size=14))
def test_what_is_read_is_one_plain_ascii_mailbox_for_the_standard_library_too(text: str) -> None:
    try:
        address = parse_email(text)
    except BadAddress:
        return
    assert address.isascii()
    assert address.isprintable()
    try:
        standard = StandardAddress(addr_spec=address)
    except (HeaderParseError, ValueError):
        pytest.fail(f"{address!r} is read by us alone")
    assert f"{standard.username}@{standard.domain}" == address


@settings(max_examples=100, deadline=None)
@given(st.text("abxn1-.üßа。\u200d\u0308", max_size=12))
def test_a_domain_that_is_read_is_in_the_form_that_is_mailed_to(text: str) -> None:
    try:
        domain = parse_domain(f"{text}.com")
    except BadAddress:
        return
    assert domain == domain.lower()
    assert domain.isascii()
    assert parse_domain(domain) == domain


def test_the_longest_nonsense_costs_nothing_of_note() -> None:
    begin = time.thread_time()
    for nonsense in ("a" * 10_000, "a." * 10_000 + "@b.com", "a@" + "b-" * 10_000, "a@" + "ü" * 250, "@" * 10_000):
        with pytest.raises(BadAddress):
            parse_email(nonsense)
    assert time.thread_time() - begin < 0.5


GOOD_NAMES = [
    "", "Ann", "Ann Lee", "Lee, Ann", 'Ann "Annie" Lee', "Ann (Sales)", "O'Brien", "Jörg Müller", "山田太郎", "محمد",
    "ශ්\u200dරී ලංකා", "می\u200cخواهم", "Ann 👩\u200d💻", "👩🏽\u200d❤️\u200d👩 A",
    "\U0001f3f4\U000e0067\U000e0062\U000e007f A", "Ann @ Work", "Ann@Work", "ann@example.com", "ANN@EXAMPLE.COM",
    "Dr. Ann: Lee",
    "=?utf-8?q?J=C3=B6rg?=", "=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "=?utf-8?q?half", "e\u0301", "🙂 Ann", "n" * 256,
    "ann@example.com (home)",
]  # fmt: skip  # one line a family
BAD_NAMES = [
    "a\nb", "a\rb", "a\r\nBcc: x@y.com", "a\0b", "a\tb", "\x1b[31m", "a\x7f", "a\x85b", "a\u2028b", "a\u2029b",
    "a\u202eb",
    "a\u200eb", "a\u200bb", "a\u200db", "a\ufeffb", "a\u2066b", "a\u00adb", "a\ud800b", "\U000e0041", "a\u3164b",
    "a\u200d💻", "👩\u200db", "👩\U000e0067\U000e007f", "\U0001f3f4\U000e0067",
    "=?utf-8?q?a=0Ab?=", "=?utf-8?b?YQpi?=", "=?utf-8?Q?a=0D=0ABcc:_x?=", "=?us-ascii?q?a=00?=",
    "=?utf-8*en?q?a=0Ab?=",
    "=?x-unknown?q?a=0Ab?=", "=?utf-8?q?=E2=80=A8?=", "=?utf-8?q?=3D=3Futf-8=3Fq=3Fa=3D0Ab=3F=3D?=",
    "=?utf-7?q?+AAo-?=", "paypal@paypal.com", "PayPal <service@paypal.com>", "x＠paypal.com",
    "via service@paypal.com.",
    "=?utf-8?q?service=40paypal=2Ecom?=", "a@xn--mnchen-3ya.de", "a@example.com.evil.com",
    "a@example.com, b@evil.com",
    "n" * 257,
]  # fmt: skip  # one line a family


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_that_people_have_may_stand_beside_an_address(name: str) -> None:
    check_name(name, "example.com")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_hides_something_or_shows_another_address_is_refused(name: str) -> None:
    with pytest.raises(BadAddress):
        check_name(name, "example.com")
