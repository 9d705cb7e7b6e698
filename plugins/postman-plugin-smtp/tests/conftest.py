"""What the tests of this plugin share: letters, attempts, providers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import trustme

from postman.kind import Surroundings
from postman.mail import Address, Content, Id, Letter, Mail
from postman.provider import Attempt
from postman.wire import ClientFactory
from postman_plugin_smtp import SmtpProvider, SmtpSettings, open_smtp

type MakeLetter = Callable[..., Letter]
type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]


@pytest.fixture
def make_letter() -> MakeLetter:
    """A letter to one recipient; keywords are fields of Mail."""

    def make(**fields: object) -> Letter:
        mail = Mail(
            to=(Address(email="to@example.net"),),
            from_=Address(email="from@example.com"),
            subject="Hello",
            content=(Content(type="text/plain", value="Dear you\n"),),
        )
        return Letter(
            id=Id("0x587e6d1522401000"),
            accepted=datetime(2026, 11, 24, 4, 30, tzinfo=UTC),
            mail=msgspec.structs.replace(mail, **fields),
        )

    return make


@pytest.fixture
def make_attempt() -> Callable[[], Attempt]:
    """An attempt whose lease is never over."""
    return lambda: Attempt("key-1", lease_ends=1.0, clock=lambda: 0.0)


@pytest.fixture
def open_provider() -> OpenProvider:
    """A provider for 127.0.0.1 at a port, in clear text unless told otherwise; keywords are settings."""

    def opened(port: int, **settings: object) -> AbstractAsyncContextManager[SmtpProvider]:
        wanted = SmtpSettings(host="127.0.0.1", port=port, security="none")
        surroundings = Surroundings(name="smtp", workers=64, timeout=25.0, client=ClientFactory())
        return open_smtp(msgspec.structs.replace(wanted, **settings), surroundings)

    return opened


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Whom our side trusts in tests of TLS."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`authority` as `ca-file`."""
    path: Path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path
