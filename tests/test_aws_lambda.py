"""The functions for AWS Lambda, on ledgers in PostgreSQL and Redis, a queue in an emulator of SQS, and vendors."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import structlog
import trio

from postman import aws_lambda
from postman.aws_lambda import clerk, handler
from postman.config import load
from postman.errors import ConfigError, StoreError, StoreUnavailable
from postman.ledger import ALL, Call, Claim
from postman.mail import Id
from postman.queue import Note
from postman.registry import set_up
from postman.row import End, EndKind, Row, State, Verb
from postman.stores import open_ledger
from postman.testing import acts
from postman.testing.fault_server import Act, FaultServer, Turn, open_fault_server
from postman.testing.lambda_events import Context, schedule_event, sqs_event
from postman.testing.letters import a_letter
from postman.testing.pairs import Places
from postman.testing.postgres_server import PostgresServer
from postman.testing.redis_server import RedisServer
from postman.testing.sqs_server import SqsServer
from postman.testing.sqs_vendor import Vendor, open_sqs_vendor, refused
from postman.wire import ClientFactory

LEDGERS = ["postgresql", "redis"]
TIMEOUT = 1
TOML = """\
[ledger]
url = "{ledger}"
[queue]
url = "{queue}"
[delivery]
timeout = {timeout}
[[provider]]
name = "vendor"
plugin = "sendgrid"
settings = {{ api-key = {{ file = "key" }}, base-url = "{vendor}" }}
"""
PROCESS = """\
import json, os, sys
from postman.aws_lambda import handler
from postman.testing.lambda_events import Context
context = Context()
print(context.aws_request_id, flush=True)
print(json.dumps(handler(json.load(sys.stdin), context)), flush=True)
os._exit(0)
"""
_ids = itertools.count(1)


class Function:
    """A function, and the stores and the vendor around it."""

    def __init__(self, path: Path, queue: str, vendor: FaultServer, sqs: SqsServer) -> None:
        self.path = path
        self.queue = queue
        self.vendor = vendor
        self.sqs = sqs

    async def accept(self, count: int = 1) -> list[Id]:
        """Letters in the ledger, without notes in the queue."""
        letters = [a_letter(next(_ids)) for _ in range(count)]
        async with open_ledger(set_up(load(self.path)), ClientFactory()) as ledger:
            await ledger.accept(letters, "shop", None, b"")
        return [letter.id for letter in letters]

    async def row(self, id: Id) -> Row:
        async with open_ledger(set_up(load(self.path)), ClientFactory()) as ledger:
            row = await ledger.read(id, None)
        assert row is not None
        return row

    def event(self, ids: Sequence[Id]) -> dict[str, Any]:
        return self.of([msgspec.json.encode(Note(id)).decode() for id in ids])

    def of(self, bodies: Sequence[str]) -> dict[str, Any]:
        return sqs_event(self.queue, bodies)

    async def deliver(self, event: object, seconds: float = 60) -> list[str]:
        """Call the handler; the messages that failed, by their place in the event."""
        answer = await trio.to_thread.run_sync(handler, event, Context(seconds))
        assert list(answer) == ["batchItemFailures"]
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    async def clerk(self) -> dict[str, Any]:
        return await trio.to_thread.run_sync(clerk, schedule_event(), Context())

    @property
    def accepted(self) -> list[str]:
        bodies = [json.loads(request.body) for request in self.vendor.accepted]
        return sorted(body["personalizations"][0]["custom_args"]["postman_id"] for body in bodies)

    def notes(self) -> tuple[int, int]:
        """How many notes in the queue are visible, and how many delayed."""
        url = self.sqs.ask("GetQueueUrl", QueueName=self.queue)["QueueUrl"]
        told = self.sqs.ask("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return int(told["ApproximateNumberOfMessages"]), int(told["ApproximateNumberOfMessagesDelayed"])


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account, and nothing of the account of whoever runs the tests."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """A function configures the logs of its whole process."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    aws_lambda._begin_logs.cache_clear()


@pytest.fixture
async def vendor() -> AsyncGenerator[FaultServer]:
    async with open_fault_server(otherwise=acts.answer(202)) as server:
        yield server


@pytest.fixture
def function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Places, sqs_process: SqsServer, vendor: FaultServer
) -> Callable[..., Function]:
    def function(ledger: str = "redis", queue: str | None = None, timeout: float = TIMEOUT) -> Function:
        queue = queue or places.url("sqs")
        ledger = ledger if ":" in ledger else places.url(ledger)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(TOML.format(ledger=ledger, queue=queue, timeout=timeout, vendor=vendor.url))
        key = tmp_path / "key"
        key.write_text("SG.abcdefghijk.lmnopqrstuvwxyz0123456789")
        for file in (path, key):
            file.chmod(0o600)
        monkeypatch.setenv("POSTMAN_CONFIG", str(path))
        return Function(path, queue.partition("?")[0].rpartition("/")[2], vendor, sqs_process)

    return function


