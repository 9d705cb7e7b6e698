"""The server of a store is down: without the ledger nothing is promised or sent; the queue is only a wake-up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from postman.testing import acts, sick_disk
from postman.testing.customer import MAIL, Customer, open_customer
from postman.testing.fault_server import FaultServer
from postman.testing.haste import hasten
from postman.testing.pairs import Places
from postman.testing.postgres_server import PostgresServer
from postman.testing.program import Program, open_program
from postman.testing.redis_server import RedisServer
from postman.testing.report import report
from postman.testing.smtp_fault_server import Fault, open_smtp_fault_server
from postman.testing.waiting import wait_until


def logged(program: Program, words: str) -> bool:
    """Whether there is a line of the log that says this."""
    return f'"{words}"' in program.log


async def held(customer: Customer, vendor: FaultServer) -> str:
    """A mail in doubt, of which a person decides."""
    vendor.script(acts.answer(500))
    (id,) = await customer.post("doubtful", [MAIL])
    await customer.wait_settled()
    assert (await customer.get(f"/mail/{id}"))["state"] == "held"
    return id


async def test_what_is_down_is_named_and_only_the_ledger_stops_the_way_in(
    tmp_path: Path,
    toml: Callable[..., str],
    vendor: FaultServer,
    accepted: Callable[[], list[str]],
    mortal_places: Places,
    mortal_postgres: PostgresServer,
    mortal_redis: RedisServer,
    long: bool,
) -> None:
    async def fail(server: PostgresServer | RedisServer, ledger: str, queue: str) -> None:
        """Both roles of a server that is down."""
        urls = mortal_places.url(ledger), mortal_places.url(queue)
        for name in ("its ledger", "its queue"):
            (tmp_path / f"{queue} {name}").mkdir()
        async with (
            open_program(tmp_path / f"{queue} its ledger", toml(ledger=urls[0], queue=urls[1])) as one,
            open_program(tmp_path / f"{queue} its queue", toml(ledger=urls[1], queue=urls[0])) as other,
            open_customer(lambda: one.url) as unlucky,
            open_customer(lambda: other.url) as lucky,
        ):
            for program in (one, other):
                await program.start(before=partial(hasten, overdue=1.0))
            doubtful = await held(lucky, vendor)
            server.kill()

            assert await unlucky.try_post("meanwhile", [MAIL]) is None
            await unlucky.wait_told("The ledger does not answer, so nothing is accepted and nothing is sent:")
            ready, live = [await unlucky._http.get(f"{one.url}/health/{what}") for what in ("ready", "live")]
            assert (ready.status_code, live.status_code) == (503, 200)

            await lucky.wait_told("The queue does not work, so mail is accepted and kept, and waits until it does:")
            (waiting,) = await lucky.post("meanwhile", [MAIL])
            released = await lucky._http.post(f"{other.url}/mail/{doubtful}/release")
            assert (released.status_code, released.json()["state"]) == (200, "queued")
            assert await lucky.get("/health/ready") == {"ready": True}
            assert (await lucky.get("/status"))["mails"]["queued"] == 2

            for program in (one, other):
                await wait_until(partial(logged, program, "a store does not answer"))
            await trio.to_thread.run_sync(server.start)
            await unlucky.post("meanwhile", [MAIL])
            with trio.fail_after(30):
                while (await lucky.get("/status"))["because"]:
                    await lucky.post(f"afterwards-{len(lucky.ids)}", [MAIL])
            for customer in (unlucky, lucky):
                await customer.wait_settled()
                assert (await customer.get("/status"))["because"] == []
            assert {(await lucky.get(f"/mail/{id}"))["state"] for id in (doubtful, waiting)} == {"sent"}
            for program in (one, other):
                await wait_until(partial(logged, program, "the stores answer again"))
            assert await one.stop() == await other.stop() == 0
            for program, store in ((one, "ledger"), (other, "queue")):
                assert program.log.count(f'"a store does not answer", "store": "{store}"') == 1
                assert program.log.count('"a store does not work') <= 1, "of one worker"
            rows = [*await one.rows(), *await other.rows()]
            ids = [*unlucky.ids, *lucky.ids]
            found = report(ids, [id for id in accepted() if id in ids], rows, unlucky.recovered)
        assert (found.accepted, found.lost, found.unexpected, found.duplicated) == (len(ids), (), (), {})

    await fail(mortal_postgres, "postgresql", "redis")
    if long:
        await fail(mortal_redis, "redis", "postgresql")


async def test_sixty_four_workers_that_hang_at_a_mail_server_keep_nobody_from_the_stores(
    tmp_path: Path, toml: Callable[..., str], provider: Callable[..., str], places: Places
) -> None:
    url = places.url("postgresql")
    async with open_smtp_fault_server({".": Fault.STALL}) as server:
        relay = provider("relay", "smtp", f'host = "127.0.0.1", port = {server.port}, security = "none"')
        text = toml(relay, ledger=url, queue=url, workers=64, more='from-domains = ["nobody.example"]')
        async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
            await program.start()
            await customer.post("hanging", [MAIL] * 64)
            await wait_until(lambda: len(server.taken) == 64)
            with trio.fail_after(10):
                for number in range(10):
                    await customer.post(f"meanwhile-{number}", [MAIL])
                status = await customer.get("/status")
            assert (status["mails"]["sending"], status["mails"]["queued"]) == (64, 10)
            assert (status["deliveries"]["in-hand"], status["because"]) == (64, [])


async def test_a_ledger_that_can_be_read_and_not_written_is_told_for_as_long_as_it_lasts(
    tmp_path: Path, toml: Callable[..., str], mortal_places: Places, mortal_redis: RedisServer
) -> None:
    url = mortal_places.url("redis")
    async with (
        open_program(tmp_path, toml(ledger=url, queue=url)) as program,
        open_customer(lambda: program.url) as customer,
    ):
        await program.start()
        mortal_redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        assert await customer.try_post("key", [MAIL]) is None
        for _ in range(5):
            (sentence,) = (await customer.get("/status"))["because"]
            assert "The ledger does not answer" in sentence
            assert "NOREPLICAS Not enough good replicas to write" in sentence
        mortal_redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        await customer.post("key", [MAIL])
        await customer.wait_settled()
        assert (await customer.get("/status"))["because"] == []
        assert await program.stop() == 0


async def test_a_queue_whose_disk_failed_is_not_taken_for_one_that_works(
    tmp_path: Path, toml: Callable[..., str], accepted: Callable[[], list[str]]
) -> None:
    queue = tmp_path / "queue.db"
    text = toml(queue="sqlite:queue.db")
    async with open_program(tmp_path, text) as program, open_customer(lambda: program.url) as customer:
        await program.start(before=sick_disk.install)
        sick_disk.break_(queue, "sync-error")
        await customer.post("key", [MAIL])
        assert await program.wait_ended() == 1
        assert "queue.db: the disk failed" in program.log.splitlines()[-1]
        sick_disk.heal(queue)
        await program.start(before=partial(hasten, overdue=1.0))
        await customer.wait_settled()
        assert await program.stop() == 0
    assert accepted() == customer.ids
