"""The suite holds for a vendor that cannot carry everything, too: what it refuses is named, all else is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from postman.mail import Letter
from postman.provider import Attempt, MailRefused, Receipt
from postman.testing import acts
from postman.testing.check_provider import (
    Check,
    Subject,
    a_break_before_the_last_byte_is_not_accepted,
    every_attempt_sends_the_same_bytes,
    it_carries_every_letter,
)
from postman.wire import Client, ClientFactory, failure


class Telegraph:
    """Of a vendor that takes no files."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        if letter.mail.attachments:
            raise MailRefused("the telegraph takes no files")
        answer = await self._client.post("/", attempt=attempt, json=[letter.id, letter.mail.text])
        if answer.status == 202:
            return Receipt()
        raise failure(answer)


@asynccontextmanager
async def opened(url: str, client: ClientFactory) -> AsyncIterator[Telegraph]:
    async with client(base_url=url) as opened:
        yield Telegraph(opened)


TELEGRAPH = Subject(
    open=opened,
    success=acts.answer(202),
    message_id=None,
    refuses=frozenset({"attachments", "inline image", "everything"}),
)


@pytest.mark.parametrize(
    "check",
    [it_carries_every_letter, every_attempt_sends_the_same_bytes, a_break_before_the_last_byte_is_not_accepted],
    ids=lambda check: check.__name__,
)
async def test_a_vendor_that_takes_no_files_passes(check: Check) -> None:
    await check(TELEGRAPH)


@pytest.mark.parametrize(
    ("refuses", "told"),
    [
        (frozenset({"attachments", "everything"}), "'inline image' was not sent"),
        (TELEGRAPH.refuses | {"html"}, "'html' was sent"),
        (TELEGRAPH.refuses | {"htlm"}, "'htlm'"),
    ],
)
async def test_what_is_refused_is_just_what_was_named(refuses: frozenset[str], told: str) -> None:
    fails = pytest.RaisesExc(AssertionError, match=told)
    with pytest.RaisesGroup(fails, allow_unwrapped=True, flatten_subgroups=True):
        await it_carries_every_letter(replace(TELEGRAPH, refuses=refuses))
