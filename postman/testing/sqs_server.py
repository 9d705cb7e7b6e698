"""A private server that speaks the protocol of SQS, for tests: moto, or fauxqs where it is installed."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from postman.testing.ports import free_port

REGION = "eu-central-1"
"""In which all queues are made."""

AHEAD = struct.Struct("d")
"""Seconds by which moto's clock is ahead, in its file."""

_READY = 30.0
"""Seconds to start."""


class SqsServer:
    """A server on the loopback.

    Attributes:
        port: of 127.0.0.1.
    """

    def __init__(self, port: int, ahead: Path) -> None:
        self.port = port
        self._ahead = ahead

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def advance(self, seconds: float) -> None:
        """Let the server's clock go on."""
        with self._ahead.open("r+b") as file:  # in place: it is mapped
            (ahead,) = AHEAD.unpack(file.read())
            file.seek(0)
            file.write(AHEAD.pack(ahead + seconds))

    def ask(self, action: str, **body: Any) -> Any:  # noqa: ANN401  # what it takes and says
        """One call, without a signature that is right."""
        request = urllib.request.Request(  # noqa: S310  # our own server
            self.endpoint,
            msgspec.json.encode(body),
            {
                "Content-Type": "application/x-amz-json-1.0",
                "X-Amz-Target": f"AmazonSQS.{action}",
                "Authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/sqs/aws4_request,"
                " SignedHeaders=host, Signature=0",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own server
            data = answer.read()
        return msgspec.json.decode(data) if data else None

    def place(self, name: str) -> str:
        """The URL of a new queue, as postman.toml has it."""
        self.make(name)
        return f"sqs://{REGION}/{name}?endpoint={self.endpoint}"

    def make(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """Make a queue; its URL."""
        url: str = self.ask("CreateQueue", QueueName=name, Attributes=attributes or {})["QueueUrl"]
        return url


@contextmanager
def moto_server(directory: Path) -> Iterator[SqsServer]:
    """moto, whose clock can be advanced."""
    server = SqsServer(free_port(), _clock(directory))
    command = [sys.executable, "-m", "postman.testing.moto_server", str(server.port), str(directory / "ahead")]
    with _running(server, command, {}):
        yield server


@contextmanager
def fauxqs_server(directory: Path) -> Iterator[SqsServer]:
    """fauxqs, whose clock is that of the machine.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = shutil.which("fauxqs", path=os.pathsep.join([".tools/node_modules/.bin", os.environ.get("PATH", "")]))
    if found is None:
        raise FileNotFoundError("fauxqs is not installed; run: npm install --prefix .tools fauxqs")
    server = SqsServer(free_port(), _clock(directory))
    with _running(server, [found], {"FAUXQS_PORT": str(server.port), "FAUXQS_LOGGER": "false"}):
        yield server


def _clock(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    ahead = directory / "ahead"
    ahead.write_bytes(AHEAD.pack(0.0))
    return ahead


@contextmanager
def _running(server: SqsServer, command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(  # noqa: S603  # a program that we found ourselves
        command, env={**ours, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_ready(server, process)
        yield
    finally:
        process.kill()
        process.wait()


def _wait_ready(server: SqsServer, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _READY
    while time.monotonic() < end and process.poll() is None:
        try:
            server.ask("ListQueues")
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("the server does not start")
