"""Runs scripts on a server, and tells whether enough replicas have what was written."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from postman.backends.redis.address import Address
from postman.backends.redis.connection import Connection
from postman.backends.redis.refusal import UnknownScript
from postman.backends.redis.wire import Command
from postman.errors import StoreError, StoreUnavailable

_TOUCH: Final = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '', 'PX', 1)"


class Script:
    """A program that the server runs in one go. It is sent once, and named by its hash from then on."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


type ScriptCall = tuple[Sequence[str], Sequence[Any]]
"""Keys and arguments."""


class Client:
    """See the module. Opened by `open_client`. Every method raises what `Connection.ask` does.

    Attributes:
        connection: to the server.
        prefix: of all keys.
        ask: see `Connection.ask`.
        wait: how many replicas must confirm a write.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.ask = connection.ask
        self.prefix = connection.address.prefix
        self.wait = connection.address.wait
        self._patience = int(connection.address.timeout * 500)  # milliseconds
        self._doubts = self._settled = 0

    async def run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:  # noqa: ANN401  # what a script takes and says
        """Run a script. A cancelled caller's script may be run."""
        return (await self._run(script, [(keys, arguments)], ()))[0]

    async def commit(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:  # noqa: ANN401  # the same
        """Run a script as `commit_all` does."""
        return (await self.commit_all(script, [(keys, arguments)]))[0]

    async def commit_all(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run a script several times, and wait for its fate though the caller be cancelled: two timeouts at most.

        Raises:
            StoreUnavailable: also when fewer replicas than the URL's `wait` confirmed it.
        """
        return await self._commit(lambda more: self._run(script, calls, more), len(calls))

    async def write(self, *commands: Command) -> list[Any]:
        """As `commit_all`, with commands."""
        return await self._commit(lambda more: self.ask(*commands, *more), len(commands))

    async def _commit(self, ask: Callable[[Sequence[Command]], Awaitable[list[Any]]], wanted: int) -> list[Any]:
        doubts, more = self._doubts, self._confirmation()
        with trio.CancelScope(shield=True):
            try:
                answers = await ask(more)
            except StoreUnavailable as error:
                self._doubts += error.may_have_happened
                raise
        self._check_confirmed(answers[wanted:], doubts)
        return answers[:wanted]

    async def ask_confirmed(self, *commands: Command, tolerant: bool = False) -> list[Any]:
        """As `ask`. What it finds is no less safe than what was committed: a write may be there unconfirmed."""
        if self._doubts == self._settled:
            return await self.ask(*commands, tolerant=tolerant)
        doubts, more = self._doubts, self._confirmation()
        answers = await self.ask(*commands, *more, tolerant=tolerant)
        self._check_confirmed(answers[len(commands) :], doubts)
        return answers[: len(commands)]

    def _confirmation(self) -> tuple[Command, ...]:
        """Commands whose last answer is how many replicas have what was written until now."""
        if not self.wait:
            return ()
        # A connection waits for its own writes alone. What is in doubt may have been written on one that is lost.
        touch = () if self._doubts == self._settled else (("EVAL", _TOUCH, 1, f"{self.prefix}touch"),)
        return *touch, ("WAIT", self.wait, self._patience)

    def _check_confirmed(self, answers: Sequence[Any], doubts: int) -> None:
        """Raise when too few replicas confirmed; else what was in doubt before, `doubts` writes, is so no more."""
        if self.wait and answers[-1] < self.wait:
            self._doubts += 1
            raise StoreUnavailable(f"fewer than {self.wait} replicas confirmed a write", may_have_happened=True)
        if not self.wait or len(answers) > 1:
            self._settled = max(self._settled, doubts)

    async def _run(self, script: Script, calls: Sequence[ScriptCall], more: Sequence[Command]) -> list[Any]:
        commands = [("EVALSHA", script.sha, len(keys), *keys, *arguments) for keys, arguments in calls]
        try:
            return await self.ask(*commands, *more)
        except UnknownScript:
            _, *answers = await self.ask(("SCRIPT", "LOAD", script.source), *commands, *more)
            return answers


@asynccontextmanager
async def open_client(address: Address, channel: str | None = None) -> AsyncGenerator[Client]:
    """Connect, and stay connected.

    Args:
        address: of the server.
        channel: what to listen to.

    Raises:
        StoreUnavailable: it cannot be reached.
        StoreRefused: it does not let us in.
    """
    try:
        async with trio.open_nursery() as nursery:
            connection = Connection(address, nursery, channel)
            await nursery.start(connection.keep)
            yield Client(connection)
            nursery.cancel_scope.cancel()
    except* StoreError as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[StoreError]) -> StoreError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error  # type: ignore[return-value]  # all leaves of the group are of its type
