from __future__ import annotations

import pytest

from postman.host import host_of, http_url, is_loopback, split_port


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:8901", ("::1", 8901)), ("localhost:1", ("localhost", 1))],
)
def test_a_host_and_a_port_are_split_and_make_a_url(text: str, parts: tuple[str, int]) -> None:
    assert split_port(text) == parts
    assert http_url(*parts) == f"http://{text}"
    assert is_loopback(parts[0])


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", ":80", "x:-1", "x:65536", "x:٣", "x:8 ", "x:", "::1:8901", "[::1]", "[::1:80", "a:1:2"]
)
def test_anything_else_is_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address and a port"):
        split_port(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])  # noqa: S104  # nothing is bound
def test_only_loopback_is_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:8901", "127.8.8.8:0", "[::1]:0", "localhost:8901", "127.0.0.1", "localhost", "LOCALHOST", "[::1]"],
)
def test_these_name_this_machine_alone(text: str) -> None:
    assert is_loopback(host_of(text))


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:8901", "[::]:8901", ":8901", "", "10.0.0.1:80", "192.168.0.1:80", "example.com:80",
        "localhost.evil.com:80", "127.0.0.1.evil.com", "127.0.0.1:80:90", "[::1", "127.1:80",
        "2130706433:80", "localhost:x",
    ],
)  # fmt: skip  # a table
def test_these_may_name_others(text: str) -> None:
    assert not is_loopback(host_of(text))
