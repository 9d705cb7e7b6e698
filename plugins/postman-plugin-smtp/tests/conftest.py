"""What the tests of this plugin share: providers, and whom they trust."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
import trustme

from postman.kind import Surroundings
from postman.wire import ClientFactory
from postman_plugin_smtp import SmtpProvider, SmtpSettings, open_smtp

type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]


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


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """The side of a server at 127.0.0.1 that is to be trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`authority` as `ca-file`."""
    path: Path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path
