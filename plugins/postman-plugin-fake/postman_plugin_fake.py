"""Providers that deliver nothing: `lamda` and `delta` fail every n-th call, `fake` does as it is told.

What a fake accepts goes to the file of its setting `file`, one JSON object a line, so that tests and people can count.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import structlog
import trio

from postman.hookspecs import hookimpl
from postman.kind import FEATURES, Kind, ProviderSettings, Surroundings
from postman.mail import Letter
from postman.provider import (
    Attempt,
    MailRefused,
    MailRejected,
    OutcomeUnknown,
    ProviderMisconfigured,
    ProviderUnavailable,
    Receipt,
    Refusal,
)

_log = structlog.get_logger()

Outcome = Literal[
    "accept",  # a receipt
    "accept-some",  # a receipt that refuses all recipients but the first
    "unavailable",  # 503, surely not accepted
    "throttle",  # 429, surely not accepted
    "drop",  # the connection breaks before the last byte
    "misconfigured",  # 401
    "refuse",  # this provider does not want this mail
    "reject",  # nobody wants this mail
    "suppress",  # a recipient unsubscribed
    "unknown",  # accepts, and the answer is lost
    "hang",  # takes the last byte and never answers
    "hang-before",  # never lets a byte through
    "block",  # lets nobody else in the process run for `latency` seconds, and then begins
    "bug",  # an exception that no plugin should raise, before the first byte
    "bug-after",  # the same after it had accepted
    "memory-error",
    "recursion-error",
    "base-exception",
    "crash",  # accepts, and the whole process is killed
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_Opened = AbstractAsyncContextManager["Fake"]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class NoException(BaseException):
    """What a plugin must never raise."""


_TAKES = frozenset[Outcome]({"accept", "accept-some", "block", "unknown", "bug-after", "crash"})
_RAISES: dict[Outcome, Callable[[], BaseException]] = {
    "unavailable": lambda: ProviderUnavailable("503 service unavailable"),
    "throttle": lambda: ProviderUnavailable("429 too many requests", retry_after=1.0, throttled=True),
    "misconfigured": lambda: ProviderMisconfigured("401 wrong key"),
    "refuse": lambda: MailRefused("sender not verified here"),
    "reject": lambda: MailRejected("malformed address"),
    "suppress": lambda: MailRejected("a recipient unsubscribed", suppressed=True),
    "unknown": lambda: OutcomeUnknown("the connection was reset after the last byte"),
    "bug-after": lambda: ZeroDivisionError("a bug after the last byte"),
    "memory-error": MemoryError,
    "recursion-error": lambda: RecursionError("maximum recursion depth exceeded"),
    "base-exception": lambda: NoException("not even an Exception"),
}


class FakeSettings(ProviderSettings, frozen=True, kw_only=True):
    """Settings of `fake`.

    Attributes:
        outcomes: what the calls end with, one after the other, over and over. A mail whose first recipient's local
            part is an outcome (`reject@example.org`) ends with that instead, and does not count.
        latency: seconds that an answer takes.
        file: what was accepted goes there, a JSON object a line; appended, mode 0600.
        fsync: each line is on the disk before the receipt.
    """

    outcomes: Annotated[tuple[Outcome, ...], msgspec.Meta(min_length=1)] = ("accept",)
    latency: NotNegative = 0.0
    file: Path | None = None
    fsync: bool = False


class FlakySettings(ProviderSettings, frozen=True, kw_only=True):
    """Settings of `lamda` and `delta`.

    Attributes:
        fail_every: every n-th call fails (surely not accepted); 0: none.
        latency: seconds that an answer takes.
        file: as in `FakeSettings`.
    """

    fail_every: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 2
    latency: NotNegative = 0.0
    file: Path | None = None


class Fake:
    """A provider that ends its calls as it was told.

    Args:
        name: in postman.toml.
        settings: what it was told.
    """

    def __init__(self, name: str, settings: FakeSettings) -> None:
        self.calls = 0
        self._name = name
        self._settings = settings
        self._threads = trio.CapacityLimiter(4)  # for fsync

    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        """End as the script, or the recipient, says."""
        outcome = self._next(letter)
        if outcome == "hang-before":
            await trio.sleep_forever()
        if outcome == "block":
            time.sleep(self._settings.latency)  # noqa: ASYNC251  # what a plugin must not do
        if outcome == "bug":
            raise ZeroDivisionError("a bug before the first byte")
        attempt.starting()
        await trio.sleep(self._settings.latency)
        if outcome == "drop":
            raise ProviderUnavailable("the connection broke before the last byte")
        attempt.handed_over()
        return await self._answer(outcome, letter, attempt)

    async def check(self) -> str:
        """Always well."""
        await trio.lowlevel.checkpoint()
        return "a fake: delivers nothing"

    def _next(self, letter: Letter) -> Outcome:
        wish = letter.mail.to[0].email.partition("@")[0].lower()
        for outcome in OUTCOMES:
            if wish == outcome:
                return outcome
        outcome = self._settings.outcomes[self.calls % len(self._settings.outcomes)]
        self.calls += 1
        return outcome

    async def _answer(self, outcome: Outcome, letter: Letter, attempt: Attempt) -> Receipt:
        if outcome in _TAKES:
            await self._accept(letter, attempt)
        if outcome == "hang":
            await trio.sleep_forever()
        if outcome == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if make := _RAISES.get(outcome):
            error = make()
            raise error
        refused: tuple[Refusal, ...] = ()
        if outcome == "accept-some":
            refused = tuple(Refusal(address.email, "no such mailbox") for address in letter.mail.recipients[1:])
        return Receipt("fake: not delivered", refused)

    async def _accept(self, letter: Letter, attempt: Attempt) -> None:
        if self._settings.file is None:
            return
        line = _line(self._name, letter, attempt)
        if self._settings.fsync:
            await trio.to_thread.run_sync(_append, self._settings.file, line, True, limiter=self._threads)
        else:
            _append(self._settings.file, line)


def _line(provider: str, letter: Letter, attempt: Attempt) -> bytes:
    entry = {
        "id": letter.id,
        "key": attempt.key,
        "provider": provider,
        "recipients": [address.email for address in letter.mail.recipients],
        "sha256": hashlib.sha256(msgspec.json.encode(letter, order="deterministic")).hexdigest(),
        "at": time.time(),
    }
    return msgspec.json.encode(entry) + b"\n"


def _append(path: Path, line: bytes, fsync: bool = False) -> None:  # noqa: FBT001, FBT002  # called through to_thread
    """One write on an O_APPEND descriptor: lines of several processes do not mix."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, "a line was written in part", str(path))
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


