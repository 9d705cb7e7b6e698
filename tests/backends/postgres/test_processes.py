"""Many processes on one schema of PostgreSQL, and two services on one server."""

from __future__ import annotations

import subprocess
import sys

import psycopg
import trio
from psycopg import sql

from postman.backends.postgres.ledger import PostgresLedger, ledger_on
from postman.backends.postgres.server import Server, open_side
from postman.ledger import Call, Claim, Filter, Instance, LedgerStatistics, Overdue, Unclaimable
from postman.mail import Id
from postman.queue import QueueStatistics
from postman.row import Policy, State, present
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.postgres_stores import letter, opened
from postman.testing.standing_clock import StandingClock

CLAIMER = """
import sys, trio
from postman.ledger import Claim
from postman.row import Policy
from postman.backends.postgres.ledger import ledger_on
from postman.backends.postgres.server import Server, open_side
from postman.testing.check_ledger.scene import LAMDA

async def main(server):
    async with open_side(server) as side, ledger_on(server, side, Policy()) as ledger:
        print(flush=True)
        ids = sys.stdin.readline().split()
        async def claim(id):
            if isinstance(await ledger.claim(id, [LAMDA]), Claim):
                print(id)
        async with trio.open_nursery() as nursery:
            for id in ids:
                nursery.start_soon(claim, id)

trio.run(main, Server(*sys.argv[1:]))
"""


async def test_of_claims_in_several_processes_at_once_one_wins_each_letter(postgres: Server) -> None:
    letters = [letter() for _ in range(300)]
    async with opened(postgres) as (ledger, _):
        await ledger.accept(letters, "shop", None, b"")
        command = [sys.executable, "-c", CLAIMER, postgres.url, postgres.schema]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "\n"
        for process, order in zip(processes, (letters, letters[::-1]), strict=True):
            assert process.stdin is not None
            process.stdin.write(" ".join(one.id for one in order) + "\n")
            process.stdin.flush()
        won = [process.communicate(timeout=20)[0].split() for process in processes]
        assert sorted(won[0] + won[1]) == sorted(one.id for one in letters)
        assert (await ledger.statistics()).states == {State.SENDING: 300}


async def test_one_key_in_two_ledgers_at_once_is_one_request(postgres: Server) -> None:
    async with opened(postgres) as (one, _), opened(postgres) as (other, _):
        for turn in range(10):
            answers = list[tuple[Id, ...]]()

            async def post(ledger: PostgresLedger, key: str, answers: list[tuple[Id, ...]] = answers) -> None:
                answers.append((await ledger.accept([letter()], "shop", key, b"body")).ids)

            async with trio.open_nursery() as nursery:
                for ledger in (one, other, one, other):
                    nursery.start_soon(post, ledger, f"key-{turn}")
            assert len(set(answers)) == 1
        assert (await one.statistics()).states == {State.QUEUED: 10}


async def test_a_call_of_another_process_is_judged_by_its_lease_alone(postgres: Server) -> None:
    one, clock = letter(), StandingClock()
    async with opened(postgres) as (mine, _):
        await mine.accept([one], "shop", None, b"")
        before = present().wall
        claim = await mine.claim(one.id, [Call("lamda", "lamda.example", 1.0)])
        assert isinstance(claim, Claim)
        assert abs(claim.lease_ends - 1.0 - before) < 5, "the server's clock, which is this machine's here"
        async with open_side(postgres) as side, ledger_on(postgres, side, Policy(), clock) as other:
            assert (await other.statistics()).states == {State.SENDING: 1}
            clock.wall = clock.steady = claim.lease_ends - 0.1
            assert (await other.overdue(10)).lapsed == ()
            clock.wall = clock.steady = claim.lease_ends + 0.1
            assert [row.id for row in (await other.overdue(10)).lapsed] == [one.id]
            assert (await mine.finish(claim, ACCEPTED)).state is State.SENT


async def test_letters_and_notes_are_one_transaction(postgres: Server) -> None:
    async with opened(postgres) as (ledger, queue):
        one = letter()
        before = ledger._line.commits
        accepted = await ledger.accept([one], "shop", "key", b"body")
        assert (ledger._line.commits, accepted.noted) == (before + 1, True)
        replayed = await ledger.accept([letter()], "shop", "key", b"body")
        assert (replayed.replayed, replayed.ids) == (True, (one.id,))
        lease = await queue.take()
        assert lease.note is not None
        assert lease.note.id == one.id
        assert sum((await queue.statistics()).ready) == 0


async def test_services_with_schemas_of_their_own_do_not_meet(postgres: Server) -> None:
    neighbour, one = Server(postgres.url, f"{postgres.schema}: a 'neighbour'"), letter()
    async with opened(postgres) as (ours, queue), opened(neighbour) as (theirs, quiet):
        await ours.accept([one], "shop", "key", b"body")
        await ours.pause("lamda", "olga")
        await ours.enrol(Instance(id="ours", name="a", pid=1))
        assert await theirs.statistics() == LedgerStatistics({})
        assert await quiet.statistics() == QueueStatistics((0, 0, 0), 0, 0, 0)
        assert await theirs.claim(one.id, [LAMDA]) == Unclaimable(None)
        assert await theirs.overdue(10) == Overdue((), (), (), (), ())
        assert (await theirs.find(Filter(), None, 10), await theirs.pauses()) == ((), [])
        assert [said.id for said in await theirs.enrol(Instance(id="theirs", name="b", pid=2))] == ["theirs"]
        assert not (await theirs.accept([one], "shop", "key", b"other")).replayed
        assert isinstance(await ours.claim(one.id, [LAMDA]), Claim)
        assert (await theirs.statistics()).states == {State.QUEUED: 1}
        await queue.ack(await queue.take())
        assert (await quiet.take()).note is not None


async def test_a_put_is_announced_to_the_processes_of_its_schema_alone(postgres: Server) -> None:
    neighbour = Server(postgres.url, f"{postgres.schema} too")
    async with opened(postgres) as (ours, queue), opened(neighbour) as (theirs, quiet):
        with psycopg.connect(postgres.url, autocommit=True) as listener:
            for server in (postgres, neighbour):
                listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(server.schema)))
            for ledger, its in ((ours, queue), (theirs, quiet)):
                await ledger.accept([letter()], "shop", None, b"")
                await its.ack(await its.take())
            heard = [notify.channel for notify in listener.notifies(timeout=5, stop_after=2)]
        assert heard == [postgres.schema, neighbour.schema]
