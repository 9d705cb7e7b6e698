"""Which ledger may start with which queue, and that all of them work together alike."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from postman.clerk import Clerk
from postman.config import SMALLEST, load
from postman.errors import ConfigError, KeyReused, leaf
from postman.hookspecs import LEDGERS, QUEUES
from postman.ledger import Ledger
from postman.mail import Id
from postman.queue import Note, Queue
from postman.registry import discover, load_kind, set_up
from postman.row import State, Verb
from postman.stores import open_stores, refuse_pair, refuse_part
from postman.testing.check_ledger import Scene
from postman.testing.check_ledger.scene import ACCEPTED
from postman.testing.pairs import COLUMNS, PAIRS, PROMISES, Pair, Places
from postman.testing.ports import free_port
from postman.testing.redis_server import RedisServer
from postman.testing.standing_clock import StandingClock
from postman.wire import ClientFactory

PATIENCE = 20.0
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
type Opens = Callable[[Pair], AbstractAsyncContextManager[tuple[Ledger, Queue]]]


@pytest.fixture
def opens(tmp_path: Path, places: Places, aws_account: None) -> Opens:
    """Opens the stores of a pair, as postman.toml names them; empty ones each time."""

    @asynccontextmanager
    async def opens(pair: Pair) -> AsyncIterator[tuple[Ledger, Queue]]:
        ledger, queue = pair.urls(places)
        config = tmp_path / "postman.toml"
        config.write_text(f'[ledger]\nurl = "{ledger}"\n[queue]\nurl = "{queue}"\n{SMALLEST}')
        async with open_stores(set_up(load(config)), ClientFactory()) as stores:
            yield stores

    return opens


def scene_of(ledger: Ledger) -> Scene:
    """Letters of now: a store may go by its own clock."""
    return Scene(ledger, StandingClock(time.time()))


@contextmanager
def suppress_refusal() -> Iterator[None]:
    """A pair that is refused, in a group because the stores were open by then."""
    try:
        yield
    except* ConfigError as group:
        error = leaf(group)
        assert re.search("outlives|is shared between", str(error)), error


def engines(group: str) -> list[str]:
    """The schemes of all ledgers, or of all queues; one of each engine's."""
    return sorted({load_kind(group, name).name for name in discover(group)})


async def test_the_pairs_that_may_start_are_those_that_are_proven(opens: Opens) -> None:
    started = []
    for ledger, queue in itertools.product(engines(LEDGERS), engines(QUEUES)):
        with suppress_refusal():
            async with opens(Pair(ledger, queue)):
                started.append((ledger, queue))
    assert started == sorted({(pair.ledger, pair.queue) for pair in PAIRS})
    both = {engine for engine in engines(LEDGERS) if load_kind(LEDGERS, engine).open_both is not None}
    assert both == {pair.ledger for pair in PAIRS if pair.one}


