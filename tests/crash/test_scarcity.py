"""This machine runs out of what a connection needs: nothing is sent, nothing is lost, and the cure is told."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from postman.row import State
from postman.testing.customer import MAIL, open_customer
from postman.testing.ports import free_port
from postman.testing.program import open_program
from postman.testing.report import report
from postman.testing.waiting import PATIENCE


async def test_without_files_to_open_nothing_is_sent_no_attempt_is_burnt_and_status_says_so(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]]
) -> None:
    async with open_program(tmp_path, toml(workers=8)) as program, open_customer(lambda: program.url) as customer:
        await program.start()
        await customer.get("/status")  # its connection is kept
        before = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        await customer.post("key", [MAIL] * 8)
        said = await customer.wait_told("not asked")
        assert accepted() == []
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, before)
        answer = await customer._http.post(f"{program.url}/resume", json={})
        assert answer.is_success, answer.text
        await customer.wait_settled()
        assert await program.stop() == 0
        rows = await program.rows()
    assert "too many open files; raise the number of files that this process may open" in said
    assert [(row.state, row.attempts) for row in rows] == [(State.SENT, 1)] * 8
    found = report(customer.ids, accepted(), rows)
    assert (found.lost, found.unexpected, found.duplicated) == ((), (), {})


WITHOUT = """\
import encodings.idna, os, resource, socket, sys
import trio
from postman.connection import Origin, open_connection
from postman.errors import ProviderUnavailable
from postman.lookups import Lookups

async def main():
    trio.socket.set_custom_hostname_resolver(Lookups())
    resource.setrlimit(getattr(resource, sys.argv[1]), (1, 1) if "PROC" in sys.argv[1] else (3, 3))
    if os.getuid() == 0:
        os.setuid(65534)  # root may have as many as it likes
    try:
        await open_connection(Origin(sys.argv[2], 9, None), 3)
    except ProviderUnavailable as error:
        print(error)

socket.getaddrinfo("localhost", 9)  # what it needs is loaded
trio.run(main)
"""


@pytest.mark.parametrize(
    ("limit", "host", "cure"),
    [("RLIMIT_NPROC", "localhost", "TasksMax"), ("RLIMIT_NOFILE", "127.0.0.1", "LimitNOFILE")],
)
def test_a_look_up_or_a_connection_that_cannot_be_begun_is_surely_not_accepted_and_no_bug_of_the_plugin(
    limit: str, host: str, cure: str
) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, limit, host], capture_output=True, text=True, check=True)
    assert cure in done.stdout


WITHOUT_PORTS = """\
import fcntl, os, socket, struct, sys
from pathlib import Path
import trio
from postman.connection import Origin, open_connection
from postman.errors import ProviderUnavailable

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
try:
    os.unshare(os.CLONE_NEWNET)  # a network of its own
    with socket.socket() as any:
        fcntl.ioctl(any, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40000")
except OSError as error:
    sys.exit(f"not here: {error}")

async def main():
    vendor = socket.create_server(("127.0.0.1", 9))
    await open_connection(Origin("127.0.0.1", 9, None), 3)
    try:
        await open_connection(Origin("127.0.0.1", 9, None), 3)
    except ProviderUnavailable as error:
        print(error)

trio.run(main)
"""


def test_a_connection_for_which_no_port_is_left_is_surely_not_accepted_and_names_the_cure() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PORTS], capture_output=True, text=True, check=False)
    if "not here" in done.stderr:
        pytest.skip("this user may not have a network of its own")
    assert "no local port is free: widen net.ipv4.ip_local_port_range" in done.stdout


@pytest.mark.parametrize(("log", "mails"), [("a pipe that nobody reads", 1_200), ("/dev/full", 100)])
async def test_a_log_that_cannot_be_written_stops_no_mail_and_status_says_so(
    tmp_path: Path, toml: Callable[..., str], log: str, mails: int
) -> None:
    port = free_port()
    path = tmp_path / "postman.toml"
    path.write_text(toml(workers=64).replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    full = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-m", "postman", "serve", "--config", str(path)]
    process = await trio.lowlevel.open_process(command, stderr=full if log == "/dev/full" else writing)
    try:
        async with open_customer(lambda: f"http://127.0.0.1:{port}") as customer:
            for request in range(mails // 100):
                await customer.post(f"{request}", [MAIL] * 100)
            await customer.wait_settled()
            status = await customer.get("/status")
        assert status["mails"]["sent"] == mails
        assert any("lines of the log were dropped" in sentence for sentence in status["because"]), status["because"]
        process.terminate()
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for descriptor in (reading, writing, full):
            os.close(descriptor)
