"""What SQS says when it does not do what it was asked, and what follows. Pure: no I/O.

Every refusal is a `StoreUnavailable`: it may be otherwise later, or when a person has seen to it. Its text names the
cure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from postman.answer import Answer, without_addresses
from postman.backends.sqs.address import Address
from postman.errors import StoreUnavailable

CREDENTIALS: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"}
    | {"InvalidSecurity", "SignatureDoesNotMatch", "InvalidSignatureException", "MissingAuthenticationToken"}
)
"""The keys are not, or no longer, those of an account."""
CLOCK: Final = frozenset(
    {"RequestTimeTooSkewed", "RequestExpired", "SignatureDoesNotMatch", "InvalidSignatureException"}
)
"""Perhaps it is only our clock."""
THROTTLED: Final = frozenset(
    {"ThrottlingException", "Throttling", "RequestThrottled", "OverLimit", "KmsThrottled", "TooManyRequestsException"}
)
"""Not so fast, or too many notes in flight."""
MISSING: Final = frozenset({"QueueDoesNotExist", "NonExistentQueue"})
DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "KmsAccessDenied"})
LOST: Final = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"})
"""Of an entry that names a lease: it is over. SQS says the last of a message that was deleted meanwhile."""

NEEDED: Final = (
    "sqs:GetQueueUrl, sqs:GetQueueAttributes, sqs:SendMessage, sqs:ReceiveMessage, sqs:DeleteMessage and"
    " sqs:ChangeMessageVisibility"
)


class Refusal(StoreUnavailable):
    """SQS refused.

    Attributes:
        code: its word for why, without namespace.
    """

    def __init__(self, reason: str, *, code: str = "", may_have_happened: bool = False) -> None:
        super().__init__(reason, may_have_happened=may_have_happened)
        self.code = code


class _Body(msgspec.Struct):
    type: str = msgspec.field(default="", name="__type")
    message: str = ""


def refusal(answer: Answer, action: str, address: Address, name: str) -> Refusal:
    """What an answer other than 2xx means.

    Args:
        answer: to `action`.
        action: what was asked for.
        address: of the queues.
        name: of the queue that it was asked of.
    """
    said = answer.decode(_Body) or _Body()
    code = short(said.type) or short(answer.headers.get("x-amzn-query-error", "").partition(";")[0])
    happened = answer.status >= 500 and code not in THROTTLED and answer.status != 503
    words = without_addresses(f"{code or answer.status} {said.message}".strip())
    if code in MISSING:
        region = address.region
        words = (
            f"there is no queue {name} in {region}, or this account may not see it; make it with:"
            f" aws sqs create-queue --region {region} --queue-name {name}"
        )
    elif code in DENIED:
        words = f"{words}. Allow this account, on the queue {name}: {NEEDED}"
    elif code in CREDENTIALS:
        words = f"AWS does not take these credentials: {words}. Look at them with: aws sts get-caller-identity"
    return Refusal(f"SQS refused {action}: {words}", code=code, may_have_happened=happened)


def short(code: str) -> str:
    """A code without the namespaces that SQS's several protocols put before it."""
    return code.rpartition("#")[2].rpartition(".")[2]
