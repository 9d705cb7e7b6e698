"""One queue of SQS: messages are sent, received, deleted and hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import trio

from postman.backends.sqs.batches import Batches, Entry, Group
from postman.backends.sqs.client import Client
from postman.backends.sqs.refusal import LOST, Refusal, short
from postman.errors import LeaseLost, StoreError

COUNTS: Final = tuple(f"ApproximateNumberOfMessages{which}" for which in ("", "Delayed", "NotVisible"))


class Message(msgspec.Struct, frozen=True, rename="pascal"):
    """What was received.

    Attributes:
        body: its text.
        receipt_handle: names this very receipt.
    """

    body: str
    receipt_handle: str


class _Received(msgspec.Struct, rename="pascal"):
    messages: list[Message] = []


class _Done(msgspec.Struct, rename="pascal"):
    id: str


class _Failed(msgspec.Struct, rename="pascal"):
    id: str
    code: str = ""
    message: str = ""


class _Batch(msgspec.Struct, rename="pascal"):
    successful: list[_Done] = []
    failed: list[_Failed] = []


class _Attributes(msgspec.Struct, rename="pascal"):
    attributes: dict[str, str] = {}


class _Url(msgspec.Struct, rename="pascal"):
    queue_url: str


class Channel:
    """See the module.

    Args:
        client: asks.
        name: of the queue.
        url: by which SQS knows it.
        nursery: what is under way runs in it.
    """

    def __init__(self, client: Client, name: str, url: str, nursery: trio.Nursery) -> None:
        self.name = name
        self._client = client
        self._url = url
        self._sends = Batches(self._send, nursery)
        self._deletes = Batches(self._delete, nursery)
        self._hides = Batches(self._hide, nursery)

    def send(self, bodies: Sequence[str], delay: float = 0) -> Group:
        """Send messages; what cannot be sent does not keep the others back."""
        return self._sends.submit([{"MessageBody": body, "DelaySeconds": math.ceil(delay)} for body in bodies])

    async def receive(self, count: int, visibility: float, wait: int) -> list[Message]:
        """Up to `count` messages, hidden from others for `visibility` seconds; wait `wait` seconds for the first."""
        body = {
            "QueueUrl": self._url,
            "MaxNumberOfMessages": count,
            "VisibilityTimeout": math.ceil(visibility),
            "WaitTimeSeconds": wait,
        }
        return (await self._client.ask("ReceiveMessage", body, _Received, self.name, wait)).messages

    async def delete(self, message: Message) -> None:
        """Delete a message; `LeaseLost` when SQS says that the receipt is over."""
        await self._deletes.submit([{"ReceiptHandle": message.receipt_handle}]).wait()

    async def hide(self, message: Message, seconds: float) -> None:
        """Show a message again after so many seconds; `LeaseLost` when SQS says that the receipt is over."""
        await self._hiding(message, seconds).wait()

    def give_back(self, message: Message) -> None:
        """Show a message again, sometime soon. If that fails its visibility timeout does it."""
        self._hiding(message, 0)

    async def count(self) -> tuple[int, int, int]:
        """Messages that can be received, are delayed, are hidden; about."""
        found = await attributes(self._client, self.name, self._url, COUNTS)
        visible, delayed, hidden = (int(found.get(name, "0")) for name in COUNTS)
        return visible, delayed, hidden

    async def wait_idle(self) -> None:
        """Wait until nothing is under way but what waits for messages."""
        for batches in (self._sends, self._deletes, self._hides):
            await batches.wait_idle()

    def _hiding(self, message: Message, seconds: float) -> Group:
        return self._hides.submit([{"ReceiptHandle": message.receipt_handle, "VisibilityTimeout": math.ceil(seconds)}])

    async def _send(self, entries: Sequence[Entry]) -> Sequence[StoreError | None]:
        return await self._batch("SendMessageBatch", entries)

    async def _delete(self, entries: Sequence[Entry]) -> Sequence[StoreError | None]:
        return await self._batch("DeleteMessageBatch", entries)

    async def _hide(self, entries: Sequence[Entry]) -> Sequence[StoreError | None]:
        return await self._batch("ChangeMessageVisibilityBatch", entries)

    async def _batch(self, action: str, entries: Sequence[Entry]) -> Sequence[StoreError | None]:
        numbered = [{"Id": str(number), **entry} for number, entry in enumerate(entries)]
        answer = await self._client.ask(action, {"QueueUrl": self._url, "Entries": numbered}, _Batch, self.name)
        wrong: dict[str, StoreError | None] = {failed.id: _wrong(action, failed) for failed in answer.failed}
        wrong |= {done.id: None for done in answer.successful}
        silence = Refusal(f"SQS said nothing of an entry of {action}", may_have_happened=True)
        return [wrong.get(entry["Id"], silence) for entry in numbered]


def _wrong(action: str, failed: _Failed) -> StoreError:
    code = short(failed.code)
    if code in LOST and action != "SendMessageBatch":
        return LeaseLost("SQS says that the lease of this note was over")
    return Refusal(f"SQS refused an entry of {action}: {code} {failed.message}", code=code)


async def find_url(client: Client, name: str) -> str:
    """By which URL SQS knows the queue `name`.

    Raises:
        Refusal: there is none, or the account may not see it.
    """
    return (await client.ask("GetQueueUrl", {"QueueName": name}, _Url, name)).queue_url


async def attributes(client: Client, name: str, url: str, asked: Sequence[str]) -> Mapping[str, str]:
    """What a queue says of itself."""
    body = {"QueueUrl": url, "AttributeNames": asked}
    return (await client.ask("GetQueueAttributes", body, _Attributes, name)).attributes
