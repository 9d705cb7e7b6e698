"""What somebody else locks in PostgreSQL, and threads that hang: nobody waits for long."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import psycopg
import pytest
import trio
import trio.testing

from postman.backends.columns import key_of
from postman.backends.postgres.server import Server
from postman.errors import StoreUnavailable
from postman.ledger import Claim
from postman.mail import Id
from postman.row import State
from postman.testing.check_ledger.scene import ACCEPTED, LAMDA
from postman.testing.postgres_server import PostgresServer
from postman.testing.postgres_stores import letter, opened
from postman.testing.waiting import insist


async def test_a_row_that_somebody_locks_delays_nobody_elses_for_long(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with opened(replace(postgres, timeout=1.0)) as (ledger, _):
        letters = [letter() for _ in range(20)]
        await ledger.accept(letters, "shop", None, b"")
        outcomes = Counter[str]()

        async def claim(id: Id) -> None:
            try:
                answer = await ledger.claim(id, [LAMDA])
            except StoreUnavailable as error:
                outcomes[f"unavailable {error.may_have_happened}"] += 1
            else:
                outcomes[type(answer).__name__] += 1

        with psycopg.connect(postgres_process.url) as somebody:
            somebody.execute(
                f"SELECT FROM {postgres.schema}.letter WHERE key = {key_of(letters[7].id)} FOR UPDATE".encode()
            )
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    for one in letters:
                        nursery.start_soon(claim, one.id)
        assert outcomes == {"Claim": 19, "unavailable False": 1}


async def test_a_locked_table_makes_every_call_fail_within_a_bounded_time(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with opened(replace(postgres, timeout=0.5)) as (ledger, _):
        await ledger.accept([letter()], "shop", None, b"")
        with psycopg.connect(postgres_process.url) as somebody:
            somebody.execute(f"LOCK TABLE {postgres.schema}.letter".encode())
            with trio.fail_after(8):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(_unavailable, partial(ledger.accept, [letter()], "shop", None, b""))
                    nursery.start_soon(_unavailable, ledger.statistics)
                    nursery.start_soon(_unavailable, partial(ledger.overdue, 10))
        await insist(partial(ledger.accept, [letter()], "shop", None, b""), within=20)


async def _unavailable[T](ask: Callable[[], Awaitable[T]]) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await ask()
    assert not caught.value.may_have_happened


async def test_a_letter_does_not_wait_for_a_list(postgres: Server, postgres_process: PostgresServer) -> None:
    async with opened(replace(postgres, timeout=20.0)) as (ledger, _), trio.open_nursery() as nursery:
        listed = trio.Event()

        async def ask() -> None:
            await ledger._side.run(lambda connection: connection.execute("SELECT pg_advisory_lock(1)"))
            listed.set()

        with psycopg.connect(postgres_process.url) as somebody:
            somebody.execute("SELECT pg_advisory_lock(1)")
            nursery.start_soon(ask)
            await trio.to_thread.run_sync(
                postgres_process.wait_for, "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory'"
            )
            await ledger.accept([letter()], "shop", None, b"")
            assert not listed.is_set()


async def test_threads_that_hang_elsewhere_stop_no_store(postgres: Server) -> None:
    over = threading.Event()
    limiter = trio.to_thread.current_default_thread_limiter()
    async with opened(postgres) as (ledger, queue), trio.open_nursery() as nursery:
        for _ in range(int(limiter.total_tokens)):
            nursery.start_soon(hang, over)
        await trio.testing.wait_all_tasks_blocked()
        assert not limiter.available_tokens
        with trio.fail_after(5):
            one = letter()
            await ledger.accept([one], "shop", None, b"")
            lease = await queue.take()
            claim = await ledger.claim(one.id, [LAMDA])
            assert isinstance(claim, Claim)
            assert (await ledger.finish(claim, ACCEPTED)).state is State.SENT
            await queue.ack(lease)
        over.set()


async def hang(over: threading.Event) -> None:
    await trio.to_thread.run_sync(over.wait)
