"""SQS that answers as a test says, and remembers what it was asked; on a `FaultServer`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec

from postman.backends.sqs.address import Address, SqsQueueSettings, address_of
from postman.testing.acts import answer, hang
from postman.testing.fault_server import Act, FaultServer, Turn, open_fault_server
from postman.testing.sqs_server import REGION


class Vendor:
    """SQS as a test wants it: what it was asked, and what it answers to each action. Made by `open_sqs_vendor`.

    Attributes:
        address: of a queue there.
        server: the server beneath.
        asked: of each action the bodies, in order.
        answers: what to answer to an action, instead of what is usual.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.server: FaultServer
        self.asked: dict[str, list[dict[str, Any]]] = {}
        self.answers: dict[str, Callable[[dict[str, Any]], Act | dict[str, Any]]] = {
            "GetQueueUrl": self._url,
            "GetQueueAttributes": lambda _: {"Attributes": {}},
            "ReceiveMessage": lambda _: hang(accept=False),
        }

    def _url(self, body: dict[str, Any]) -> Act | dict[str, Any]:
        if body["QueueName"].endswith("-dead"):
            return refused(400, "QueueDoesNotExist")
        return {"QueueUrl": f"{self.address.endpoint}/1/{body['QueueName']}"}

    async def play(self, turn: Turn) -> bool:
        """Answer one request."""
        await turn.read_request()
        action = turn.request.headers["x-amz-target"].removeprefix("AmazonSQS.")
        body = msgspec.json.decode(turn.request.body)
        self.asked.setdefault(action, []).append(body)
        said = self.answers.get(action, all_done)(body)
        act = said if isinstance(said, Act) else answer(200, body=msgspec.json.encode(said))
        return await act.play(Read(turn))


@asynccontextmanager
async def open_sqs_vendor(lanes: int = 1) -> AsyncIterator[Vendor]:
    """One with the queue `mail`, or with one for each lane."""
    vendor = Vendor(address_of(SqsQueueSettings(url=f"sqs://{REGION}/mail", lanes=lanes)))
    async with open_fault_server(otherwise=Act(vendor.play)) as vendor.server:
        vendor.address = replace(vendor.address, endpoint=vendor.server.url)
        yield vendor


class Read(Turn):
    """A turn whose request was read."""

    def __init__(self, turn: Turn) -> None:
        self.stream, self.raw, self.request = turn.stream, turn.raw, turn.request

    async def read_request(self) -> None:
        """It was."""


def all_done(body: dict[str, Any]) -> dict[str, Any]:
    """Every entry of a batch succeeds."""
    return {"Successful": [{"Id": entry["Id"]} for entry in body["Entries"]]}


def refused(status: int, code: str, headers: Mapping[str, str] | None = None) -> Act:
    """SQS's way to say no."""
    return answer(status, headers, msgspec.json.encode({"__type": f"com.amazonaws.sqs#{code}", "message": "Words."}))
