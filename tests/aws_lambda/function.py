"""A function of AWS Lambda, and the stores and the vendor around it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from postman.aws_lambda import clerk, handler
from postman.config import load
from postman.mail import Id
from postman.queue import Note
from postman.registry import set_up
from postman.row import Row
from postman.stores import open_ledger
from postman.testing.fault_server import FaultServer
from postman.testing.lambda_events import Context, schedule_event, sqs_event
from postman.testing.letters import a_letter
from postman.testing.sqs_server import SqsServer
from postman.wire import ClientFactory

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
