"""A server, through a connection that is renewed when it breaks; scripts, and what the server's errors mean."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Protocol

import structlog
import trio
from hiredis import ReplyError

from postman.backends.redis.address import Address
from postman.backends.redis.wire import Command, Wire
from postman.errors import StoreError, StoreFull, StoreRefused, StoreUnavailable
from postman.secret import hide

PAUSES: Final = (0.05, 2.0)
"""Seconds between two tries to connect: the first, the longest; doubling."""

REDIRECTS: Final = 5
"""So often a cluster may send us on before we give up."""

_log = structlog.get_logger()

_NOT_NOW: Final = frozenset(
    {"BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "READONLY", "MOVED", "ASK"}
    | {"NOAUTH", "WRONGPASS"}
)
"""Refused before anything was done; may be otherwise later, or when a person has seen to it."""
_ELSEWHERE: Final = frozenset({"MOVED", "READONLY"})
_MISTYPED: Final = "WRONGTYPE"

_TOUCH: Final = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '', 'PX', 1)"


class Script:
    """A program that the server runs in one go. It is sent once, and named by its hash from then on."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


type ScriptCall = tuple[Sequence[str], Sequence[Any]]
"""Keys and arguments."""


class Ask(Protocol):
    """See `Client.ask`."""

    async def __call__(self, *commands: Command, tolerant: bool = False) -> list[Any]:
        """Send commands together; the answers."""


async def _look_at_nothing(_: Ask) -> None:
    pass


