"""A client that does not give up: it posts each request under a key until it is promised, and keeps every promise."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import trio

MAIL: Mapping[str, Any] = {
    "to": [{"email": "ann@example.com"}],
    "from": {"email": "shop@example.org"},
    "subject": "hello",
    "content": [{"type": "text/plain", "value": "x"}],
}
"""One, as a client posts it."""

PAUSE = 0.05
"""Seconds between two tries of a request."""
LOOKS = (0.02, 0.3)
"""Seconds between two looks at the status, which cost the service work: the first, the longest; doubling."""
PATIENCE = 40.0
"""Seconds after which it gives up after all, and the test has failed."""
ANSWER = 10.0
"""Seconds that an answer may take."""

_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and is not used: a customer speaks plain HTTP. Reading the system's authorities takes 20 ms each."""


class Customer:
    """Posts mails to a service that may be dead, full or somewhere else by now. Made by `open_customer`.

    Attributes:
        promised: the ids of each key's 202.
        recovered: ids that were told by a replay alone: the first answer was lost.
        refusals: 503s, with what they said.
    """

    def __init__(self, url: Callable[[], str], http: httpx.AsyncClient) -> None:
        self.promised: dict[str, tuple[str, ...]] = {}
        self.recovered: set[str] = set()
        self.refusals: list[str] = []
        self._url = url
        self._http = http

    @property
    def ids(self) -> list[str]:
        """All promised ids."""
        return [id for ids in self.promised.values() for id in ids]

    async def post(self, key: str, mails: Sequence[Mapping[str, Any]], within: float = PATIENCE) -> tuple[str, ...]:
        """Post until there is a 202, for so many seconds; the ids. The same key again must give the same ids."""
        with trio.fail_after(within):
            while (ids := await self.try_post(key, mails)) is None:  # noqa: ASYNC110  # of another process
                await trio.sleep(PAUSE)
        return ids

    async def try_post(self, key: str, mails: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
        """Post once; the ids, or None: not now."""
        try:
            answer = await self._http.post(f"{self._url()}/mail", json=mails, headers={"Idempotency-Key": key})
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
            self.refusals.append(answer.text)
            return None
        assert answer.status_code == 202, f"{answer.status_code} {answer.text}"
        ids = tuple(answer.json()["tracking-ids"])
        assert len(ids) == len(mails)
        assert self.promised.get(key, ids) == ids, "the same key was given other ids"
        if key not in self.promised and answer.headers.get("Idempotency-Replayed") == "true":
            self.recovered.update(ids)
        self.promised[key] = ids
        return ids

    async def wait_settled(self, within: float = PATIENCE, *, doubt: bool = True) -> None:
        """Wait until no letter is queued, sending or, unless `doubt` is False, in doubt."""
        states = ["queued", "sending", "in-doubt"][: 2 + doubt]

        def settled(status: Any) -> bool:  # noqa: ANN401  # any JSON
            mails = status["mails"]  # None: the ledger does not answer
            return bool(mails) and not any(mails[state] for state in states)

        await self.wait_status(settled, within)

    async def wait_told(self, words: str) -> str:
        """Wait until the status says why it is not well, in a sentence with these words; the sentence."""

        def sentences(status: Any) -> list[str]:  # noqa: ANN401  # any JSON
            return [sentence for sentence in status["because"] if words in sentence]

        (sentence,) = sentences(await self.wait_status(lambda status: bool(sentences(status))))
        return sentence

    async def wait_status(self, wanted: Callable[[Any], bool], within: float = PATIENCE) -> Any:  # noqa: ANN401  # as below
        """Wait until the status is as wanted; the status."""
        pause, longest = LOOKS
        with trio.fail_after(within):
            while not wanted(status := await self.get("/status")):
                await trio.sleep(pause)
                pause = min(longest, pause * 2)
        return status

    async def get(self, path: str) -> Any:  # noqa: ANN401  # any JSON
        """Ask a service that is well."""
        answer = await self._http.get(self._url() + path)
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        return answer.json()


@asynccontextmanager
async def open_customer(url: Callable[[], str]) -> AsyncIterator[Customer]:
    """A customer of the service that is at `url()` now."""
    async with httpx.AsyncClient(timeout=ANSWER, trust_env=False, verify=_TLS) as http:
        yield Customer(url, http)
