"""The connection to a server, renewed when it breaks: through a `Wire` at a time, each greeted before it is used."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol

import structlog
import trio
from hiredis import ReplyError

from postman.backends.redis.address import Address
from postman.backends.redis.refusal import ELSEWHERE, MISTYPED, Loading, code_of, meaning
from postman.backends.redis.wire import Command, Wire
from postman.errors import StoreError, StoreRefused, StoreUnavailable
from postman.secret import hide

PAUSES: Final = (0.05, 2.0)
"""Seconds between two tries to connect: the first, the longest; doubling."""

REDIRECTS: Final = 5
"""So often a cluster may send us on before we give up."""

_log = structlog.get_logger()


class Ask(Protocol):
    """See `Connection.ask`."""

    async def __call__(self, *commands: Command, tolerant: bool = False) -> list[Any]:
        """Send commands together; the answers."""


class Connection:
    """See the module.

    Args:
        address: of the server.
        nursery: where its wires run.
        channel: what to listen to.

    Attributes:
        address: of the server that is used, or was last tried.
        on_message: called on each message of the channel, and on each new wire: some may not have been heard.
        on_connect: called with the `ask` of each new wire, before anybody else may use it.
    """

    def __init__(self, address: Address, nursery: trio.Nursery, channel: str | None) -> None:
        self.address = self._seed = address
        self.on_message: Callable[[], None] = lambda: None
        self.on_connect: Callable[[Ask], Awaitable[None]] | None = None
        self._nursery = nursery
        self._channel = channel
        self._wire: Wire | None = None
        self._why: str | None = None
        self._changed = trio.Event()

    async def ask(self, *commands: Command, tolerant: bool = False) -> list[Any]:
        """Send commands together; the answers. A cancelled caller's commands may be done.

        Args:
            commands: at least one.
            tolerant: a key of another type than the command's answers None, and does not stop the others.

        Raises:
            StoreUnavailable: there is no wire, or it broke; at once when the last try to connect failed.
            StoreError: of the first command that the server refused; the others may have been done.
        """
        wire = self._wire
        if wire is None or wire.broken is not None:
            wire = await self._wait_for_wire()
        return await self._ask(wire, *commands, tolerant=tolerant)

    async def _ask(self, wire: Wire, *commands: Command, tolerant: bool = False) -> list[Any]:
        answers = await wire.ask(*commands)
        for number, answer in enumerate(answers):
            if isinstance(answer, ReplyError):
                if not tolerant or code_of(answer) != MISTYPED:
                    raise self._meaning(answer, commands[number], wire)
                answers[number] = None
        return answers

    def _meaning(self, error: ReplyError, command: Command, wire: Wire) -> StoreError:
        found = meaning(error, self.address, self._seed.prefix, command)
        if code_of(error) in ELSEWHERE:
            wire.break_off(str(found))
        return found

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, again and again. What the first try fails with is raised; a server that is loading is waited for."""
        wire = await self._connect_when_loaded()
        task_status.started()
        while True:
            self._tell(wire, None)
            self.on_message()
            await wire.ended.wait()
            _log.warning("the connection to Redis is renewed", server=str(self.address), reason=wire.broken)
            self._tell(None, None)
            wire = await self._reconnect()

    async def _connect_when_loaded(self) -> Wire:
        told = False
        while True:
            try:
                return await self._connect()
            except Loading as error:
                if not told:
                    _log.warning("waiting for Redis to load what it has", reason=str(error))
                told = True
                await trio.sleep(PAUSES[0] * random.uniform(1, 5))  # noqa: S311  # spreads many clients

    async def _reconnect(self) -> Wire:
        pause = PAUSES[0]
        while True:
            try:
                return await self._connect()
            except StoreError as error:
                if self._why is None:
                    _log.warning("Redis cannot be used", reason=str(error))
                self._tell(None, str(error))
            self.address = self._seed
            await trio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads many clients
            pause = min(PAUSES[1], 2 * pause)

    async def _connect(self) -> Wire:
        for _ in range(REDIRECTS):
            try:
                with trio.fail_after(self.address.timeout):
                    stream = await self.address.connect()
            except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
                raise StoreUnavailable(f"{self.address} cannot be reached: {_in_words(error)}") from error
            wire = Wire(stream, self.address.timeout, self._hear)
            self._nursery.start_soon(wire.run)
            try:
                elsewhere = await self._greet(wire)
                if elsewhere is None:
                    if self.on_connect is not None:
                        await self.on_connect(partial(self._ask, wire))
                    return wire
            except BaseException:
                wire.break_off("not let in")
                raise
            wire.break_off("another server of the cluster has our keys")
            self.address = self.address.moved(elsewhere)
        raise StoreUnavailable(f"{self.address} sends us on and on; is the cluster being changed?")

    def _hear(self) -> None:
        self.on_message()  # as it is by then

    async def _greet(self, wire: Wire) -> str | None:
        """Introduce ourselves; where to go instead, if the cluster has our keys elsewhere."""
        address = self.address
        login = ("AUTH", address.username or "default", address.password.reveal()) if address.password else ()
        commands: list[Command] = [("HELLO", 3, *login, "SETNAME", "postman"), ("EXISTS", address.prefix)]
        if address.database:
            commands.append(("SELECT", address.database))
        if self._channel is not None:
            commands.append(("SUBSCRIBE", self._channel))
        hello, key, *_ = answers = await wire.ask(*commands)
        if isinstance(key, ReplyError) and code_of(key) == "MOVED":
            return str(key).split()[2]
        if isinstance(hello, ReplyError):
            raise StoreRefused(f"{address} does not let us in: {hide(str(hello))}")
        if hello.get(b"mode") == b"sentinel":
            raise StoreRefused(f"{address} is a Sentinel, which keeps no mails; name the primary that it watches")
        if hello.get(b"role") == b"replica":
            raise StoreUnavailable(f"{address} is a replica, which takes no writes; name the primary")
        for command, answer in zip(commands, answers, strict=True):
            # Without its channel a queue only looks less often.
            if isinstance(answer, ReplyError) and command[0] != "SUBSCRIBE":
                raise self._meaning(answer, command, wire)
        return None

    async def _wait_for_wire(self) -> Wire:
        await trio.lowlevel.checkpoint()  # also where there is no hope: who asks again and again lets others run
        with trio.move_on_after(self.address.timeout):
            while self._why is None:
                if self._wire is not None and self._wire.broken is None:
                    return self._wire
                await self._changed.wait()
        raise StoreUnavailable(self._why or f"{self.address} did not let us in within {self.address.timeout:g} s")

    def _tell(self, wire: Wire | None, why: str | None) -> None:
        self._wire, self._why = wire, why
        self._changed.set()
        self._changed = trio.Event()


def _in_words(error: BaseException) -> str:
    """What it says; that of TLS stands in the cause."""
    return hide(str(error) or str(error.__cause__ or "")) or type(error).__name__
