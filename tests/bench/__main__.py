"""The benchmark: how fast mails come in and go out, beside ceilings that are measured in the same run.

    uv run python -m tests.bench                      # rates, about three minutes
    uv run python -m tests.bench --memory 100000      # does memory stay flat?
    uv run python -m tests.bench --stores             # each engine's ledger and queue, beside its own statements alone;
                                                      # SQS where fauxqs is installed, see .ci/run

What is measured is the real `postman serve` on SQLite; the load, and a vendor that answers as SendGrid does, are kept
off the first core, so that they do not take it from the event loop. Every figure is the median of several rounds, and
in each round everything is measured once, so that what else the machine does meets all alike. Beside the rates stands
the CPU that the measured process took for each mail, all its threads: the rate of one core, whatever else runs.

Ceilings: (a) is the same endpoint, which checks the mails and drops them, served by Quart-Trio and Hypercorn as they
are; (b) is a bare HTTP client that posts the same bodies to the same vendor with as many calls at a time as the service
has workers; (c) is (a) served by our own server, so that the store alone lies between it and the service.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

import apsw

from postman.commands.client import Client
from tests.bench.process import OTHERS, SUBJECT, Process, open_process, open_service, run
from tests.bench.table import Figure, Share, table
from tests.bench.vendor import KEY

CONNECTIONS = 64
WORKERS = 64
"""The service's default."""
WARM = 640
_PATIENCE = 600.0

SHARES = (
    Share("intake, 10 a POST: SQLite", "intake, 10 a POST: (a) dropped", 0.75),
    Share("intake, 10 a POST: SQLite", "intake, 10 a POST: (c) dropped, our server", None),
    Share("intake, 1 a POST: SQLite", "intake, 1 a POST: (a) dropped", None),
    Share("intake, 1 a POST: SQLite", "intake, 1 a POST: (c) dropped, our server", None),
    Share("POST to provider: Postman", "provider call: (b) httpx2", 0.7),
    Share("POST to provider: Postman", "provider call: (b) our client", None),
)


STORES = {
    "sqlite": ("tests.bench.stores", "sqlite"),
    "redis": ("tests.bench.stores", "redis"),
    "postgresql": ("tests.bench.stores", "postgresql"),
    "sqs": ("tests.bench.sqs",),
}
"""What measures each: ledger and queue of an engine; of SQS a queue alone."""


def stores(mails: int) -> Iterator[tuple[str, Figure]]:
    """One round of each, without HTTP and providers."""
    for store, module in STORES.items():
        for name, *figure in run(*module, "--mails", mails, cores=SUBJECT):
            yield f"{store}: {name}", Figure(*figure)


