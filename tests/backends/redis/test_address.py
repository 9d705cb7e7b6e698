from __future__ import annotations

from pathlib import Path

import pytest

from postman.backends.redis.address import Address, RedisSettings, address_of
from postman.errors import ConfigError
from postman.secret import Secret


def test_a_url_says_where_and_as_whom() -> None:
    plain = address_of(RedisSettings(url="redis://example.org"))
    assert plain == Address("example.org", 6379, prefix="{postman}:")
    whole = address_of(RedisSettings(url="valkey://ann:se%40cret-one@[::1]:7000/3", prefix="mail", timeout=2, wait=1))
    assert (whole.host, whole.port, whole.database, whole.prefix) == ("::1", 7000, 3, "{mail}:")
    assert (whole.username, whole.password) == ("ann", Secret("se@cret-one"))
    assert (whole.timeout, whole.wait, whole.tls) == (2, 1, None)
    assert "se@cret-one" not in repr(whole)


def test_rediss_means_tls_that_is_verified() -> None:
    tls = address_of(RedisSettings(url="rediss://example.org")).tls
    assert tls is not None
    assert tls.check_hostname


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("redis://127.0.0.1", False),
        ("redis://[::1]", False),
        ("redis://localhost", False),
        ("rediss://example.org", False),
        ("redis://10.0.0.7", True),
        ("valkey://ann:secret@example.org", True),
    ],
)
def test_what_leaves_this_machine_without_tls_is_exposed(url: str, exposed: bool) -> None:
    assert address_of(RedisSettings(url=url)).is_exposed is exposed


def test_a_password_may_be_in_a_file_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("from-a-file\n")
    assert address_of(RedisSettings(url="redis://h", password_file=file)).password == Secret("from-a-file")
    settings = RedisSettings(url="redis://h", password_env="REDIS_PASSWORD")
    monkeypatch.setenv("REDIS_PASSWORD", "from-the-environment")
    assert address_of(settings).password == Secret("from-the-environment")
    monkeypatch.delenv("REDIS_PASSWORD")
    with pytest.raises(ConfigError, match="REDIS_PASSWORD"):
        address_of(settings)


@pytest.mark.parametrize(
    "url", ["redis:", "redis:///0", "redis://host:port", "redis://host/x", "redis://host/-1", "redis://[::1"]
)
def test_what_is_no_url_is_refused_with_the_cure_and_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://HOST:PORT/DATABASE"):
        address_of(RedisSettings(url=url))


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        address_of(RedisSettings(url="rediss://h", ca_file=tmp_path / "ca.pem"))


def test_a_cluster_sends_on_to_a_host_or_only_to_another_port() -> None:
    address = Address("a", 1)
    assert (address.moved("b:2").host, address.moved("b:2").port) == ("b", 2)
    assert address.moved(":3").host == "a"
    assert address.moved("::1:4").host == "::1"
