"""What AWS Lambda gives a function: events in the shapes that AWS documents, and a context."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Sequence
from typing import Any

REGION = "eu-central-1"
ACCOUNT = "123456789012"


class Context:
    """Of an invocation that may take so many seconds from now on."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self.function_name = "postman"
        self.memory_limit_in_mb = "256"
        self._ends = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        """Until it is ended by force."""
        return max(0, int((self._ends - time.monotonic()) * 1_000))


def sqs_event(queue: str, bodies: Sequence[str], region: str = REGION) -> dict[str, Any]:
    """The event of an event source mapping of the queue of this name."""
    return {"Records": [_record(queue, body, region) for body in bodies]}


def _record(queue: str, body: str, region: str) -> dict[str, Any]:
    sent = int(time.time() * 1_000)
    return {
        "messageId": str(uuid.uuid4()),
        "receiptHandle": f"AQEB{uuid.uuid4().hex}",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str(sent),
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": str(sent + 2),
        },
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{region}:{ACCOUNT}:{queue}",
        "awsRegion": region,
    }


def schedule_event() -> dict[str, Any]:
    """The event of a rule of EventBridge with a schedule."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "region": REGION,
        "resources": [f"arn:aws:events:{REGION}:{ACCOUNT}:rule/postman-clerk"],
        "detail": {},
    }
