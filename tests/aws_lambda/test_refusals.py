"""What a function refuses to do, and how it says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postman.errors import ConfigError
from postman.testing.lambda_events import schedule_event, sqs_event
from tests.aws_lambda.function import Function


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
