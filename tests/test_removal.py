"""Exports and imports: from each ledger to each other, cut anywhere, with damaged files and without room."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from postman.backlog import BacklogError, opened
from postman.config import load
from postman.errors import ConfigError, StoreRefused
from postman.ledger import Filter
from postman.mail import Attachment, Id, Letter
from postman.movable import MOVABLE, Movable
from postman.registry import Setup, set_up
from postman.removal import Exported, TakenIn, export, take_in
from postman.row import Row, State
from postman.stores import open_ledger
from postman.testing.check_ledger import Scene
from postman.testing.postgres_server import PostgresServer
from postman.testing.redis_server import RedisServer
from postman.testing.standing_clock import StandingClock
from postman.wire import ClientFactory

TOML = '[ledger]\nurl = "{url}"\n[[provider]]\nname = "lamda"\nplugin = "lamda"\n'

type Home = Callable[[str], Setup]


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    """An empty ledger of an engine, with a postman.toml of its own."""

    def home(engine: str) -> Setup:
        name = f"postman_{secrets.token_hex(4)}"
        match engine:
            case "redis":
                redis: RedisServer = request.getfixturevalue("redis_process")
                url = redis.place(name)
            case "postgresql":
                postgres: PostgresServer = request.getfixturevalue("postgres_process")
                url = postgres.place(name)
            case _:
                url = "memory:" if engine == "memory" else f"sqlite:{name}.db"
        path = tmp_path / f"{name}.toml"
        path.write_text(TOML.format(url=url))
        return set_up(load(path))

    return home


@asynccontextmanager
async def inside(setup: Setup) -> AsyncGenerator[tuple[Movable, Scene]]:
    async with open_ledger(setup, ClientFactory()) as ledger:
        assert isinstance(ledger, Movable)
        yield ledger, Scene(ledger, StandingClock())


async def fill(setup: Setup, number: int) -> list[Id]:
    async with inside(setup) as (_, scene):
        return await scene.accept(*(scene.letter() for _ in range(number)))


async def rows(setup: Setup) -> dict[Id, Row]:
    async with inside(setup) as (ledger, _):
        return {row.id: row for row in await ledger.find(Filter(), None, 10_000)}


def refused(why: str) -> pytest.RaisesGroup[BacklogError]:
    """What is raised in the nursery of a store."""
    error = pytest.RaisesExc(BacklogError, match=why)
    return pytest.RaisesGroup(error, allow_unwrapped=True, flatten_subgroups=True)


def states(found: dict[Id, Row]) -> dict[Id, State]:
    return {id: row.state for id, row in found.items()}


@pytest.mark.parametrize("target", ["sqlite", "redis", "postgresql"])
@pytest.mark.parametrize("source", ["sqlite", "redis", "postgresql"])
async def test_what_has_not_ended_moves_with_all_that_is_known_of_it(
    source: str, target: str, home: Home, tmp_path: Path
) -> None:
    old, new, file = home(source), home(target), tmp_path / "backlog"
    async with inside(old) as (ledger, scene):
        ids = {state: await scene.bring(state) for state in State}
        keyed = scene.letter(attachments=(Attachment(filename="a", type="image/png", content=bytes(range(256))),))
        await ledger.accept([keyed], "shop", "order-1", b"print")
        await ledger.accept([scene.letter(id=Id("0x0000000000000001"))], "shop", "order-2", b"print")
        await ledger.pause("lamda", "olga")
    async with inside(old) as (ledger, scene):  # opened anew, SQLite has put in doubt what was being sent
        before = {row.id: row for row in await ledger.find(Filter(), None, 100)}
        letters = await ledger.letters(list(before))
    moving = {id for id, row in before.items() if row.state in MOVABLE}
    left = {} if source == "sqlite" else {State.SENDING: 1}
    assert await export(old, file) == Exported(len(moving), 2, left)
    assert file.stat().st_mode & 0o777 == 0o600
    assert await take_in(new, file) == TakenIn(len(moving), 0, 2, ("lamda",))

    assert states(await rows(old)) == states(before) | dict.fromkeys(moving, State.CANCELLED)
    async with inside(new) as (ledger, scene):
        after = {row.id: row for row in await ledger.find(Filter(), None, 100)}
        assert after.keys() == moving
        for id, row in after.items():
            assert msgspec.structs.replace(row, history=row.history[:-1], put=before[id].put) == before[id]
        assert await ledger.letters(list(moving)) == {id: letters[id] for id in moving}
        accepted = await ledger.accept([scene.letter()], "shop", "order-1", b"print")
        assert (accepted.ids, accepted.replayed) == ((keyed.id,), True)
        assert [pause.provider for pause in await ledger.pauses()] == ["lamda"]
    assert ids[State.HELD] in moving
    assert await take_in(new, file) == TakenIn(0, len(moving), 2, ("lamda",))
    assert await export(old, file) == Exported(len(moving), 2, left, before=True)


def ran(command: str, setup: Setup, file: Path, failpoints: str = "") -> int:
    """A command in a process of its own, which can be killed."""
    words = [sys.executable, "-m", "postman", command, str(file), "--config", str(setup.loaded.path)]
    ended = subprocess.run(
        words,
        check=False,
        capture_output=True,
        timeout=60,
        env={**os.environ, "POSTMAN_FAILPOINTS": failpoints},
    )
    assert b"Traceback" not in ended.stderr
    return ended.returncode


async def test_commands_that_are_killed_at_every_step_lose_and_double_nothing(
    home: Home, tmp_path: Path, long: bool
) -> None:
    pairs = [("sqlite", "sqlite"), ("redis", "postgresql"), ("postgresql", "redis")]
    for source, target in pairs if long else pairs[:1]:
        old, new, file = home(source), home(target), tmp_path / source
        ids = await fill(old, 500)
        for point in ("X1", "X2", "X3@2", "X4", "X5"):
            if point == "X3@2":
                assert ran("import", new, file) == 1, "nothing is taken in before it is closed"
            name, _, number = point.partition("@")
            assert ran("export", old, file, f"{name}=kill@{number or 1}") == -signal.SIGKILL
        assert ran("export", old, file) == 0
        for point in ("Y1", "Y2@2", "Y3@2"):
            name, _, number = point.partition("@")
            assert ran("import", new, file, f"{name}=kill@{number}" if number else f"{name}=kill") == -signal.SIGKILL
        assert ran("import", new, file) == 0
        assert states(await rows(old)) == dict.fromkeys(ids, State.CANCELLED)
        assert states(await rows(new)) == dict.fromkeys(ids, State.QUEUED)


async def test_a_letter_that_somebody_takes_meanwhile_stays_and_is_not_taken_in(home: Home, tmp_path: Path) -> None:
    old, new, file = home("redis"), home("sqlite"), tmp_path / "backlog"
    stays, moves = await fill(old, 2)
    assert ran("export", old, file, "X2=kill") == -signal.SIGKILL
    async with inside(old) as (_, scene):
        await scene.claim(stays)
    assert await export(old, file) == Exported(1, 0, {State.SENDING: 1})
    assert await take_in(new, file) == TakenIn(1, 0, 0)
    assert (await rows(new)).keys() == {moves}
    assert states(await rows(old)) == {stays: State.SENDING, moves: State.CANCELLED}


async def test_a_damaged_file_is_refused_with_the_place_and_nothing_is_taken_in(home: Home, tmp_path: Path) -> None:
    old, new, file = home("sqlite"), home("sqlite"), tmp_path / "backlog"
    await fill(old, 3)
    await export(old, file)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    places = [sum(map(len, lines[:n])) + len(lines[n]) // 2 for n in range(len(lines))]
    for number, place in enumerate(places, 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BacklogError, match="first line" if number == 1 else f"at line {number}"):
            await take_in(new, file)
    for damaged in (b"", whole[: places[2]], b"".join(lines[:3]), b"".join(lines[:2] + lines[3:]), b"hello\n"):
        file.write_bytes(damaged)
        with pytest.raises(BacklogError, match=r"cut short|at line|not written by"):
            await take_in(new, file)
        with pytest.raises(BacklogError, match=r"cut short|at line|not written by"):
            await export(old, file)
    file.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(BacklogError, match="run `postman export` again"):
        await take_in(new, file)
    assert not (tmp_path / new.loaded.config.ledger.url.removeprefix("sqlite:")).exists()
    file.write_bytes(whole)
    assert (await take_in(new, file)).mails == 3


async def test_a_file_that_others_may_read_is_refused(home: Home, tmp_path: Path) -> None:
    old, file = home("sqlite"), tmp_path / "backlog"
    await export(old, file)
    file.chmod(0o640)
    with pytest.raises(BacklogError, match="run: chmod 600"):
        await take_in(home("sqlite"), file)


async def test_of_two_exports_to_one_file_one_is_refused(home: Home, tmp_path: Path) -> None:
    old, file = home("redis"), tmp_path / "backlog"
    await fill(old, 1)
    await export(old, file)
    with opened(file), refused("in use by another export"):
        await export(old, file)


async def test_mails_do_not_come_back_to_the_ledger_that_let_them_go(home: Home, tmp_path: Path) -> None:
    old, file = home("sqlite"), tmp_path / "backlog"
    await fill(old, 1)
    await export(old, file)
    with refused("from this very ledger"):
        await take_in(old, file)


async def test_a_ledger_in_memory_and_one_that_a_process_has_are_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in memory"):
        await export(home("memory"), tmp_path / "backlog")
    old = home("sqlite")
    async with inside(old):
        with pytest.raises(StoreRefused, match="in use by process"):
            await export(old, tmp_path / "backlog")
    assert not (tmp_path / "backlog").exists()


async def test_without_room_nothing_is_let_go_and_nothing_is_left_behind(home: Home, tmp_path: Path) -> None:
    old, file = home("sqlite"), tmp_path / "backlog"
    async with inside(old) as (_, scene):
        await scene.accept(large(scene))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_500_000, limits[1]))
    try:
        with pytest.raises(BacklogError, match="File too large"):
            await export(old, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("backlog")]
    assert (await export(old, file)).mails == 1


def large(scene: Scene) -> Letter:
    return scene.letter(attachments=(Attachment(filename="a", type="image/png", content=bytes(3_000_000)),))
