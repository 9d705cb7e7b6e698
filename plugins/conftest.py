"""Strict simulators of vendors for the tests of plugins.

A simulator is Prism (npm `@stoplight/prism-cli`) with the vendor's own API description: it refuses what the description
refuses. The descriptions are not part of this repository; without them, or without Prism, these tests are skipped.
"""  # noqa: INP001  # tests are no package

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from postman.secret import Secret
from postman.testing.ports import free_port
from postman.wire import Client, ClientFactory

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def simulator() -> Iterator[Callable[[str], str]]:
    """Starts the simulator of a vendor when it is first asked for; returns its base URL."""
    specs = Path(os.environ.get("POSTMAN_SIMULATORS", ROOT.parent / "shared" / "simulators" / "specs"))
    prism = os.environ.get("POSTMAN_PRISM") or shutil.which("prism") or ROOT / ".tools/node_modules/.bin/prism"
    running: dict[str, str] = {}
    with ExitStack() as stack:

        def url_of(vendor: str) -> str:
            if vendor not in running:
                spec = specs / f"{vendor}.json"
                if not spec.exists():
                    pytest.skip(f"no description of {vendor}'s API: set POSTMAN_SIMULATORS to a directory that has it")
                if not Path(prism).exists():
                    pytest.skip("Prism is not installed: npm install --prefix .tools @stoplight/prism-cli")
                running[vendor] = stack.enter_context(_prism(str(prism), spec))
            return running[vendor]

        yield url_of


@pytest.fixture
def preferring() -> Callable[[int], ClientFactory]:
    """Makes factories whose clients ask the simulator for the answer with a certain status."""
    return _Preferring


class _Preferring(ClientFactory):
    def __init__(self, status: int) -> None:
        super().__init__()
        self._status = status

    @asynccontextmanager
    async def __call__(
        self, *, base_url: str, headers: Mapping[str, str | Secret] | None = None
    ) -> AsyncIterator[Client]:
        wanted = {**(headers or {}), "Prefer": f"code={self._status}"}
        async with super().__call__(base_url=base_url, headers=wanted) as client:
            yield client


@contextmanager
def _prism(prism: str, spec: Path) -> Iterator[str]:
    port = free_port()
    command = [prism, "mock", "--errors", "-h", "127.0.0.1", "-p", str(port), str(spec)]
    with subprocess.Popen(  # noqa: S603  # tests start their own programs
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        log = process.stdout or iter(())
        try:
            if not any("Prism is listening" in line for line in log):
                pytest.fail(f"{prism} did not start with {spec}")
            threading.Thread(target=list, args=(log,), daemon=True).start()  # a full pipe would stop it
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
