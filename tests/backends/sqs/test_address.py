from __future__ import annotations

import pytest

from postman.backends.sqs.address import SqsQueueSettings, address_of
from postman.errors import ConfigError


def test_a_url_names_a_region_and_a_queue() -> None:
    address = address_of(SqsQueueSettings(url="sqs://eu-central-1/postman"))
    assert (address.region, address.names) == ("eu-central-1", ("postman",))
    assert address.endpoint == "https://sqs.eu-central-1.amazonaws.com"


def test_three_lanes_are_three_queues() -> None:
    address = address_of(SqsQueueSettings(url="sqs://us-gov-west-1/mail", lanes=3))
    assert address.names == ("mail-high", "mail", "mail-bulk")
    assert address.dead == "mail-dead"


def test_china_has_names_of_its_own() -> None:
    address = address_of(SqsQueueSettings(url="sqs://cn-north-1/mail"))
    assert address.endpoint == "https://sqs.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:4566", "http://localhost:1", "https://vpce-1.sqs.example.com/"])
def test_an_endpoint_may_be_given(endpoint: str) -> None:
    address = address_of(SqsQueueSettings(url="sqs://eu-central-1/mail", endpoint=endpoint))
    assert address.endpoint == endpoint.rstrip("/")


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        (SqsQueueSettings(url="sqs:postman"), "write sqs://REGION/NAME"),
        (SqsQueueSettings(url="sqs://eu-central-1"), "write sqs://REGION/NAME"),
        (SqsQueueSettings(url="sqs://localhost/mail"), "no region of AWS"),
        (SqsQueueSettings(url="sqs://eu-central-1/a/b"), "no name for a queue"),
        (SqsQueueSettings(url="sqs://eu-central-1/" + "a" * 76), "1 to 75"),
        (SqsQueueSettings(url="sqs://eu-central-1/mail.fifo"), "make a standard queue"),
        (SqsQueueSettings(url="sqs://eu-central-1/mail", lanes=2), "mail-high, mail and mail-bulk"),
        (SqsQueueSettings(url="sqs://eu-central-1/mail", visibility_timeout=43_201), "12 hours"),
        (SqsQueueSettings(url="sqs://eu-central-1/mail", endpoint="http://example.com"), "endpoint must be https"),
        (SqsQueueSettings(url="sqs://eu-central-1/mail", endpoint="ftp://x"), "endpoint must look like"),
        (SqsQueueSettings(url="sqs://eu-central-1/mail", endpoint="http://a:b@127.0.0.1"), "endpoint must not hold"),
    ],
)
def test_what_names_no_queue_is_refused_with_the_cure(settings: SqsQueueSettings, cure: str) -> None:
    with pytest.raises(ConfigError, match=cure):
        address_of(settings)
