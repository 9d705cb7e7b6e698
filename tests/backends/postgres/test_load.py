"""PostgreSQL is killed, or ends sessions, while letters are accepted and delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import trio

from postman.backends.postgres.ledger import PostgresLedger
from postman.backends.postgres.queue import PostgresQueue
from postman.backends.postgres.server import Server
from postman.errors import StoreUnavailable
from postman.ledger import Claim, Filter
from postman.mail import Id
from postman.row import Row, State
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.postgres_server import PostgresServer, postgres_server
from postman.testing.postgres_stores import letter, opened
from postman.testing.waiting import insist


class Load:
    """Clients and workers, as plain as they can be.

    Attributes:
        acked: accepted for sure.
        doubtful: accepted or not.
        sent: how often each letter was claimed and finished.
    """

    def __init__(self, ledger: PostgresLedger, queue: PostgresQueue) -> None:
        self.acked: list[Id] = []
        self.doubtful: list[Id] = []
        self.sent: Counter[Id] = Counter()
        self._ledger = ledger
        self._queue = queue
        self._progress = trio.lowlevel.ParkingLot()

    async def wait(self, true: Callable[[], bool]) -> None:
        """Until it is true after some step."""
        with trio.fail_after(20):
            while not true():
                await self._progress.park()

    async def more(self, acked: int, sent: int = 0) -> None:
        """Until so many more are accepted, and sent."""
        acked, sent = acked + len(self.acked), sent + len(self.sent)
        await self.wait(lambda: len(self.acked) >= acked and len(self.sent) >= sent)

    async def post(self) -> None:
        """Accept one letter after the other."""
        while True:
            one = letter()
            self.doubtful.append(one.id)
            try:
                await self._ledger.accept([one], "shop", None, b"")
            except StoreUnavailable as error:
                if not error.may_have_happened:
                    self.doubtful.remove(one.id)
                await insist(self._ledger.pauses, within=20)
            else:
                self.doubtful.remove(one.id)
                self.acked.append(one.id)
            self._progress.unpark_all()

    async def deliver(self) -> None:
        """What was claimed is finished, however long that takes."""
        while True:
            try:
                lease = await self._queue.take()
                assert lease.note is not None
                claim = await self._ledger.claim(lease.note.id, [LAMDA], owner=f"{lease.handle}")
            except StoreUnavailable:
                await insist(self._ledger.pauses, within=20)
                continue
            if isinstance(claim, Claim):
                with trio.CancelScope(shield=True):
                    await insist(partial(self._ledger.finish, claim, ACCEPTED), within=20)
                self.sent[claim.id] += 1
                self._progress.unpark_all()

    async def rows(self) -> dict[Id, Row]:
        """All rows, which must be as many as were counted; nothing that was accepted is missing."""
        found = {row.id: row for row in await insist(partial(self._ledger.find, Filter(), None, 100_000), within=20)}
        assert (await insist(self._ledger.statistics, within=20)).states == Counter(row.state for row in found.values())
        assert set(self.acked) <= found.keys() <= {*self.acked, *self.doubtful}
        return found


async def test_sessions_that_an_operator_ends_cost_no_letter(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'postman %' AND query NOT LIKE 'LISTEN%'"
    )
    async with opened(postgres) as (ledger, queue):
        load = Load(ledger, queue)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(load.post)
            for _ in range(10):
                await load.more(10)
                await trio.to_thread.run_sync(postgres_process.execute, end)
            await load.more(10)
            nursery.cancel_scope.cancel()
        await load.rows()


async def test_a_server_killed_under_load_loses_no_letter_and_no_end(mortal_postgres: PostgresServer) -> None:
    async with opened(Server(mortal_postgres.url, timeout=1.0)) as (ledger, queue):
        load = Load(ledger, queue)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(load.post)
                nursery.start_soon(load.deliver)
            for _ in range(2):
                await load.more(50, 20)
                await trio.to_thread.run_sync(mortal_postgres.kill)
                await trio.to_thread.run_sync(mortal_postgres.start)
            await load.more(50, 20)
            nursery.cancel_scope.cancel()
        there = await load.rows()
        assert {there[id].state for id in load.sent} == {State.SENT}
        assert set(load.sent.values()) == {1}, "claimed twice"
        assert all(row.receipts <= 1 for row in there.values())


async def test_a_failover_to_a_standby_that_was_waited_for_loses_no_letter_and_no_end(
    mortal_postgres: PostgresServer,
) -> None:
    with postgres_server(primary=mortal_postgres) as standby:
        mortal_postgres.configure("synchronous_standby_names", "*")
        both = mortal_postgres.url.replace(
            f":{mortal_postgres.port}", f":{mortal_postgres.port},127.0.0.1:{standby.port}"
        )
        async with opened(Server(both, timeout=2.0)) as (ledger, queue):
            load = Load(ledger, queue)
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(load.post)
                    nursery.start_soon(load.deliver)
                await load.more(50, 20)
                await trio.to_thread.run_sync(mortal_postgres.kill)
                await trio.to_thread.run_sync(standby.execute, "SELECT pg_promote()")
                await load.more(50, 20)
                nursery.cancel_scope.cancel()
            there = await load.rows()
            assert {there[id].state for id in load.sent} == {State.SENT}
            assert set(load.sent.values()) == {1}, "claimed twice"
