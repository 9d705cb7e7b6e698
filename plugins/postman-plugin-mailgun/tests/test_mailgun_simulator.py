from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from postman.kind import Surroundings
from postman.mail import Letter
from postman.provider import MailRejected, ProviderMisconfigured, ProviderUnavailable, Receipt
from postman.secret import Secret
from postman.testing.letters import LETTERS, a_letter, an_attempt
from postman.wire import ClientFactory
from postman_plugin_mailgun import Mailgun, Settings, postman_register


def opened(base_url: str, client: ClientFactory) -> AbstractAsyncContextManager[Mailgun]:
    settings = Settings(api_key=Secret("a-key-of-the-test"), domain="mg.example.com", base_url=base_url)
    return postman_register().open(settings, Surroundings("mailgun", 4, 5.0, client))


@pytest.mark.parametrize("letter", LETTERS.values(), ids=LETTERS)
async def test_the_simulator_takes_every_letter(simulator: Callable[[str], str], letter: Letter) -> None:
    async with opened(simulator("mailgun"), ClientFactory()) as mailgun:
        assert isinstance(await mailgun.send(letter, an_attempt()), Receipt)


async def test_the_simulator_refuses_what_is_wrong(simulator: Callable[[str], str]) -> None:
    async with opened(simulator("mailgun"), ClientFactory()) as mailgun:
        with pytest.raises(MailRejected):
            await mailgun.send(a_letter(to=()), an_attempt())


@pytest.mark.parametrize(("status", "outcome"), [(401, ProviderMisconfigured), (429, ProviderUnavailable)])
async def test_the_simulators_refusals_are_understood(
    simulator: Callable[[str], str],
    preferring: Callable[[int], ClientFactory],
    status: int,
    outcome: type[Exception],
) -> None:
    async with opened(simulator("mailgun"), preferring(status)) as mailgun:
        with pytest.raises(outcome):
            await mailgun.send(LETTERS["text"], an_attempt())
