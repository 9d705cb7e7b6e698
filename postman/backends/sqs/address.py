"""Which queue of SQS: the URL of [queue], and its query."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from postman.errors import ConfigError
from postman.host import is_loopback
from postman.queue import LANES
from postman.wire import check_base_url

HELP: Final = "write sqs://REGION/NAME, as in sqs://eu-central-1/postman"

_REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,75}")  # SQS allows 80; ours may get an ending
_CHINA: Final = "cn-"


class SqsQueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """A URL and what its query may say; see `postman.queue.QueueSettings`.

    Attributes:
        url: the region and the name, without the query.
        visibility_timeout: seconds that a lease lasts; SQS knows whole ones, so it may last a little longer.
        endpoint: where to ask instead of AWS: an emulator, or a VPC's own endpoint.
        lanes: 1: everything is in NAME, in about the order it came, whatever its priority. 3: a queue for each
            priority, NAME-high, NAME and NAME-bulk.
        timeout: seconds that SQS may take to answer, beside what it was told to wait.
    """

    url: str
    visibility_timeout: float = 60.0
    endpoint: str | None = None
    lanes: int = 1
    timeout: Annotated[float, msgspec.Meta(gt=0, le=60)] = 10.0


@dataclass(frozen=True)
class Address:
    """Queues of SQS, and where to ask for them.

    Attributes:
        region: as AWS names it.
        name: of the queue of normal mails.
        endpoint: https://..., or http:// on this machine.
        names: of all queues that lanes are in: one, or one for each lane.
    """

    region: str
    name: str
    endpoint: str
    names: tuple[str, ...]

    @property
    def dead(self) -> str:
        """The name of the queue for what is buried, if there is one."""
        return f"{self.name}-dead"


def address_of(settings: SqsQueueSettings) -> Address:
    """The queues that the URL names.

    Raises:
        ConfigError: it names none, and how to write it.
    """
    parts = urlsplit(settings.url)
    region, name = parts.netloc, parts.path.removeprefix("/")
    if not _REGION.fullmatch(region):
        raise ConfigError(f"{region!r} is no region of AWS; {HELP}")
    if name.endswith(".fifo"):
        raise ConfigError(
            f"{name} is a FIFO queue, which drops for five minutes what it was given before: a note that is put again"
            " would be lost; make a standard queue, without .fifo"
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a queue (1 to 75 of A-Z a-z 0-9 _ -); {HELP}")
    if settings.lanes not in {1, LANES}:
        raise ConfigError(
            f"lanes is {settings.lanes}; write 1, or {LANES} for the queues {name}-high, {name} and {name}-bulk"
        )
    if not 1 <= settings.visibility_timeout <= 43_200:
        raise ConfigError(
            f"visibility-timeout is {settings.visibility_timeout:g}; SQS takes 1 to 43,200 seconds (12 hours)"
        )
    names = (name,) if settings.lanes == 1 else (f"{name}-high", name, f"{name}-bulk")
    return Address(region, name, _endpoint(settings.endpoint, region), names)


def _endpoint(given: str | None, region: str) -> str:
    if given is None:
        return f"https://sqs.{region}.amazonaws.com{'.cn' if region.startswith(_CHINA) else ''}"
    try:
        parts = check_base_url(given)
    except ConfigError as error:
        raise ConfigError(str(error).replace("base-url", "endpoint")) from None
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigError("endpoint must be https, unless it is on this machine: http shows the notes to the network")
    return f"{parts.scheme}://{parts.netloc}"
