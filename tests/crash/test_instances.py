"""Several processes on one ledger and queue: parts of the service, kills, roll-outs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx2 as httpx
import pytest
import trio

from postman.config import load
from postman.errors import NewerRow
from postman.queue import VERSION, Note
from postman.registry import set_up
from postman.row import Row, State
from postman.stores import open_stores
from postman.testing import acts
from postman.testing.customer import MAIL, Customer, open_customer
from postman.testing.fault_server import FaultServer, open_fault_server
from postman.testing.haste import compare_often, hasten, lose_patience, stop_minting_clock
from postman.testing.letters import a_letter
from postman.testing.pairs import Places
from postman.testing.program import Program, open_program
from postman.testing.report import report
from postman.testing.waiting import wait_for, wait_until
from postman.wire import ClientFactory

ENGINES = ("redis", "postgresql")


@asynccontextmanager
async def instances(directory: Path, toml: str, count: int) -> AsyncIterator[list[Program]]:
    """So many programs with one configuration, none started."""
    async with AsyncExitStack() as stack:
        programs = []
        for number in range(count):
            (directory / f"instance {number}").mkdir(parents=True)
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
        await front.start("", "--only", "http", before=lose_patience)
        async with open_customer(lambda: front.url) as customer:
            ids = await customer.post("one", [MAIL])
            await customer.wait_told("nobody delivers it")
            status = await customer.get("/status")
            assert (status["mails"]["queued"], status["instance"]["only"]) == (1, "http")
            await back.start("", "--only", "workers", "--bind", "[::1]:0")
            assert back.url.startswith("http://[::1]:")
            await customer.wait_settled()
            assert accepted() == list(ids)
        refused = await posted(back.url, "/mail", [MAIL])
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        assert "--only workers" in refused.json()["detail"]
        async with open_customer(lambda: back.url) as operator:
            assert await operator.get("/health/ready") == {"ready": True}
            told = (await operator.get("/status"))["instances"]
            assert {(instance["pid"], instance["only"]) for instance in told} == {
                (front.pid, "http"),
                (back.pid, "workers"),
            }
            assert (await operator.get(f"/mail/{ids[0]}"))["state"] == "sent"
            assert (await posted(back.url, "/reload")).status_code == 200, "the bind is that of the command line still"
        assert [await program.stop() for program in (front, back)] == [0, 0]


async def test_an_instance_that_delivers_much_less_than_the_other_is_named_by_both(
    tmp_path: Path, toml: Callable[..., str], vendor: FaultServer, places: Places
) -> None:
    url = places.url("postgresql")
    async with open_fault_server(otherwise=acts.hang(accept=False)) as hanging:
        texts = [toml(ledger=url, queue=url, workers=4, base=server.url) for server in (vendor, hanging)]
        for name in ("quick", "slow"):
            (tmp_path / name).mkdir()
        async with (
            open_program(tmp_path / "quick", texts[0]) as quick,
            open_program(tmp_path / "slow", texts[1]) as slow,
            open_customer(lambda: quick.url) as customer,
            open_customer(lambda: slow.url) as other,
            trio.open_nursery() as nursery,
        ):
            for program in (quick, slow):
                await program.start(before=compare_often)
            load = Load(customer)
            for _ in range(6):
                nursery.start_soon(load.post)
            for reader in (customer, other):
                sentence = await reader.wait_told("where the pace of the others makes")
                assert f"(pid {slow.pid}) delivered 0 mails" in sentence
            load.enough.set()


@pytest.mark.parametrize("part", ["http", "workers"])
async def test_a_part_alone_on_a_ledger_of_its_own_is_refused_with_the_cure(
    tmp_path: Path, toml: Callable[..., str], part: str
) -> None:
    async with open_program(tmp_path, toml()) as program:
        await program.start("", "--only", part)
        assert await program.wait_ended() == 2
        assert f"--only {part}: [ledger] and [queue] cannot be shared" in program.log
        assert "Traceback" not in program.log


async def wait_state(customer: Customer, id: str, state: str) -> None:
    await wait_for(partial(customer.get, f"/mail/{id}"), lambda mail: mail["state"] == state)


async def test_a_pause_and_a_person_s_decision_hold_at_every_instance(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]], places: Places
) -> None:
    url = places.url("redis")
    async with instances(tmp_path, toml(ledger=url, queue=url), 2) as (here, there):
        await here.start()
        await there.start()
        async with open_customer(lambda: there.url) as customer:
            assert (await posted(here.url, "/pause", {})).status_code == 200
            await customer.wait_status(lambda status: all(provider["paused"] for provider in status["providers"]))
            one, other = await customer.post("two", [MAIL, MAIL])
            assert (await posted(here.url, f"/mail/{one}/discard")).json()["state"] == "cancelled"
            await wait_state(customer, one, "cancelled")
            assert (await posted(here.url, "/resume", {})).status_code == 200
            await wait_state(customer, other, "sent")
        assert accepted() == [other]


async def test_doubt_is_left_to_the_instance_that_has_the_account(
    tmp_path: Path,
    toml: Callable[..., str],
    provider: Callable[..., str],
    vendor: FaultServer,
    places: Places,
) -> None:
    vendor.otherwise = acts.hang(accept=True)
    url = places.url("postgresql")
    text = toml(ledger=url, queue=url, timeout=1)
    ours = text[: text.index("[[provider]]")] + provider("other")
    (tmp_path / "owner").mkdir()
    (tmp_path / "neighbour").mkdir()
    async with (
        open_program(tmp_path / "owner", text) as owner,
        open_program(tmp_path / "neighbour", ours) as neighbour,
        open_customer(lambda: owner.url) as customer,
        open_customer(lambda: neighbour.url) as other,
    ):
        await owner.start(before=hasten)
        (doubtful,) = await customer.post("doubtful", [MAIL])
        await wait_state(customer, doubtful, "sending")
        await owner.kill()
        await neighbour.start(before=hasten)
        await wait_state(other, doubtful, "in-doubt")
        assert (await posted(neighbour.url, "/pause", {})).status_code == 200
        soon = datetime.now(UTC) + timedelta(seconds=1)
        (short,) = await other.post("short", [{**MAIL, "expires-at": soon.isoformat()}])
        await wait_state(other, short, "expired")  # so the neighbour's clerk has had further rounds
        assert (await other.get(f"/mail/{doubtful}"))["state"] == "in-doubt"
        await owner.start(before=hasten)
        await wait_state(customer, doubtful, "held")


# under load


class Load:
    """Customers of whichever instance runs, each sure of its mails."""

    def __init__(self, customer: Customer) -> None:
        self.customer = customer
        self.enough = trio.Event()
        self._posted = 0

    async def post(self) -> None:
        """Post batch after batch until it is enough."""
        while not self.enough.is_set():
            self._posted += 1
            await self.customer.post(f"batch-{self._posted}", [MAIL] * 5)
            await trio.sleep(random.uniform(0, 0.1))

    async def wait_further(self, mails: int = 20) -> None:
        """Wait until so many more mails are promised."""
        goal = len(self.customer.ids) + mails
        await wait_until(lambda: len(self.customer.ids) >= goal, within=60)


@asynccontextmanager
async def loaded(running: list[Program]) -> AsyncIterator[Load]:
    """Load on a random one of what is `running` by then; at the end every mail has settled."""
    async with open_customer(lambda: random.choice(running).url) as customer, trio.open_nursery() as nursery:
        load = Load(customer)
        for _ in range(6):
            nursery.start_soon(load.post)
        yield load
        load.enough.set()
    async with open_customer(lambda: running[0].url) as reader:
        await reader.wait_settled(120)


def doubts(row: Row) -> int:
    """How often a letter was in doubt."""
    return sum(entry.state is State.IN_DOUBT for entry in row.history)


async def test_whichever_is_killed_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path,
    toml: Callable[..., str],
    accepted: Callable[[FaultServer], list[str]],
    places: Places,
    long: bool,
) -> None:
    count, kills = (4, 60) if long else (2, 4)

    async def run(engine: str) -> None:
        url = places.url(engine)
        async with open_fault_server(otherwise=acts.take_slowly()) as vendor:
            text = toml(ledger=url, queue=url, base=vendor.url, workers=12, timeout=3, visibility=2)
            async with instances(tmp_path / engine, text, count) as programs:
                for program in programs:
                    await program.start(before=hasten)
                async with loaded(programs) as load:
                    for _ in range(kills):
                        await load.wait_further()
                        victim = random.choice(programs)
                        await victim.kill()
                        await victim.start(before=hasten)
                assert [await program.stop() for program in programs] == [0] * count
                rows = await programs[0].rows()
            found = report(load.customer.ids, accepted(vendor), rows, load.customer.recovered)
        assert (found.waiting, found.lost, found.unexpected, found.duplicated) == (0, (), (), {})
        assert found.told <= sum(map(doubts, rows)) <= kills * 12, "a doubt that no kill explains"

    async with trio.open_nursery() as nursery:
        for engine in ENGINES:
            nursery.start_soon(run, engine, name=engine)


async def test_a_roll_out_under_load_loses_doubles_and_doubts_nothing(
    tmp_path: Path,
    toml: Callable[..., str],
    accepted: Callable[[FaultServer], list[str]],
    places: Places,
    long: bool,
) -> None:
    count = 8 if long else 2

    async def run(engine: str) -> None:
        url = places.url(engine)
        async with open_fault_server(otherwise=acts.take_slowly()) as vendor:
            text = toml(ledger=url, queue=url, base=vendor.url, workers=12)
            async with instances(tmp_path / engine, text, 2 * count) as programs:
                running, new = programs[:count], programs[count:]
                for program in running:
                    await program.start()
                async with loaded(running) as load:
                    for program in new:
                        await load.wait_further()
                        await program.start()
                        running.append(program)
                        assert await running.pop(0).stop() == 0
                assert [await program.stop() for program in running] == [0] * count
                rows = await programs[0].rows()
            found = report(load.customer.ids, accepted(vendor), rows, load.customer.recovered)
        assert (found.accepted, found.told, found.copies) == (found.acked, 0, 0)
        assert sum(map(doubts, rows)) == 0

    async with trio.open_nursery() as nursery:
        for engine in ENGINES:
            nursery.start_soon(run, engine, name=engine)


async def test_what_the_next_version_takes_meanwhile_is_left_to_it_and_ours_is_sent(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]], places: Places
) -> None:
    letters = [a_letter(number, on_doubt="ask") for number in range(1, 11)]  # a policy that nobody knows yet
    sent: list[str] = []

    async def run(engine: str) -> None:
        url = places.url(engine)
        async with instances(tmp_path / engine, toml(ledger=url, queue=url, workers=4), 2) as programs:
            for program in programs:
                await program.start(before=partial(hasten, overdue=0.5))
            setup = set_up(load(programs[0].directory / "postman.toml"))
            async with (
                open_stores(setup, ClientFactory()) as (ledger, queue),
                open_customer(lambda: random.choice(programs).url) as customer,
            ):
                await ledger.accept(letters, "shop", None, b"")
                await queue.put([Note(letter.id, version=VERSION + 1) for letter in letters[5:]])
                for number in range(4):
                    await customer.post(f"batch-{number}", [MAIL] * 10)
                    await trio.sleep(0.3)  # a round of the clerks, which see what is due and does not leave
                status = await customer.wait_status(lambda status: status["mails"]["sent"] == 40)
                sent.extend(customer.ids)
                for letter in letters:
                    with pytest.raises(NewerRow):
                        await ledger.read(letter.id, None)
                found = await queue.statistics()
            assert (status["mails"]["queued"], status["queue"]["buried"]) == (10, 0)
            assert sum(found.ready) + found.delayed + found.leased == 10 + 5, "each note is there still"
            assert [await program.stop() for program in programs] == [0, 0]
            assert not any("Traceback" in program.log for program in programs)

    async with trio.open_nursery() as nursery:
        for engine in ENGINES:
            nursery.start_soon(run, engine, name=engine)
    assert sorted(accepted()) == sorted(sent)


@pytest.mark.parametrize("engine", ENGINES)
async def test_two_instances_with_one_node_number_mint_new_ids_and_nobody_notices(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]], places: Places, engine: str
) -> None:
    url = places.url(engine)
    async with instances(tmp_path, "node = 7\n" + toml(ledger=url, queue=url, workers=12), 2) as programs:
        for program in programs:
            await program.start(before=stop_minting_clock)
        async with (
            open_customer(lambda: programs[0].url) as one,
            open_customer(lambda: programs[1].url) as other,
        ):
            for number in range(3):
                for customer in (one, other):
                    await customer.post(f"{customer is one}-{number}", [MAIL] * 50)
            assert one.refusals == other.refusals == []
            assert len({*one.ids, *other.ids}) == 300
            await one.wait_settled()
        assert sorted(accepted()) == sorted([*one.ids, *other.ids])
        assert all("same node number" in program.log for program in programs)
