"""A vendor and a client in this process, a service in one of its own that can be killed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from postman.testing import acts
from postman.testing.fault_server import FaultServer, open_fault_server

TOML = """\
[http]
bind = "127.0.0.1:0"
max-batch = 100
[ledger]
url = "{ledger}"
[queue]
url = "{queue}"
visibility-timeout = {visibility}
[delivery]
workers = {workers}
grace = {grace}
timeout = {timeout}
resend-after = 0
"""
PROVIDER = """\
[[provider]]
name = "{name}"
plugin = "{plugin}"
weight = {weight}
{more}
settings = {{ {settings} }}
"""


@pytest.fixture
async def vendor() -> AsyncIterator[FaultServer]:
    """Takes every mail, until a test says otherwise."""
    async with open_fault_server(otherwise=acts.answer(202)) as server:
        yield server


@pytest.fixture
def provider() -> Callable[..., str]:
    """Makes a table of postman.toml."""

    def provider(
        name: str, plugin: str = "fake", settings: str = 'file = "taken"', weight: int = 1, more: str = ""
    ) -> str:
        return PROVIDER.format(name=name, plugin=plugin, settings=settings, weight=weight, more=more)

    return provider


@pytest.fixture
def toml(vendor: FaultServer, tmp_path: Path, provider: Callable[..., str]) -> Callable[..., str]:
    """Makes a postman.toml: a vendor behind HTTP, and whatever other providers a test has."""
    key = tmp_path / "key"
    key.write_text("SG.abcdefghijk.lmnopqrstuvwxyz0123456789")

    def toml(
        *others: str,
        workers: int = 1,
        grace: float = 2,
        timeout: float = 20,
        ledger: str = "sqlite:postman.db",
        queue: str = "sqlite:postman.db",
        visibility: float = 60,
        base: str = vendor.url,
        weight: int = 1,
        more: str = "",
    ) -> str:
        settings = f'api-key = {{ file = "{key}" }}, base-url = "{base}"'
        tables = [provider("vendor", "sendgrid", settings, weight, more), *others]
        head = TOML.format(
            ledger=ledger, queue=queue, visibility=visibility, workers=workers, grace=grace, timeout=timeout
        )
        return head + "\n".join(tables)

    return toml


@pytest.fixture
def accepted(vendor: FaultServer, tmp_path: Path) -> Callable[..., list[str]]:
    """The ids of the letters that a vendor, or a fake with the file `taken`, took; as often as they took them."""

    def accepted(vendor: FaultServer = vendor) -> list[str]:
        bodies = [json.loads(request.body) for request in vendor.accepted]
        ids = [body["personalizations"][0]["custom_args"]["postman_id"] for body in bodies]
        files = [path for path in tmp_path.glob("**/taken") if path.is_file()]
        return ids + [json.loads(line)["id"] for path in files for line in path.read_text().splitlines()]

    return accepted
