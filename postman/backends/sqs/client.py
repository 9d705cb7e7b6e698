"""Asks SQS: the AWS JSON protocol over our own HTTP client, signed.

Nothing is sent twice, but for what AWS surely did not do: when it refused the credentials and others are found, or our
clock and its own clock is known from the answer.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import structlog
import trio
from botocore.credentials import ReadOnlyCredentials

from postman.answer import Answer
from postman.backends.sqs.address import Address
from postman.backends.sqs.credentials import Credentials
from postman.backends.sqs.refusal import CLOCK, CREDENTIALS, refusal
from postman.backends.sqs.signature import sign
from postman.errors import OutcomeUnknown, ProviderUnavailable, StoreUnavailable
from postman.wire import Client as HttpClient
from postman.wire import ClientFactory

SKEW: Final = 120.0
"""Seconds that our clock may differ before it counts as the cause of a refusal; AWS bears five minutes."""
MAX_BODY: Final = 24 << 20
"""Bytes of an answer: ten messages of a mebibyte, which are no notes of ours, and what JSON adds to them."""

_log = structlog.get_logger()


class _Signed(NamedTuple):
    """What a request was signed with."""

    keys: ReadOnlyCredentials
    ahead: float


class Client:
    """Asks one endpoint, any number of questions at once. Opened by `open_client`.

    Args:
        address: where to.
        http: sends to its endpoint.
        credentials: of the account.
        patience: seconds for each answer.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        address: Address,
        http: HttpClient,
        credentials: Credentials,
        patience: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.address = address
        self.credentials = credentials
        self._http = http
        self._patience = patience
        self._wall = wall
        self._ahead = 0.0
        """Seconds by which AWS's clock is ahead of ours, as far as it matters."""
        self._host = urlsplit(address.endpoint).netloc

    async def ask[T](self, action: str, body: Mapping[str, Any], kind: type[T], name: str, wait: float = 0) -> T:
        """Ask for an action; its answer as `kind`.

        Args:
            action: of SQS's API.
            body: its parameters.
            kind: what the answer is.
            name: of the queue, for messages.
            wait: seconds that SQS may take beside the timeout.

        Raises:
            Refusal: SQS did not do it, and says why.
            StoreUnavailable: no answer; `may_have_happened` when it may have been done.
        """
        data = msgspec.json.encode(body)
        answer, signed = await self._post(action, data, wait)
        if not answer.ok and self._mended(refused := refusal(answer, action, self.address, name).code, answer, signed):
            _log.warning("AWS refused a signature; it is asked again with another one", reason=refused)
            answer, _ = await self._post(action, data, wait)
        if not answer.ok:
            raise refusal(answer, action, self.address, name)
        if (read := answer.decode(kind)) is None:
            raise StoreUnavailable(f"what SQS answered to {action} cannot be read", may_have_happened=True)
        return read

    async def _post(self, action: str, data: bytes, wait: float) -> tuple[Answer, _Signed]:
        limit, signed = self._patience + wait, None
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{action}"}
        try:
            with trio.fail_after(limit):
                signed = _Signed(await self.credentials.keys(), self._ahead)
                at = datetime.fromtimestamp(self._wall() + signed.ahead, UTC)
                headers |= sign(signed.keys, self.address.region, at, {"Host": self._host, **headers}, data)
                return await self._http.post("/", attempt=None, json=msgspec.Raw(data), headers=headers), signed
        except trio.TooSlowError:
            if signed is None:
                raise StoreUnavailable(f"the AWS credentials were not found in {limit:g} s") from None
            raise StoreUnavailable(f"SQS did not answer {action} in {limit:g} s", may_have_happened=True) from None
        except (ProviderUnavailable, OutcomeUnknown) as error:
            unknown = isinstance(error, OutcomeUnknown)
            raise StoreUnavailable(f"SQS, {action}: {error}", may_have_happened=unknown) from error

    def _mended(self, code: str, answer: Answer, signed: _Signed) -> bool:
        """Whether there is a reason to expect another answer to another signature."""
        if code in CLOCK:
            try:
                theirs = email.utils.parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
            except ValueError:
                theirs = self._wall() + signed.ahead
            if abs(theirs - self._wall() - signed.ahead) > SKEW:
                self._ahead = theirs - self._wall()
                _log.warning("the clock of this machine is not that of AWS", ahead=round(self._ahead))
                return True
        return code in CREDENTIALS and self.credentials.distrust(signed.keys)


@asynccontextmanager
async def open_client(
    address: Address, factory: ClientFactory, patience: float, wall: Callable[[], float] = time.time
) -> AsyncGenerator[Client]:
    """A client; nothing is connected yet, and nobody renews its credentials but `Credentials.keep`.

    Args:
        address: where to.
        factory: makes HTTP clients.
        patience: seconds for each answer.
        wall: seconds since 1970.
    """
    async with factory(base_url=address.endpoint) as http:
        http.max_body = MAX_BODY
        yield Client(address, http, Credentials(), patience, wall)