def test_the_table_in_the_readme_has_all_pairs_that_may_start_and_what_they_promise() -> None:
    [block] = re.findall(r"<!-- pairs -->\n(.*?)<!-- /pairs -->", README, re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
    promises = [[f"`{pair}`", *PROMISES[pair.ledger]] for pair in PAIRS]
    assert [row[: -len(COLUMNS)] for row in rows] == promises
    for row in rows[:-1]:
        told = dict(zip(COLUMNS, row[-len(COLUMNS) :], strict=True))
        assert (told["lost"], told["unexpected"], told["doubled, hold"]) == ("0", "0", "0")


async def put(pair: Pair, ledger: Ledger, queue: Queue, *ids: Id) -> None:
    """What the way in does after `accept`, and the clerk where nobody did."""
    if not pair.one:
        clerk = Clerk(ledger, queue, accounts=frozenset, delivering=lambda: True)
        rows = [row for id in ids if (row := await ledger.read(id, None)) is not None]
        await clerk.put(rows)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_a_letter_goes_through_ledger_and_queue_once(opens: Opens, pair: Pair) -> None:
    with trio.fail_after(PATIENCE):
        async with opens(pair) as (ledger, queue):
            scene = scene_of(ledger)
            letters = [scene.letter(), scene.letter(send_at=scene.time(5_000))]
            accepted = await ledger.accept(letters, "shop", "key", b"body")
            assert accepted.noted is pair.one or pair.ledger == "memory"
            again = await ledger.accept([scene.letter(), scene.letter()], "shop", "key", b"body")
            assert (again.ids, again.replayed) == (accepted.ids, True)
            with pytest.raises(KeyReused):
                await ledger.accept([scene.letter()], "shop", "key", b"another")
            await put(pair, ledger, queue, accepted.ids[0])
            lease = await queue.take()
            assert lease.note is not None
            assert lease.note.id == accepted.ids[0]
            assert (await scene.end(lease.note.id, ACCEPTED)).state is State.SENT
            await queue.ack(lease)
            with trio.move_on_after(0.2):
                assert await queue.take() is None, "what is due in an hour has no note, and a replay puts none"


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_a_letter_that_a_person_releases_is_taken_again(opens: Opens, pair: Pair) -> None:
    with trio.fail_after(PATIENCE):
        async with opens(pair) as (ledger, queue):
            scene = scene_of(ledger)
            id = await scene.bring(State.HELD)
            if pair.one:
                await queue.ack(await queue.take())
            assert await scene.act(id, Verb.RELEASE)
            clerk = Clerk(ledger, queue, accounts=frozenset, delivering=lambda: True)
            await clerk.round()
            await clerk.round()
            lease = await queue.take()
            assert lease.note is not None
            assert lease.note.id == id
            assert (await scene.end(id, ACCEPTED)).state is State.SENT
            await queue.ack(lease)
            assert sum((await queue.statistics()).ready) == 0, "one note was put, not one for each round"


@asynccontextmanager
async def opened(directory: Path, ledger: str, *queues: str) -> AsyncIterator[Queue]:
    config = directory / "postman.toml"
    config.write_text(f'[ledger]\nurl = "{ledger}"\n[queue]\nurl = {list(queues)}\n{SMALLEST}')
    async with open_stores(set_up(load(config)), ClientFactory()) as (_, queue):
        yield queue


async def test_one_of_several_queues_may_be_down_at_the_start_and_its_password_is_not_shown(tmp_path: Path) -> None:
    nobody = f"redis://:secret@127.0.0.1:{free_port()}/3"
    async with opened(tmp_path, "sqlite:l.db", "sqlite:a.db", nobody) as queue:
        await queue.put([Note(Id("0x01"))])
        assert (await queue.take()).note == Note(Id("0x01"))
        [trouble] = (await queue.statistics()).troubles
        assert trouble.startswith(f"The queue {nobody.replace(':secret@', '')} is down; the others do its work:")


async def test_each_of_several_queues_must_fit_the_ledger(tmp_path: Path, redis_process: RedisServer) -> None:
    refused = pytest.RaisesExc(ConfigError, match="is shared")
    with pytest.RaisesGroup(refused, allow_unwrapped=True, flatten_subgroups=True):
        async with opened(tmp_path, "sqlite:l.db", "sqlite:a.db", redis_process.url):
            pass


def test_kinds_tell_which_pairs_may_start_before_they_are_opened() -> None:
    told = set()
    for ledger, queue in itertools.product(sorted({pair.ledger for pair in PAIRS}), sorted({p.queue for p in PAIRS})):
        try:
            refuse_pair(load_kind(LEDGERS, ledger), load_kind(QUEUES, queue))
        except ConfigError:
            continue
        told.add((ledger, queue))
    assert told == {(pair.ledger, pair.queue) for pair in PAIRS}


@pytest.mark.parametrize(("queue", "alone"), [("sqlite", "[ledger] and [queue]"), ("sqs", "[ledger]")])
def test_a_part_alone_is_told_which_stores_can_be_shared(queue: str, alone: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_part("http", load_kind(LEDGERS, "sqlite"), load_kind(QUEUES, queue))
    assert str(caught.value) == (
        f"--only http: {alone} cannot be shared with the process that delivers; give both a url of redis: or"
        " postgresql:, or the queue one of sqs:, or serve without --only"
    )
