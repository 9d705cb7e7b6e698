from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from postman.backends.sqs.address import Address, SqsQueueSettings, address_of
from postman.backends.sqs.client import Client, open_client
from postman.backends.sqs.credentials import TRUST
from postman.backends.sqs.refusal import Refusal
from postman.errors import StoreUnavailable
from postman.testing import acts
from postman.testing.fault_server import Act, FaultServer, Turn, open_fault_server
from postman.testing.sqs_vendor import Read
from postman.wire import ClientFactory

FOREVER = 1e9
NOW = 1_800_000_000.0


@pytest.fixture
async def server() -> AsyncGenerator[FaultServer]:
    async with open_fault_server(otherwise=acts.answer(200, body=b"{}")) as server:
        yield server


def address(url: str) -> Address:
    return address_of(SqsQueueSettings(url="sqs://eu-central-1/mail", endpoint=url))


@asynccontextmanager
async def opened(server: FaultServer, patience: float = 5.0) -> AsyncGenerator[Client]:
    async with open_client(address(server.url), ClientFactory(), patience, wall=lambda: NOW) as client:
        yield client


async def ask(client: Client) -> dict[str, Any]:
    return await client.ask("DeleteMessageBatch", {"Entries": []}, dict[str, Any], "mail")


def refused(status: int, code: str, headers: dict[str, str] | None = None) -> Act:
    return acts.answer(status, headers, msgspec.json.encode({"__type": code, "message": "Words of AWS."}))


async def test_a_question_is_signed_json_and_its_answer_is_read(server: FaultServer) -> None:
    async with opened(server) as client:
        assert await ask(client) == {}
    [request] = server.requests
    assert request.body == b'{"Entries":[]}'
    assert request.headers["x-amz-target"] == "AmazonSQS.DeleteMessageBatch"
    assert request.headers["content-type"] == "application/x-amz-json-1.0"
    assert "Credential=AKIDEXAMPLE/20270115/eu-central-1/sqs/aws4_request" in request.headers["authorization"]


@pytest.mark.parametrize(
    ("act", "words", "happened"),
    [
        (refused(400, "com.amazonaws.sqs#QueueDoesNotExist"), "aws sqs create-queue --region eu-central-1", False),
        (refused(403, "AccessDeniedException"), "Allow this account, on the queue mail: sqs:GetQueueUrl", False),
        (refused(403, "InvalidClientTokenId"), "aws sts get-caller-identity", False),
        (refused(400, "com.amazon.coral.service#ThrottlingException"), "Words of AWS", False),
        (refused(400, "com.amazonaws.sqs#RequestThrottled"), "RequestThrottled", False),
        (refused(403, "com.amazonaws.sqs#OverLimit"), "OverLimit", False),
        (refused(503, "ServiceUnavailable"), "ServiceUnavailable", False),
        (refused(500, "InternalFailure"), "InternalFailure", True),
        (acts.answer(502, body=b"<html>"), "502", True),
        (
            acts.answer(400, {"x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender"}, b""),
            "aws sqs create-queue",
            False,
        ),
        (acts.answer(200, body=b"no json"), "cannot be read", True),
        (acts.reset_after_request(accept=True), "no answer", True),
        (acts.truncated(200), "cannot be read", True),
    ],
)
async def test_what_goes_wrong_is_told_with_its_cure_and_nothing_is_sent_twice(
    server: FaultServer, act: Act, words: str, happened: bool
) -> None:
    async with opened(server) as client:
        server.script(act)
        with pytest.raises(StoreUnavailable, match=words) as caught:
            await ask(client)
    assert caught.value.may_have_happened == happened
    assert len(server.requests) <= 1


async def test_a_silent_endpoint_is_not_waited_for(server: FaultServer) -> None:
    async with opened(server) as client:
        await ask(client)  # the credentials are found
        client._patience = 0.05
        server.script(acts.hang(accept=True))
        with trio.fail_after(3), pytest.raises(StoreUnavailable, match=r"in 0\.05 s") as caught:
            await ask(client)
        assert caught.value.may_have_happened


