"""What a queue of SQS is set to, and what a person should know of it; looked at when it is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from postman.queue import MAX_DELAY

ASKED: Final = ("RedrivePolicy", "MessageRetentionPeriod", "ApproximateNumberOfMessagesNotVisible")
MOST_IN_FLIGHT: Final = 120_000
"""Messages that SQS lets be in flight; beyond, it shows none."""


def warnings(attributes: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each thing that does no harm to mails, but makes work or waiting."""
    if policy := attributes.get("RedrivePolicy"):
        read = json.loads(policy)
        yield (
            f"it has a redrive policy: a note that was received {read.get('maxReceiveCount')} times goes to"
            f" {read.get('deadLetterTargetArn')}. Postman puts it again, so no mail is lost, but it may wait an hour,"
            " and the other queue fills up; remove the policy, Postman counts attempts in the ledger"
        )
    if (retention := int(attributes.get("MessageRetentionPeriod", "345600"))) < 4 * MAX_DELAY:
        yield f"it forgets notes after {retention} seconds; Postman puts them again, but late: set at least a day"
    if int(attributes.get("ApproximateNumberOfMessagesNotVisible", "0")) >= MOST_IN_FLIGHT:
        yield f"{MOST_IN_FLIGHT:,} notes are in flight, and SQS shows no more until some of them are done"
