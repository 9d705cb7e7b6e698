"""Functions for AWS Lambda, on ledgers in PostgreSQL and Redis, a queue in an emulator of SQS, and vendors."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest
import structlog

from postman import aws_lambda
from postman.testing import acts
from postman.testing.fault_server import FaultServer, open_fault_server
from postman.testing.pairs import Places
from postman.testing.sqs_server import SqsServer
from postman.testing.sqs_vendor import Vendor, open_sqs_vendor
from tests.aws_lambda.function import TIMEOUT, TOML, Function


@pytest.fixture(autouse=True)
def account(aws_account: None) -> None:
    """Every test has one."""


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """A function configures the logs of its whole process."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    aws_lambda._begin_logs.cache_clear()


@pytest.fixture
async def vendor() -> AsyncGenerator[FaultServer]:
    async with open_fault_server(otherwise=acts.answer(202)) as server:
        yield server


@pytest.fixture
def function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Places, sqs_process: SqsServer, vendor: FaultServer
) -> Callable[..., Function]:
    def function(ledger: str = "redis", queue: str | None = None, timeout: float = TIMEOUT) -> Function:
        queue = queue or places.url("sqs")
        ledger = ledger if ":" in ledger else places.url(ledger)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(TOML.format(ledger=ledger, queue=queue, timeout=timeout, vendor=vendor.url))
        key = tmp_path / "key"
        key.write_text("SG.abcdefghijk.lmnopqrstuvwxyz0123456789")
        monkeypatch.setenv("POSTMAN_CONFIG", str(path))
        return Function(path, queue.partition("?")[0].rpartition("/")[2], vendor, sqs_process)

    return function


@pytest.fixture(params=["postgresql", "redis"])
def ledger(request: pytest.FixtureRequest) -> str:
    """Each engine that functions may share a ledger on."""
    engine: str = request.param
    return engine


@pytest.fixture
async def sqs_vendor() -> AsyncGenerator[Vendor]:
    """SQS as the test wants it, with a queue."""
    async with open_sqs_vendor() as vendor:
        yield vendor


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invocations need not be long."""
    monkeypatch.setattr(aws_lambda, "OPENING", 0.0)
    monkeypatch.setattr(aws_lambda, "CLOSING", 0.6)