async def test_nobody_there_means_that_nothing_happened(server: FaultServer) -> None:
    async with open_client(address("http://127.0.0.1:1"), ClientFactory(), 5.0) as client:
        with pytest.raises(StoreUnavailable, match="no connection") as caught:
            await ask(client)
    assert not caught.value.may_have_happened


async def test_a_clock_that_is_wrong_is_set_by_the_answer(server: FaultServer) -> None:
    theirs = datetime.fromtimestamp(NOW + 3_600, UTC)
    async with opened(server) as client:
        server.script(refused(403, "RequestTimeTooSkewed", {"Date": format_datetime(theirs, usegmt=True)}))
        await ask(client)
        await ask(client)
    times = [request.headers["x-amz-date"] for request in server.requests]
    assert times == ["20270115T080000Z", "20270115T090000Z", "20270115T090000Z"]


async def test_a_clock_that_is_right_is_not_the_cause(server: FaultServer) -> None:
    ours = format_datetime(datetime.fromtimestamp(NOW, UTC), usegmt=True)
    async with opened(server) as client:
        server.script(refused(403, "SignatureDoesNotMatch", {"Date": ours}))
        with pytest.raises(Refusal):
            await ask(client)
    assert len(server.requests) == 1


async def test_keys_that_ran_out_are_looked_for_again_and_the_call_is_made(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with opened(server) as client:
        await ask(client)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
        mock_clock.jump(TRUST)
        server.script(refused(403, "ExpiredToken"))
        await ask(client)
        assert "AKIDROTATED" in server.requests[-1].headers["authorization"]
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("code", "good"), [("ExpiredToken", "Credential=AKIDROTATED"), ("RequestTimeTooSkewed", "/20270116/")]
)
async def test_all_calls_that_were_signed_before_are_made_again(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock, code: str, good: str
) -> None:
    theirs = format_datetime(datetime.fromtimestamp(NOW + 86_400, UTC), usegmt=True)
    mended, answered = trio.Event(), 0

    async def play(turn: Turn) -> bool:
        nonlocal answered
        await turn.read_request()
        answered += 1
        if good in turn.request.headers["authorization"]:
            mended.set()
            return await acts.answer(200, body=b"{}").play(Read(turn))
        if answered > 1:
            await mended.wait()
        return await refused(403, code, {"Date": theirs}).play(Read(turn))

    async with opened(server, FOREVER) as client:
        await ask(client)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
        mock_clock.jump(TRUST)
        server.otherwise = Act(play)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask, client)
    assert answered == 16


async def test_keys_that_stay_wrong_are_not_looked_for_at_every_call(server: FaultServer) -> None:
    server.otherwise = refused(403, "InvalidClientTokenId")
    async with opened(server) as client:
        for _ in range(3):
            with pytest.raises(Refusal, match="does not take these credentials"):
                await ask(client)
    assert len(server.requests) == 3


async def test_temporary_keys_carry_their_token(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    async with opened(server) as client:
        await ask(client)
    assert server.requests[0].headers["x-amz-security-token"] == "a-token"
    assert "x-amz-security-token" in server.requests[0].headers["authorization"]


@pytest.mark.parametrize("profile", [None, "nobody"])
async def test_no_credentials_are_told_with_the_cure(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, profile: str | None
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    async with opened(server) as client:
        with pytest.raises(StoreUnavailable, match="credentials"):
            await ask(client)
    assert server.requests == []


async def test_a_chain_that_hangs_holds_nobody_up(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, blocked: Callable[[], bool]
) -> None:
    monkeypatch.setattr("postman.backends.sqs.credentials._find", lambda _: blocked())
    async with opened(server, patience=0.05) as client:
        with trio.fail_after(3), pytest.raises(StoreUnavailable, match=r"credentials.* in 0\.05 s") as caught:
            await ask(client)
    assert not caught.value.may_have_happened


async def test_questions_of_many_tasks_are_answered_each(server: FaultServer) -> None:
    server.otherwise = acts.echo()
    got: list[object] = []
    async with opened(server) as client, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            got.append((number, await client.ask("X", {"n": number}, dict[str, int], "mail")))

        for number in range(20):
            nursery.start_soon(one, number)
    assert sorted(got, key=str) == sorted([(number, {"n": number}) for number in range(20)], key=str)
