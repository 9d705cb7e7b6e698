"""The queue on an SQS that answers as each test says."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import structlog
import trio
import trio.testing
from trio.testing import MockClock

from postman.backends.sqs.address import SqsQueueSettings
from postman.backends.sqs.client import open_client
from postman.backends.sqs.queue import SqsQueue, open_queue, sqs_queue
from postman.errors import LeaseLost, StoreRefused, StoreUnavailable
from postman.hookspecs import QUEUES
from postman.kind import Surroundings
from postman.mail import Id
from postman.queue import Lease, Note, QueueStatistics
from postman.registry import load_kind
from postman.testing import acts
from postman.testing.check_queue import notes
from postman.testing.fault_server import Act, Turn
from postman.testing.sqs_vendor import Vendor, all_done, open_sqs_vendor, refused
from postman.testing.waiting import wait_until
from postman.wire import ClientFactory

FOREVER = 1e9


@asynccontextmanager
async def asked(vendor: Vendor, patience: float = 20.0, wait: int = 20) -> AsyncGenerator[SqsQueue]:
    async with open_client(vendor.address, ClientFactory(), patience) as client, sqs_queue(client, 60.0, wait) as queue:
        yield queue


def message(number: int) -> dict[str, str]:
    body = msgspec.json.encode(Note(Id(f"0x{number:016x}"))).decode()
    return {"Body": body, "ReceiptHandle": f"receipt {number}"}


def gives(*batches: list[dict[str, str]]) -> Callable[[dict[str, Any]], Act | dict[str, Any]]:
    """Answers of ReceiveMessage; when there are no more, it waits."""
    left = list(batches)
    return lambda _: {"Messages": left.pop(0)} if left else acts.hang(accept=False)


async def test_one_call_that_waits_serves_all_takers(vendor: Vendor) -> None:
    vendor.answers["ReceiveMessage"] = gives([])
    async with asked(vendor) as queue, trio.open_nursery() as nursery:
        for _ in range(2):
            for _ in range(32):
                nursery.start_soon(queue.take)
            await wait_until(lambda: waits(vendor), within=20)
            await trio.testing.wait_all_tasks_blocked(0.05)
        waiting = [body for body in vendor.asked["ReceiveMessage"] if body["WaitTimeSeconds"]]
        assert [body["MaxNumberOfMessages"] for body in waiting] == [10]
        nursery.cancel_scope.cancel()


async def test_a_stocked_queue_is_asked_by_several_calls_but_not_for_more_than_are_wanted(vendor: Vendor) -> None:
    numbers = iter(range(1, 1_000))
    vendor.answers["ReceiveMessage"] = lambda body: {
        "Messages": [message(next(numbers)) for _ in range(body["MaxNumberOfMessages"])]
    }
    leases: list[Lease] = []

    async def take(queue: SqsQueue) -> None:
        leases.append(await queue.take())

    async with asked(vendor) as queue:
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(take, queue)
        assert len({lease.note.id for lease in leases if lease.note}) == 64
    assert sum(body["MaxNumberOfMessages"] for body in vendor.asked["ReceiveMessage"]) == 64
    assert "ChangeMessageVisibilityBatch" not in vendor.asked


async def test_what_comes_for_nobody_is_given_back_before_the_queue_is_closed(vendor: Vendor) -> None:
    arrives, first, answers = trio.Event(), trio.Event(), trio.Event()

    async def late(turn: Turn) -> bool:
        await arrives.wait()
        body = {"Messages": [message(number) for number in range(5)]}
        return await acts.answer(200, body=msgspec.json.encode(body)).play(turn)

    async def slow(turn: Turn) -> bool:
        first.set()
        await answers.wait()
        return await acts.answer(200, body=msgspec.json.encode(all_done(msgspec.json.decode(turn.request.body)))).play(
            turn
        )

    async def answer_when_all_wait() -> None:
        await trio.testing.wait_all_tasks_blocked()
        answers.set()

    vendor.answers["ReceiveMessage"] = lambda _: Act(late)
    vendor.answers["ChangeMessageVisibilityBatch"] = lambda _: Act(slow)
    async with trio.open_nursery() as nursery, asked(vendor) as queue:
        with trio.move_on_after(0.05):
            await queue.take()
        arrives.set()
        await first.wait()
        nursery.start_soon(answer_when_all_wait)
    entries = [entry for body in vendor.asked["ChangeMessageVisibilityBatch"] for entry in body["Entries"]]
    assert sorted(entry["ReceiptHandle"] for entry in entries) == [f"receipt {number}" for number in range(5)]
    assert {entry["VisibilityTimeout"] for entry in entries} == {0}


async def test_leaving_is_prompt_though_a_call_waits(vendor: Vendor) -> None:
    vendor.answers["ReceiveMessage"] = gives([])
    with trio.fail_after(5):
        async with asked(vendor) as queue:
            with trio.move_on_after(0.05):
                await queue.take()
            await wait_until(lambda: waits(vendor), within=20)


async def test_takers_are_told_when_sqs_fails_and_served_when_it_works_again(vendor: Vendor) -> None:
    vendor.answers["ReceiveMessage"] = lambda _: refused(400, "ThrottlingException")
    async with asked(vendor) as queue:
        with pytest.raises(StoreUnavailable, match="ThrottlingException"):
            await queue.take()
        [trouble] = (await queue.statistics()).troubles
        assert "ThrottlingException" in trouble
        vendor.answers["ReceiveMessage"] = gives([message(7)])
        assert (await queue.take()).note == Note(Id(f"0x{7:016x}"))


async def test_a_lane_that_fails_does_not_keep_the_others_back_and_is_named(mock_clock: MockClock) -> None:
    numbers, broken = itertools.count(), True

    def receive(body: dict[str, Any]) -> Act | dict[str, Any]:
        if broken and body["QueueUrl"].endswith("mail-bulk"):
            return refused(403, "OverLimit")
        if body["QueueUrl"].endswith("mail-high"):
            return {"Messages": [message(next(numbers))]}
        return acts.hang(accept=False) if body["WaitTimeSeconds"] else {"Messages": []}

    async with open_sqs_vendor(lanes=3) as vendor:
        vendor.answers["ReceiveMessage"] = receive
        async with asked(vendor, FOREVER) as queue:
            mock_clock.autojump_threshold = 0.1
            for _ in range(20):
                await queue.take()
            [trouble] = (await queue.statistics()).troubles
            assert "mail-bulk" in trouble
            assert "OverLimit" in trouble
            broken = False
            with trio.fail_after(60):
                while (await queue.statistics()).troubles:  # noqa: ASYNC110  # a server tells no event
                    await trio.sleep(1)


async def test_what_cannot_be_put_does_not_keep_the_others_back(vendor: Vendor) -> None:
    def some(body: dict[str, Any]) -> dict[str, Any]:
        good = [entry for entry in body["Entries"] if "0000c" not in entry["MessageBody"]]
        bad = [entry["Id"] for entry in body["Entries"] if entry not in good]
        return {
            **all_done({"Entries": good}),
            "Failed": [{"Id": id, "Code": "InternalError", "SenderFault": False} for id in bad],
        }

    vendor.answers["SendMessageBatch"] = some
    async with asked(vendor) as queue:
        with pytest.raises(StoreUnavailable, match="InternalError"):
            await queue.put(notes(25))
    sizes = sorted(len(body["Entries"]) for body in vendor.asked["SendMessageBatch"])
    assert sizes == [5, 10, 10]
    assert all(
        len(e["MessageBody"]) < 100 and e["MessageBody"].isascii()
        for e in vendor.asked["SendMessageBatch"][0]["Entries"]
    )


async def test_an_entry_of_which_sqs_says_nothing_may_have_been_put(vendor: Vendor) -> None:
    vendor.answers["SendMessageBatch"] = lambda _: {"Successful": [], "Failed": []}
    async with asked(vendor) as queue:
        with pytest.raises(StoreUnavailable) as caught:
            await queue.put(notes(1))
    assert caught.value.may_have_happened


async def test_a_put_whose_answer_was_lost_is_not_sent_again(vendor: Vendor) -> None:
    vendor.answers["SendMessageBatch"] = lambda _: acts.reset_after_request(accept=True)
    async with asked(vendor) as queue:
        with pytest.raises(StoreUnavailable) as caught:
            await queue.put(notes(3))
    assert caught.value.may_have_happened
    assert len(vendor.asked["SendMessageBatch"]) == 1


@pytest.mark.parametrize(
    "code", ["ReceiptHandleIsInvalid", "InvalidParameterValue", "AWS.SimpleQueueService.MessageNotInflight"]
)
async def test_a_receipt_that_is_over_is_a_lost_lease(vendor: Vendor, code: str) -> None:
    vendor.answers["ReceiveMessage"] = gives([message(1)], [message(2)])
    over = {"Failed": [{"Id": "0", "Code": code, "SenderFault": True}]}
    vendor.answers["DeleteMessageBatch"] = vendor.answers["ChangeMessageVisibilityBatch"] = lambda _: over
    async with asked(vendor) as queue:
        with pytest.raises(LeaseLost):
            await queue.ack(await queue.take())
        with pytest.raises(LeaseLost):
            await queue.release(await queue.take())


async def test_an_ack_that_failed_may_be_tried_again(vendor: Vendor) -> None:
    vendor.answers["ReceiveMessage"] = gives([message(1)])
    vendor.answers["DeleteMessageBatch"] = lambda _: refused(503, "ServiceUnavailable")
    async with asked(vendor) as queue:
        lease = await queue.take()
        with pytest.raises(StoreUnavailable):
            await queue.ack(lease)
        del vendor.answers["DeleteMessageBatch"]
        await queue.ack(lease)


async def test_a_message_shown_twice_is_two_leases(vendor: Vendor) -> None:
    vendor.answers["ReceiveMessage"] = gives([message(1)], [{**message(1), "ReceiptHandle": "another"}])
    async with asked(vendor) as queue:
        first, second = await queue.take(), await queue.take()
        assert first.note == second.note
        await queue.ack(first)
        await queue.ack(second)


async def test_delays_are_whole_seconds_and_never_too_short(vendor: Vendor) -> None:
    vendor.answers["ReceiveMessage"] = gives([message(1)])
    async with asked(vendor) as queue:
        await queue.put(notes(1), 0.2)
        await queue.release(await queue.take(), 5_000.0)
    assert vendor.asked["SendMessageBatch"][0]["Entries"][0]["DelaySeconds"] == 1
    assert vendor.asked["ChangeMessageVisibilityBatch"][0]["Entries"][0]["VisibilityTimeout"] == 900


async def test_without_a_queue_for_the_dead_what_is_buried_is_in_the_log_and_counted(vendor: Vendor) -> None:
    vendor.answers["ReceiveMessage"] = gives([{"Body": "no note", "ReceiptHandle": "x"}])
    async with asked(vendor) as queue:
        lease = await queue.take()
        assert lease.note is None
        with structlog.testing.capture_logs() as logs:
            await queue.bury(lease, "cannot be read")
        assert (await queue.statistics()).buried == 1
    assert [(log["note"], log["reason"]) for log in logs] == [("no note", "cannot be read")]
    assert len(vendor.asked["DeleteMessageBatch"]) == 1


async def test_what_is_buried_is_not_deleted_before_its_copy_is_kept(vendor: Vendor) -> None:
    vendor.answers["GetQueueUrl"] = lambda body: {"QueueUrl": body["QueueName"]}
    vendor.answers["ReceiveMessage"] = gives([{"Body": "no note", "ReceiptHandle": "x"}])
    vendor.answers["SendMessageBatch"] = lambda _: refused(503, "ServiceUnavailable")
    async with asked(vendor) as queue:
        lease = await queue.take()
        with pytest.raises(StoreUnavailable):
            await queue.bury(lease, "cannot be read")
        assert "DeleteMessageBatch" not in vendor.asked
        vendor.answers["SendMessageBatch"] = all_done
        await queue.bury(lease, "cannot be read")
    sent = vendor.asked["SendMessageBatch"][-1]
    assert sent["QueueUrl"] == "mail-dead"
    assert msgspec.json.decode(sent["Entries"][0]["MessageBody"]) == {"reason": "cannot be read", "note": "no note"}


async def test_statistics_are_asked_for_every_few_seconds_alone(vendor: Vendor) -> None:
    vendor.answers["GetQueueAttributes"] = lambda _: {
        "Attributes": {"ApproximateNumberOfMessages": "3", "ApproximateNumberOfMessagesNotVisible": "2"}
    }
    async with asked(vendor) as queue:
        at_open = len(vendor.asked["GetQueueAttributes"])
        for _ in range(3):
            assert await queue.statistics() == QueueStatistics((0, 3, 0), delayed=0, leased=2, buried=0)
        assert len(vendor.asked["GetQueueAttributes"]) == at_open + 1


async def test_statistics_do_not_hold_the_status_up(vendor: Vendor, mock_clock: MockClock) -> None:
    async with asked(vendor) as queue:
        vendor.answers["GetQueueAttributes"] = lambda _: acts.hang(accept=False)
        mock_clock.autojump_threshold = 0.1
        began = trio.current_time()
        with pytest.raises(StoreUnavailable, match="how many"):
            await queue.statistics()
        assert trio.current_time() - began < 4


@pytest.mark.parametrize(
    ("code", "cure"),
    [("QueueDoesNotExist", "create-queue"), ("AccessDenied", "Allow this"), ("ExpiredToken", "get-caller-identity")],
)
async def test_a_queue_that_cannot_be_used_is_refused_with_the_cure(vendor: Vendor, code: str, cure: str) -> None:
    vendor.answers["GetQueueUrl"] = lambda _: refused(400, code)
    with pytest.raises(StoreRefused, match=cure):
        async with asked(vendor):
            pass


async def test_a_redrive_policy_is_told(vendor: Vendor) -> None:
    policy = '{"deadLetterTargetArn": "arn:aws:sqs:eu-central-1:1:other", "maxReceiveCount": 3}'
    vendor.answers["GetQueueAttributes"] = lambda _: {"Attributes": {"RedrivePolicy": policy}}
    with structlog.testing.capture_logs() as logs:
        async with asked(vendor):
            pass
    assert any("received 3 times goes to arn:aws:sqs:eu-central-1:1:other" in log.get("reason", "") for log in logs)


def waits(vendor: Vendor) -> bool:
    """Whether a call was made that waits for messages."""
    return any(body["WaitTimeSeconds"] == 20 for body in vendor.asked.get("ReceiveMessage", []))


def test_the_kind_is_found_by_its_scheme() -> None:
    assert load_kind(QUEUES, "sqs").open is open_queue


async def test_the_kind_opens_the_queue_of_its_url(vendor: Vendor) -> None:
    settings = SqsQueueSettings(url="sqs://eu-central-1/mail", endpoint=vendor.server.url)
    async with open_queue(settings, Surroundings("store", 1, 1.0, ClientFactory())) as queue:
        assert (queue.durable, queue.shared) == (True, True)
        await queue.put(notes(1))