class Client:
    """See the module. Opened by `open_client`.

    Every method raises `StoreUnavailable` while there is no connection, at once when the last try to connect failed.

    Attributes:
        prefix: of all keys.
        wait: how many replicas must confirm a write.
        on_message: called on each message of the channel, and on each new connection: some may not have been heard.
        on_connect: called with the `ask` of each new connection, before anybody else may use that.
    """

    def __init__(self, address: Address, nursery: trio.Nursery, channel: str | None) -> None:
        self.prefix = address.prefix
        self.wait = address.wait
        self._seed = self._address = address
        self._nursery = nursery
        self._channel = channel
        self.on_message: Callable[[], None] = lambda: None
        self.on_connect: Callable[[Ask], Awaitable[None]] = _look_at_nothing
        self._wire: Wire | None = None
        self._why: str | None = None
        self._changed = trio.Event()
        self._doubts = self._settled = 0

    @property
    def address(self) -> Address:
        """Of the server that is used, or was last tried."""
        return self._address

    async def ask(self, *commands: Command, tolerant: bool = False) -> list[Any]:
        """Send commands together; the answers. A cancelled caller's commands may be done.

        Args:
            commands: at least one.
            tolerant: a key of another type than the command's answers None, and does not stop the others.

        Raises:
            StoreError: of the first that the server refused; the others may have been done.
        """
        wire = self._wire
        if wire is None or wire.broken is not None:
            wire = await self._wait_for_wire()
        return await self._ask(wire, *commands, tolerant=tolerant)

    async def _ask(self, wire: Wire, *commands: Command, tolerant: bool = False) -> list[Any]:
        answers = await wire.ask(*commands)
        for number, answer in enumerate(answers):
            if isinstance(answer, ReplyError):
                if not tolerant or not str(answer).startswith(_MISTYPED):
                    raise self._translated(answer, wire, commands[number])
                answers[number] = None
        return answers

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
        doubts, more = self._doubts, self._confirmation()
        with trio.CancelScope(shield=True):
            try:
                answers = await self._run(script, calls, more)
            except StoreUnavailable as error:
                self._doubts += error.may_have_happened
                raise
        self._check_confirmed(answers[len(calls) :], doubts)
        return answers[: len(calls)]

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
        return *touch, ("WAIT", self.wait, int(self._address.timeout * 500))

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
        except _UnknownScript:
            _, *answers = await self.ask(("SCRIPT", "LOAD", script.source), *commands, *more)
            return answers

    async def keep_connected(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, again and again. What the first try fails with is raised; a server that is loading is waited for."""
        wire = await self._connect_when_loaded()
        task_status.started()
        while True:
            self._tell(wire, None)
            self.on_message()
            await wire.ended.wait()
            _log.warning("the connection to Redis is renewed", server=str(self._address), reason=wire.broken)
            self._tell(None, None)
            wire = await self._reconnect()

    async def _connect_when_loaded(self) -> Wire:
        told = False
        while True:
            try:
                return await self._connect()
            except _Loading as error:
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
            self._address = self._seed
            await trio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads many clients
            pause = min(PAUSES[1], 2 * pause)

    async def _connect(self) -> Wire:
        for _ in range(REDIRECTS):
            try:
                with trio.fail_after(self._address.timeout):
                    stream = await self._address.connect()
            except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
                raise StoreUnavailable(f"{self._address} cannot be reached: {_in_words(error)}") from error
            wire = Wire(stream, self._address.timeout, self._hear)
            self._nursery.start_soon(wire.run)
            try:
                elsewhere = await self._greet(wire)
                if elsewhere is None:
                    await self.on_connect(partial(self._ask, wire))
                    return wire
            except BaseException:
                wire.break_off("not let in")
                raise
            wire.break_off("another server of the cluster has our keys")
            self._address = self._address.moved(elsewhere)
        raise StoreUnavailable(f"{self._address} sends us on and on; is the cluster being changed?")

    def _hear(self) -> None:
        self.on_message()  # as it is by then

    async def _greet(self, wire: Wire) -> str | None:
        """Introduce ourselves; where to go instead, if the cluster has our keys elsewhere."""
        address = self._address
        login = ("AUTH", address.username or "default", address.password.reveal()) if address.password else ()
        commands: list[Command] = [("HELLO", 3, *login, "SETNAME", "postman")]
        if address.database:
            commands.append(("SELECT", address.database))
        if self._channel is not None:
            commands.append(("SUBSCRIBE", self._channel))
        hello, *others, key = await wire.ask(*commands, ("EXISTS", self.prefix))
        if isinstance(key, ReplyError) and str(key).startswith("MOVED "):
            return str(key).split()[2]
        if isinstance(hello, ReplyError):
            raise StoreRefused(f"{address} does not let us in: {hide(str(hello))}")
        if hello.get(b"mode") == b"sentinel":
            raise StoreRefused(f"{address} is a Sentinel, which keeps no mails; name the primary that it watches")
        if hello.get(b"role") == b"replica":
            raise StoreUnavailable(f"{address} is a replica, which takes no writes; name the primary")
        for answer in (*others[: bool(address.database)], key):  # without its channel a queue only looks less often
            if isinstance(answer, ReplyError):
                raise self._translated(answer, wire)
        return None

    async def _wait_for_wire(self) -> Wire:
        with trio.move_on_after(self._address.timeout):
            while self._why is None:
                if self._wire is not None and self._wire.broken is None:
                    return self._wire
                await self._changed.wait()
        raise StoreUnavailable(self._why or f"{self._address} did not let us in within {self._address.timeout:g} s")

    def _tell(self, wire: Wire | None, why: str | None) -> None:
        self._wire, self._why = wire, why
        self._changed.set()
        self._changed = trio.Event()

    def _translated(self, error: ReplyError, wire: Wire, command: Command = ()) -> StoreError:
        """What an error of the server means. Those that are known were told before anything was done."""
        code = str(error).partition(" ")[0]
        text = f"{self._address}: {hide(str(error))}"
        if code in _ELSEWHERE:
            wire.break_off(text)  # to look for who can; a name may mean another server by now
        if code == _MISTYPED:
            key = command[1] if command and command[0] != "EVALSHA" else f"a key that begins with {self.prefix}"
            text += f"; somebody else wrote to {key}: restore it from a backup, or begin anew with another ?prefix="
        if code == "NOPERM":
            text += f"; we need all commands on all keys that begin with {self.prefix}"
        return _MEANINGS.get(code, StoreError)(text)


class _UnknownScript(StoreError):
    """The server was restarted, or its scripts were flushed; nothing was done."""


class _Loading(StoreUnavailable):
    """The server was started and reads its files; that ends by itself."""


_MEANINGS: Final[Mapping[str, Callable[[str], StoreError]]] = {
    **dict.fromkeys(_NOT_NOW, StoreUnavailable),
    "LOADING": _Loading,
    "NOSCRIPT": _UnknownScript,
    "OOM": StoreFull,
    "NOPERM": StoreRefused,
    _MISTYPED: StoreRefused,
}
"""Of the server's errors, by their first word."""


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
            client = Client(address, nursery, channel)
            await nursery.start(client.keep_connected)
            yield client
            nursery.cancel_scope.cancel()
    except* StoreError as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[StoreError]) -> StoreError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error  # type: ignore[return-value]  # all leaves of the group are of its type


def _in_words(error: BaseException) -> str:
    """What it says; that of TLS stands in the cause."""
    return hide(str(error) or str(error.__cause__ or "")) or type(error).__name__
