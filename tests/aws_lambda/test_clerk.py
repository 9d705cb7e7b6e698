"""The clerk on a schedule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from postman import aws_lambda
from postman.aws_lambda import clerk
from postman.config import load
from postman.errors import ConfigError, StoreUnavailable
from postman.ledger import Call, Claim
from postman.registry import set_up
from postman.row import End, EndKind, State, Verb
from postman.stores import open_ledger
from postman.testing.lambda_events import Context, schedule_event, sqs_event
from postman.wire import ClientFactory
from tests.aws_lambda.function import Function


async def test_the_clerk_ends_a_call_that_nobody_ended_and_puts_what_has_no_note(
    function: Callable[..., Function], ledger: str
) -> None:
    f = function(ledger)
    cut, unput = await f.accept(2)
    async with open_ledger(set_up(load(f.path)), ClientFactory()) as opened:
        assert isinstance(await opened.claim(cut, [Call("vendor", "somebody's", lease=0.0)]), Claim)
        claim = await opened.claim(unput, [Call("vendor", "somebody's", lease=60.0)])
        assert isinstance(claim, Claim)
        await opened.finish(claim, End(EndKind.REJECTED, "a bad address"))
        await opened.act([unput], Verb.REPLAY, "ann")
    assert await f.clerk() == {"rounds": 1}
    assert (await f.row(cut)).state is State.IN_DOUBT
    assert f.notes() == (1, 0)


async def test_a_clerk_that_could_not_end_a_round_does_not_say_that_all_is_well(
    function: Callable[..., Function],
) -> None:
    function()
    with pytest.raises(StoreUnavailable, match="no round"):
        await trio.to_thread.run_sync(clerk, schedule_event(), Context(aws_lambda.CLOSING))


async def test_the_clerk_refuses_the_event_of_a_queue(function: Callable[..., Function]) -> None:
    function(queue="sqs://eu-central-1/postman")
    with pytest.raises(ConfigError, match="use handler"):
        clerk(sqs_event("postman", ["{}"]), Context())
