"""Several processes on one ledger and queue: parts of the service, kills, roll-outs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from postman.testing.customer import open_customer
from postman.testing.pairs import Places
from postman.testing.program import Program, open_program

ENGINES = ("redis", "postgresql")
MAIL = {
    "to": [{"email": "ann@example.com"}],
    "from": {"email": "shop@example.org"},
    "subject": "hello",
    "content": [{"type": "text/plain", "value": "x"}],
}


@asynccontextmanager
async def instances(directory: Path, toml: str, count: int) -> AsyncIterator[list[Program]]:
    """So many programs with one configuration, none started."""
    async with AsyncExitStack() as stack:
        programs = []
        for number in range(count):
            (directory / f"instance {number}").mkdir()
            programs.append(await stack.enter_async_context(open_program(directory / f"instance {number}", toml)))
        yield programs


async def posted(url: str, path: str, body: object = None) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        return await client.post(path, json=body)


@pytest.mark.parametrize("engine", ENGINES)
async def test_one_process_takes_mail_and_another_delivers_it(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]], places: Places, engine: str
) -> None:
    url = places.url(engine)
    async with instances(tmp_path, toml(ledger=url, queue=url), 2) as (front, back):
        await front.start("", "--only", "http")
        async with open_customer(lambda: front.url) as customer:
            ids = await customer.post("one", [MAIL])
            assert (await customer.get("/status"))["mails"]["queued"] == 1
            await back.start("", "--only", "workers", "--bind", "[::1]:0")
            assert back.url.startswith("http://[::1]:")
            await customer.wait_settled()
            assert accepted() == list(ids)
        refused = await posted(back.url, "/mail", [MAIL])
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        assert "--only workers" in refused.json()["detail"]
        async with open_customer(lambda: back.url) as operator:
            assert await operator.get("/health/ready") == {"ready": True}
            assert (await operator.get(f"/mail/{ids[0]}"))["state"] == "sent"
            assert (await posted(back.url, "/reload")).status_code == 200, "the bind is that of the command line still"
        assert [await program.stop() for program in (front, back)] == [0, 0]


@pytest.mark.parametrize("part", ["http", "workers"])
async def test_a_part_alone_on_a_ledger_of_its_own_is_refused_with_the_cure(
    tmp_path: Path, toml: Callable[..., str], part: str
) -> None:
    async with open_program(tmp_path, toml()) as program:
        await program.start("", "--only", part)
        assert await program.wait_ended() == 2
        assert f"--only {part}: [ledger] and [queue] cannot be shared" in program.log
        assert "Traceback" not in program.log
