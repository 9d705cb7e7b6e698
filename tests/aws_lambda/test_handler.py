"""The notes of an event of SQS become calls of a provider, and ends in the ledger."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest
import trio

from postman.aws_lambda import handler
from postman.config import load
from postman.errors import StoreError
from postman.ledger import ALL
from postman.registry import set_up
from postman.row import State
from postman.stores import open_ledger
from postman.testing import acts
from postman.testing.fault_server import Act, Turn
from postman.testing.lambda_events import Context
from postman.testing.postgres_server import PostgresServer
from postman.testing.redis_server import RedisServer
from postman.testing.sqs_vendor import Vendor, refused
from postman.wire import ClientFactory
from tests.aws_lambda.function import Function

PROCESS = """\
import json, os, sys
from postman.aws_lambda import handler
from postman.testing.lambda_events import Context
context = Context()
print(context.aws_request_id, flush=True)
print(json.dumps(handler(json.load(sys.stdin), context)), flush=True)
os._exit(0)
"""


async def test_the_letters_of_an_event_are_sent_and_not_again_when_the_event_comes_again(
    function: Callable[..., Function], ledger: str
) -> None:
    f = function(ledger)
    ids = await f.accept(10)
    event = f.event([*ids, ids[0]])
    assert await f.deliver(event) == []
    assert f.accepted == sorted(ids)
    assert {(await f.row(id)).state for id in ids} == {State.SENT}
    assert await f.deliver(event) == []
    assert f.accepted == sorted(ids)
    assert f.notes() == (0, 0)


async def test_two_processes_with_the_same_event_send_each_letter_once(
    function: Callable[..., Function], ledger: str
) -> None:
    f = function(ledger, timeout=5)
    ids = await f.accept(20)
    answers = await trio.to_thread.run_sync(processes, f.event(ids), 2)
    assert [answer for answer, _, _ in answers] == [{"batchItemFailures": []}] * 2
    assert f.accepted == sorted(ids)
    assert {(await f.row(id)).state for id in ids} == {State.SENT}


async def test_all_lines_of_the_log_are_written_before_the_answer_and_name_the_request(
    function: Callable[..., Function],
) -> None:
    f = function()
    (id,) = await f.accept()
    [(_, request, log)] = await trio.to_thread.run_sync(processes, f.event([id]), 1)
    lines = [json.loads(line) for line in log.splitlines()]
    assert [(line["event"], line["id"]) for line in lines if "id" in line] == [("sent", id)]
    assert {line["request"] for line in lines} == {request}


def processes(event: object, count: int) -> list[tuple[Any, str, str]]:
    """Processes that begin with the event at one moment; of each its answer, its request's id and its log."""
    with contextlib.ExitStack() as stack:
        command, pipe = [sys.executable, "-c", PROCESS], subprocess.PIPE
        started = [
            stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
            for _ in range(count)
        ]
        requests = [process.stdout.readline().strip() for process in started if process.stdout]
        for process in started:
            assert process.stdin
            process.stdin.write(json.dumps(event))
            process.stdin.close()
            process.stdin = None
        told = [process.communicate(timeout=60) for process in started]
    return [(json.loads(out), request, log) for request, (out, log) in zip(requests, told, strict=True)]


async def test_a_vendor_that_does_not_answer_leaves_doubt_and_the_record_is_done_with(
    function: Callable[..., Function],
) -> None:
    f = function()
    hanging, other = await f.accept(2)
    f.vendor.script(acts.hang(accept=True))
    assert await f.deliver(f.event([hanging])) == []
    assert await f.deliver(f.event([hanging, other])) == []
    assert (await f.row(hanging)).state is State.IN_DOUBT
    assert f.accepted == sorted([hanging, other])


async def test_a_call_that_is_cut_because_the_time_is_over_leaves_doubt_and_the_record_is_done_with(
    function: Callable[..., Function], postgres_process: PostgresServer, hasty: None
) -> None:
    f = function("postgresql", timeout=2)
    (id,) = await f.accept()
    f.vendor.otherwise = acts.hang(accept=True)
    schema = set_up(load(f.path)).ledger.settings.schema  # type: ignore[attr-defined]  # it is PostgreSQL
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.to_thread.run_sync, lock, postgres_process.url, schema, 2.2))
        # 6 s, the last 2.1 of them for writing and the 2 before for a call: so calls begin for 1.9 s. The claim is
        # asked for within them and granted after, so that the call is left less than its own 2 s.
        assert await f.deliver(f.event([id]), 6) == []
    row = await f.row(id)
    assert (row.state, row.history[-1].reason) == (State.IN_DOUBT, "cut because the process stopped")
    assert f.accepted == [id]


def lock(url: str, schema: str, seconds: float) -> None:
    """Keep the rows of letters to oneself for so long."""
    with psycopg.connect(url) as connection:
        connection.execute(f"SELECT 1 FROM {schema}.letter FOR UPDATE".encode())  # noqa: S608  # our own schema
        connection.execute(b"SELECT pg_sleep(%s)", [seconds])


