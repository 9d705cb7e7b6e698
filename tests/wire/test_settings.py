"""What a client is configured with."""

from __future__ import annotations

import pytest

from postman.errors import ConfigError
from postman.secret import Secret
from postman.wire import ClientFactory, basic, bearer, check_base_url


@pytest.mark.parametrize(
    "url",
    [
        "", "api.example.com", "ftp://api.example.com", "https://", "https://u:p@api.example.com", "https://h:99999",
        "https://h:0", "https://h/?a=b", "https://h/#a", "https://h?", "https://exämple.com", "https://a b", "https://[::1",
    ],
)  # fmt: skip
def test_a_base_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base-url"):
        check_base_url(url)


@pytest.mark.parametrize(
    "url", ["https://api.example.com", "https://h:8443/v1/", "http://127.0.0.1:1", "http://[::1]:1"]
)
async def test_a_base_url_that_can_be_used_is_taken(url: str) -> None:
    async with ClientFactory()(base_url=url):
        pass


async def test_plain_http_is_for_this_machine_alone_unless_allowed() -> None:
    with pytest.raises(ConfigError, match="https"):
        async with ClientFactory()(base_url="http://api.example.com"):
            pass
    async with ClientFactory(allow_http=True)(base_url="http://api.example.com"):
        pass


@pytest.mark.parametrize("key", ["hunter2\n", "hunter2\r\nX: y", "hünter2"])
async def test_a_secret_that_cannot_stand_in_a_header_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigError, match="Authorization") as caught:
        async with ClientFactory()(base_url="https://h", headers={"Authorization": bearer(Secret(key))}):
            pass
    assert "nter2" not in str(caught.value)


def test_credentials_stay_secret() -> None:
    assert basic("api", Secret("key")).reveal() == "Basic YXBpOmtleQ=="
    assert "key" not in repr([basic("api", Secret("key")), bearer(Secret("key"))])