def measure(mails: int) -> Iterator[tuple[str, Figure]]:
    """One round."""
    with (
        open_process("tests.bench.dropper", "--stock", cores=SUBJECT) as stock,
        open_process("tests.bench.dropper", cores=SUBJECT) as ours,
        open_service("http://127.0.0.1:9", KEY) as service,
    ):
        _pause(service)
        for subject in (stock, ours, service):
            _post(subject.url, WARM, 10)
        for size, count in ((10, mails), (1, mails // 5)):
            yield f"intake, {size} a POST: (a) dropped", _intake(stock, count, size)
            yield f"intake, {size} a POST: (c) dropped, our server", _intake(ours, count, size)
            yield f"intake, {size} a POST: SQLite", _intake(service, count, size)
        yield "intake, 1 a POST, 1 at a time: SQLite", _intake(service, mails // 20, 1, connections=1)
        taken = WARM + mails + mails // 5 + mails // 20
        assert _letters(service)["queued"] == taken, "what was answered with 202 is not there"
    with open_process("tests.bench.vendor", cores=OTHERS) as vendor, open_service(vendor.url, KEY) as service:
        _post(service.url, WARM, 10)
        _wait_sent(service, WARM)
        yield "provider call: (b) httpx2", _calls(vendor, "httpx2", mails // 4)
        yield "POST to provider: Postman", _delivered(service, vendor, mails // 2)
        yield "provider call: (b) our client", _calls(vendor, "wire", mails // 2)


def memory(mails: int) -> None:
    """Let mails through the service, and print its memory on the way."""
    step = max(10, mails // 100 * 10)
    with open_process("tests.bench.vendor", cores=OTHERS) as vendor, open_service(vendor.url, KEY) as service:
        for passed in range(step, mails + 1, step):
            _post(service.url, step, 10)
            _wait_sent(service, passed)
            print(f"after {passed:>7} mails  {service.memory() / 2**20:6.1f} MiB", flush=True)  # noqa: T201  # the result


def _pause(service: Process) -> None:
    with Client(service.url) as client:
        client.ask("POST", "/pause", body=b'{"provider": "*"}')


def _intake(subject: Process, mails: int, size: int, connections: int = CONNECTIONS) -> Figure:
    cpu = subject.cpu()
    told = _post(subject.url, mails, size, connections)
    return Figure(mails, told["seconds"], subject.cpu() - cpu, told["p50"], told["p99"])


def _delivered(service: Process, vendor: Process, mails: int) -> Figure:
    """From the first POST to the last call of the provider; intake and delivery at once."""
    before = _books(vendor)
    cpu = service.cpu()
    told = _post(service.url, mails, 10)
    _wait_sent(service, WARM + mails)
    cpu = service.cpu() - cpu
    books = _books(vendor)
    assert books["requests"] - before["requests"] == mails, "a letter was lost or doubled"
    assert books["letters"] - before["letters"] == mails, "a letter was lost or doubled"
    return Figure(mails, books["last"] - told["began"], cpu, told["p50"], told["p99"])


def _calls(vendor: Process, client: str, mails: int) -> Figure:
    told = run("tests.bench.sender", client, vendor.url, "--mails", mails, "--workers", WORKERS, cores=SUBJECT)
    return Figure(mails, told["seconds"], told["cpu"])


def _books(vendor: Process) -> dict[str, float]:
    with Client(vendor.url) as client:
        books: dict[str, float] = client.ask("GET", "/")
        return books


def _post(url: str, mails: int, size: int, connections: int = CONNECTIONS) -> dict[str, float]:
    arguments = ("--posts", mails // size, "--size", size, "--connections", connections)
    told: dict[str, float] = run("tests.bench.customers", url, *arguments, cores=OTHERS)
    return told


def _letters(service: Process) -> dict[str, int]:
    with Client(service.url) as client:
        letters: dict[str, int] = client.ask("GET", "/status")["mails"]
        return letters


def _wait_sent(service: Process, mails: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while (sent := _letters(service)["sent"]) != mails:
        assert time.monotonic() < deadline, f"{sent} of {mails} letters were sent"
        time.sleep(0.1)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mails", type=int, default=20_000, help="of the largest measurement, in hundreds (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median counts (%(default)s)")
    parser.add_argument("--memory", type=int, metavar="MAILS", help="let so many through, and watch the memory instead")
    parser.add_argument("--stores", action="store_true", help="measure the stores alone")
    given = parser.parse_args()
    if given.memory:
        memory(given.memory)
        return 0
    rounds: defaultdict[str, list[Figure]] = defaultdict(list)
    for number in range(given.rounds):
        print(f"round {number + 1} of {given.rounds} ...", file=sys.stderr, flush=True)  # noqa: T201  # so that one waits
        for name, figure in (stores if given.stores else measure)(max(100, given.mails // 100 * 100)):
            rounds[name].append(figure)
    print(f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, mails of 2 KB\n")  # noqa: T201  # the result
    raw = [Share(name, f"{name}, raw", None) for name in rounds if f"{name}, raw" in rounds]
    print("\n".join(table(rounds, raw if given.stores else SHARES)))  # noqa: T201  # the result
    return 0


if __name__ == "__main__":
    sys.exit(main())