async def test_a_letter_that_nobody_takes_now_is_put_again_with_its_delay(
    function: Callable[..., Function], ledger: str
) -> None:
    f = function(ledger)
    (id,) = await f.accept()
    f.vendor.otherwise = acts.answer(503)
    assert await f.deliver(f.event([id])) == []
    assert (await f.row(id)).state is State.QUEUED
    assert f.notes() == (0, 1)


async def test_what_cannot_be_put_again_is_a_failed_record(function: Callable[..., Function]) -> None:
    f = function(queue="sqs://eu-central-1/nowhere?endpoint=http://127.0.0.1:9")
    sent, later = await f.accept(2)
    f.vendor.script(acts.answer(202), acts.answer(503))
    event = f.event([sent, later])
    failed = await f.deliver(event)
    states = {
        (await f.row(id)).state: record["messageId"] for id, record in zip([sent, later], event["Records"], strict=True)
    }
    assert failed == [states[State.QUEUED]]


async def test_what_a_queue_refuses_in_the_middle_is_a_failed_record(
    function: Callable[..., Function], sqs_vendor: Vendor
) -> None:
    f = function(queue=f"sqs://eu-central-1/{sqs_vendor.address.name}?endpoint={sqs_vendor.server.url}")
    sqs_vendor.answers["SendMessageBatch"] = lambda _: refused(503, "ServiceUnavailable")
    (id,) = await f.accept()
    f.vendor.otherwise = acts.answer(503)
    event = f.event([id])
    assert await f.deliver(event) == [event["Records"][0]["messageId"]]
    assert (await f.row(id)).state is State.QUEUED


async def test_when_opening_took_the_time_nobody_is_asked_and_the_note_is_put_again(
    function: Callable[..., Function], hasty: None
) -> None:
    class Late(Context):
        def get_remaining_time_in_millis(self) -> int:
            return 3_101  # 1 s for a call, 2.1 for what follows: calls may begin within a millisecond

    f = function()
    (id,) = await f.accept()
    assert await trio.to_thread.run_sync(handler, f.event([id]), Late()) == {"batchItemFailures": []}
    assert (f.vendor.requests, f.notes()) == ([], (0, 1))


async def test_while_everything_is_paused_nobody_is_asked_and_all_notes_are_put_again_for_later(
    function: Callable[..., Function],
) -> None:
    f = function()
    ids = await f.accept(12)
    async with open_ledger(set_up(load(f.path)), ClientFactory()) as ledger:
        await ledger.pause(ALL, "ann")
    assert await f.deliver(f.event(ids)) == []
    assert (f.accepted, f.notes()) == ([], (0, 12))


async def test_a_breaker_that_opened_in_one_invocation_is_open_in_the_next(function: Callable[..., Function]) -> None:
    f = function()
    ids = await f.accept(6)
    f.vendor.otherwise = acts.answer(500)
    await f.deliver(f.event(ids[:5]))
    asked = len(f.vendor.requests)
    assert asked == 5
    assert await f.deliver(f.event(ids[5:])) == []
    assert len(f.vendor.requests) == asked
    assert (await f.row(ids[5])).state is State.QUEUED


async def test_notes_that_cannot_be_read_or_have_no_letter_are_buried_and_newer_ones_are_left_untouched(
    function: Callable[..., Function],
) -> None:
    f = function()
    (id,) = await f.accept()
    newer = json.dumps({"v": 2, "id": id, "lane": 1, "route": "new"})
    event = f.of(["", "{}", "[" * 9_999, '{"id": 7}', '{"id": "0x00000000ffffffff"}', '{"id": "?", "lane": 9}', newer])
    assert await f.deliver(event) == [event["Records"][-1]["messageId"]]
    assert (f.accepted, f.notes()) == ([], (0, 0))


async def test_a_store_that_is_down_fails_the_whole_invocation(
    function: Callable[..., Function], mortal_redis: RedisServer
) -> None:
    f = function(mortal_redis.place("x"))
    (id,) = await f.accept()
    mortal_redis.kill()
    with pytest.raises(StoreError):
        await f.deliver(f.event([id]))
    assert f.vendor.requests == []


async def test_a_store_that_goes_down_in_the_middle_of_a_call_leaves_the_record_failed_and_doubles_nothing(
    function: Callable[..., Function], mortal_redis: RedisServer, hasty: None
) -> None:
    f = function(mortal_redis.place("x"))
    (id,) = await f.accept()

    async def play(turn: Turn) -> bool:
        await turn.read_request()
        mortal_redis.kill()
        turn.request.accepted = True
        await turn.stream.send_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        return True

    f.vendor.script(Act(play))
    event = f.event([id])
    assert await f.deliver(event, 4) == [event["Records"][0]["messageId"]]
    mortal_redis.start()
    assert await f.deliver(event) == []
    assert f.accepted == [id]
    assert (await f.row(id)).state in {State.SENDING, State.IN_DOUBT}