@asynccontextmanager
async def _open_fake(settings: FakeSettings, surroundings: Surroundings) -> AsyncIterator[Fake]:
    await trio.lowlevel.checkpoint()
    _log.warning("a fake delivers nothing", provider=surroundings.name)
    yield Fake(surroundings.name, settings)


@asynccontextmanager
async def _open_flaky(settings: FlakySettings, surroundings: Surroundings) -> AsyncIterator[Fake]:
    accept: tuple[Outcome, ...] = ("accept",)
    fail: tuple[Outcome, ...] = ("unavailable",)
    every = settings.fail_every
    outcomes = accept * (every - 1) + fail if every else accept
    script = FakeSettings(outcomes=outcomes, latency=settings.latency, file=settings.file)
    async with _open_fake(script, surroundings) as fake:
        yield fake


def _account(settings: FakeSettings | FlakySettings) -> str:
    return f"fake:{settings.file or ''}"


@dataclass(frozen=True)
class _Door:
    """What an entry point names: it has the hook."""

    kind: Kind[Any, Fake]

    @hookimpl
    def postman_register(self) -> Kind[Any, Fake]:
        return self.kind


def _door[S: (FakeSettings, FlakySettings)](
    name: str, settings: type[S], open_: Callable[[S, Surroundings], _Opened]
) -> _Door:
    features = frozenset(FEATURES)
    return _Door(Kind(name, settings, open_, _account, marks=True, delivers=False, features=features))


lamda = _door("lamda", FlakySettings, _open_flaky)
delta = _door("delta", FlakySettings, _open_flaky)
fake = _door("fake", FakeSettings, _open_fake)