@pytest.fixture
async def sqs_vendor() -> AsyncGenerator[Vendor]:
    """SQS as the test wants it, with a queue."""
    async with open_sqs_vendor() as vendor:
        yield vendor


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invocations need not be long."""
    monkeypatch.setattr(aws_lambda, "OPENING", 0.0)
    monkeypatch.setattr(aws_lambda, "CLOSING", 0.6)


@pytest.mark.parametrize("ledger", LEDGERS)
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


@pytest.mark.parametrize("ledger", LEDGERS)
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


@pytest.mark.parametrize("ledger", LEDGERS)
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


@pytest.mark.parametrize("ledger", LEDGERS)
async def test_the_clerk_ends_a_call_that_nobody_ended_and_puts_what_has_no_note(
    function: Callable[..., Function], ledger: str
) -> None:
    f = function(ledger)
    cut, unput = await f.accept(2)
    async with open_ledger(set_up(load(f.path)), ClientFactory()) as opened:
        assert isinstance(await opened.claim(cut, [Call("vendor", "somebody's", lease=0.0)]), Claim)
        claim = await opened.claim(unput, [Call("vendor", "somebody's", lease=60.0)])
        assert isinstance(claim, Claim)
        await opened.finish(claim, End(EndKind.REJECTED, "a bad address"))
        await opened.act([unput], Verb.REPLAY, "ann")
    assert await f.clerk() == {"rounds": 1}
    assert (await f.row(cut)).state is State.IN_DOUBT
    assert f.notes() == (1, 0)


async def test_a_clerk_that_could_not_end_a_round_does_not_say_that_all_is_well(
    function: Callable[..., Function],
) -> None:
    function()
    with pytest.raises(StoreUnavailable, match="no round"):
        await trio.to_thread.run_sync(clerk, schedule_event(), Context(aws_lambda.CLOSING))


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (schedule_event(), "postman.aws_lambda.clerk for a schedule"),
        ({}, "no event of a queue"),
        ("x", "no event of a queue"),
        (None, "no event of a queue"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {}}]}, "no event of a queue"),
        ({"Records": [{"messageId": 7}]}, "no event of a queue"),
        ({"Records": [{**sqs_event("postman", ["{}"])["Records"][0], "eventSourceARN": "postman"}]}, "no event of a"),
        (sqs_event("another", ["{}"]), "may be of another ledger"),
        (sqs_event("postman", ["{}"], region="us-east-1"), "may be of another ledger"),
    ],
)
async def test_an_event_of_something_else_is_refused(
    function: Callable[..., Function], event: object, said: str
) -> None:
    f = function(queue="sqs://eu-central-1/postman")
    with pytest.raises(ConfigError, match=said):
        await f.deliver(event)


async def test_an_event_without_records_asks_for_nothing(function: Callable[..., Function]) -> None:
    f = function("redis://127.0.0.1:9", queue="sqs://eu-central-1/postman")
    assert await f.deliver({"Records": []}) == []


async def test_the_clerk_refuses_the_event_of_a_queue(function: Callable[..., Function]) -> None:
    function(queue="sqs://eu-central-1/postman")
    with pytest.raises(ConfigError, match="use handler"):
        clerk(sqs_event("postman", ["{}"]), Context())


@pytest.mark.parametrize(
    ("ledger", "queue", "seconds", "said"),
    [
        ("sqlite:postman.db", "sqs://eu-central-1/postman", 60, r"\[ledger\]: in AWS Lambda the url must be"),
        ("redis", "redis://127.0.0.1:9", 60, r"\[queue\]: in AWS Lambda the url must be"),
        ("redis", "sqs://eu-central-1/postman", 3, "give the function a timeout of 12 s or more"),
    ],
)
async def test_a_configuration_that_cannot_work_there_is_refused_with_the_cure(
    function: Callable[..., Function], ledger: str, queue: str, seconds: float, said: str
) -> None:
    f = function(ledger, queue)
    with pytest.raises(ConfigError, match=said):
        await f.deliver(f.of(["{}"]), seconds)


async def test_a_mistake_in_the_configuration_is_told_and_not_kept(function: Callable[..., Function]) -> None:
    f = function()
    (id,) = await f.accept()
    good = f.path.read_text()
    f.path.write_text(good + "nonsense = 1\n")
    with pytest.raises(ConfigError, match="nonsense"):
        await f.deliver(f.event([id]))
    f.path.write_text(good)
    assert await f.deliver(f.event([id])) == []
    assert f.accepted == [id]
