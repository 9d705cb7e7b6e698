"""The processes of a measurement: started on a core, asked for their CPU and memory, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ALL = sorted(os.sched_getaffinity(0))
SUBJECT = set(_ALL)
"""The cores of what is measured: all, as in earnest."""
OTHERS = set(_ALL[1:]) or SUBJECT
"""The cores of the load and of the vendor, so that one is left to what is measured."""

_PATIENCE = 20.0
_TICK: float = os.sysconf("SC_CLK_TCK")
_SERVICE = """\
[http]
bind = "127.0.0.1:0"
[[provider]]
name = "stub"
plugin = "sendgrid"
settings = {{ api-key = {{ file = "key" }}, base-url = "{vendor}" }}
"""


class Process:
    """A process that serves at `url`."""

    def __init__(self, popen: subprocess.Popen[str], url: str) -> None:
        self.url = url
        self._proc = Path(f"/proc/{popen.pid}")

    def cpu(self) -> float:
        """Seconds of CPU so far, of all its threads; in steps of 10 ms."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def memory(self) -> int:
        """Resident bytes."""
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1_024


@contextmanager
def open_process(module: str, *arguments: str, cores: set[int]) -> Iterator[Process]:
    """A module that prints where it serves."""
    with _started([sys.executable, "-m", module, *arguments], cores, stdout=subprocess.PIPE) as popen:
        assert popen.stdout
        yield Process(popen, json.loads(popen.stdout.readline())["url"])


@contextmanager
def open_service(vendor: str, key: str) -> Iterator[Process]:
    """The real `postman serve` in a directory of its own, with SendGrid's plugin and `vendor` as its address."""
    with tempfile.TemporaryDirectory(prefix="postman-bench-") as directory:
        config, log = Path(directory, "postman.toml"), Path(directory, "log")
        config.write_text(_SERVICE.format(vendor=vendor))
        Path(directory, "key").write_text(key)
        Path(directory, "key").chmod(0o600)
        command = [sys.executable, "-m", "postman", "serve", "--config", str(config)]
        with log.open("w") as stderr, _started(command, SUBJECT, stderr=stderr) as popen:
            yield Process(popen, _ready(log))


def run(module: str, *arguments: str | int, cores: set[int]) -> Any:  # noqa: ANN401  # a JSON document
    """Run a module to its end; what it printed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with _started(command, cores, stdout=subprocess.PIPE) as popen:
        printed, _ = popen.communicate()
        if popen.returncode:
            raise SystemExit(f"{module} failed")
    return json.loads(printed)


@contextmanager
def _started(command: list[str], cores: set[int], **streams: Any) -> Iterator[subprocess.Popen[str]]:  # noqa: ANN401  # Popen's own
    with subprocess.Popen(command, text=True, **streams) as popen:
        os.sched_setaffinity(popen.pid, cores)  # threads that it starts later stay there too
        try:
            yield popen
        finally:
            popen.terminate()


def _ready(log: Path) -> str:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}") and (event := json.loads(line))["event"] == "ready":
                return str(event["url"])
        time.sleep(0.02)
    raise SystemExit(f"the service did not start:\n{log.read_text()}")
