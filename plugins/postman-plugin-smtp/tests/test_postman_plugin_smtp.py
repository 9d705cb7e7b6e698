"""The kind, its settings, and the question of `postman check --live`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postman.errors import ConfigError
from postman.hookspecs import PROVIDERS
from postman.kind import FEATURES, Surroundings
from postman.provider import LiveCheck, ProviderMisconfigured, ProviderUnavailable
from postman.registry import decode_settings, load_kind
from postman.secret import Secret
from postman.testing.smtp_fault_server import Act, Fault, open_smtp_fault_server
from postman.wire import ClientFactory
from postman_plugin_smtp import SmtpProvider, SmtpSettings, open_smtp, postman_register

type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]

USER: dict[str, Any] = {"username": "user", "password": Secret("hunter2")}


def test_the_kind_says_what_it_is() -> None:
    kind = postman_register()
    assert kind.name == "smtp"
    assert kind.marks
    assert kind.features == set(FEATURES) - {"tags", "metadata"}
    assert kind.account(SmtpSettings(host="Smtp.Example.com", **USER)) == "smtp.example.com:587/user"
    assert kind.account(SmtpSettings(host="mx.example.com", security="none")) == "mx.example.com:25/"
    assert kind.account(SmtpSettings(host="mx.example.com", security="tls")) == "mx.example.com:465/"


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"host": "a", "username": "u"}, "go together"),
        ({"host": "a", "security": "none", "username": "u", "password": "p"}, "in clear text"),
        ({"host": "a", "security": "none", "ca-file": "x"}, "`ca-file` needs"),
        ({"host": "a", "security": "ssl"}, "Invalid enum value 'ssl'"),
        ({"host": "a b"}, "matching regex"),
        ({"host": "a", "helo-name": "x\r\nMAIL"}, "matching regex"),
        ({"host": "a", "username": "x\x00", "password": "p"}, "matching regex"),
        ({"host": "a", "port": 0}, "port"),
        ({"host": "a", "helo_name": "x"}, "unknown field"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_cure(settings: dict[str, Any], cure: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=cure):
        msgspec.convert(settings, SmtpSettings, dec_hook=lambda type_, text: type_(text))


def test_settings_are_read_as_they_stand_in_postman_toml(tmp_path: Path) -> None:
    (tmp_path / "smtp.password").write_text("hunter2\n")
    raw = {"host": "a", "username": "u", "password": {"file": "smtp.password"}, "ca-file": "ca.pem", "helo-name": "b.c"}
    settings = decode_settings(load_kind(PROVIDERS, "smtp"), raw, "settings", tmp_path)
    assert settings == SmtpSettings(
        host="a", username="u", password=Secret("hunter2"), ca_file=tmp_path / "ca.pem", helo_name="b.c"
    )
    with pytest.raises(ConfigError, match="in clear text"):
        decode_settings(load_kind(PROVIDERS, "smtp"), raw | {"security": "none"}, "settings", tmp_path)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "::1"])
def test_a_password_may_go_to_this_very_machine_in_clear_text(host: str) -> None:
    assert SmtpSettings(host=host, security="none", **USER).service == 25


async def test_a_ca_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    surroundings = Surroundings(name="smtp", workers=1, timeout=1.0, client=ClientFactory())
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        settings = SmtpSettings(host="a", ca_file=tmp_path / name)
        with pytest.raises(ConfigError, match=name):
            async with open_smtp(settings, surroundings):
                pass


async def test_the_live_check_signs_in_and_sends_no_mail(open_provider: OpenProvider) -> None:
    async with open_smtp_fault_server() as server, open_provider(server.port, **USER) as provider:
        assert isinstance(provider, LiveCheck)
        assert await provider.check() == f"127.0.0.1:{server.port} is ready (none, signed in)"
        await server.wait_closed()
    assert [line.split()[0] for line in server.heard] == ["EHLO", "AUTH", "NOOP", "QUIT"]


@pytest.mark.parametrize(
    ("moment", "act", "end"),
    [
        ("AUTH", b"535 5.7.8 wrong password hunter2\r\n", ProviderMisconfigured),
        ("NOOP", b"421 4.3.2 closing\r\n", ProviderUnavailable),
        ("NOOP", Fault.DROP, ProviderUnavailable),
        ("banner", b"554 no service\r\n", ProviderUnavailable),
    ],
)
async def test_the_live_check_ends_as_a_letter_would(
    moment: str, act: Act, end: type[Exception], open_provider: OpenProvider
) -> None:
    async with open_smtp_fault_server({moment: act}) as server, open_provider(server.port, **USER) as provider:
        with pytest.raises(end) as caught:
            await provider.check()
        await server.wait_closed()
    assert "hunter2" not in str(caught.value)


async def test_auth_login_is_spoken_where_plain_is_not_offered(open_provider: OpenProvider) -> None:
    async with open_smtp_fault_server() as server, open_provider(server.port, **USER) as provider:
        server.extensions = ("AUTH=LOGIN CRAM-MD5",)
        await provider.check()
    assert server.heard[1:4] == ["AUTH LOGIN", "dXNlcg==", "aHVudGVyMg=="]


async def test_no_password_is_sent_where_neither_plain_nor_login_is_offered(open_provider: OpenProvider) -> None:
    async with open_smtp_fault_server() as server, open_provider(server.port, **USER) as provider:
        server.extensions = ("AUTH CRAM-MD5",)
        with pytest.raises(ProviderMisconfigured, match="neither AUTH PLAIN nor LOGIN"):
            await provider.check()
    assert len(server.heard) == 1
