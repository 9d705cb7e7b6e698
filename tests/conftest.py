"""What all tests share."""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from postman.backends.postgres.server import Server
from postman.backends.redis.address import Address, RedisSettings, address_of
from postman.errors import leaf
from postman.testing.pairs import Places
from postman.testing.pairs import Server as PlaceServer
from postman.testing.postgres_server import NoServer, PostgresServer, postgres_server
from postman.testing.redis_server import RedisServer, redis_server
from postman.testing.sqs_server import SqsServer, fauxqs_server, moto_server

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Some tests have a long form."""
    parser.addoption("--long", action="store_true", help="run tests in their long form, which takes up to an hour")
    parser.addoption("--fuzz", type=float, default=9.0, metavar="SECONDS", help="so long each of seven fuzzers runs")
    parser.addoption("--fuzz-seed", type=int, default=0, metavar="N", help="where each fuzzer begins")
    parser.addoption("--seeds", type=int, default=300, metavar="N", help="so many runs are simulated")
    parser.addoption("--seed", type=int, metavar="N", help="the run that is simulated, instead of many")


def pytest_configure() -> None:
    """What a shell runs in the background ignores SIGINT, and so would the programs that tests start.

    A configuration that everybody may write is refused, and so would those be that tests write.
    """
    os.umask(0o022)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def not_there() -> Callable[[str], set[str]]:
    """Which names in the last column of a table, whose rows begin with `| F1 |` or the like, are no test."""
    files = [
        *ROOT.glob("tests/**/test_*.py"),
        *ROOT.glob("plugins/*/tests/test_*.py"),
        *ROOT.glob("postman/testing/**/check_*.py"),
        *ROOT.glob("postman/testing/check_*/*.py"),
    ]
    there = set(re.findall(r"^ *(?:async )?def (\w+)", "\n".join(path.read_text() for path in files), re.MULTILINE))

    def not_there(table: str) -> set[str]:
        named = re.findall(r"^\| [A-Z]\d.* (\w+) \|$", table, re.MULTILINE)
        assert len(named) > 40
        return set(named) - there

    return not_there


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form is asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Callable[[], Iterator[random.Random]]]:
    """Gives a source of chance for each round, until the time is over; at least one. Tells the seed that failed.

    `--fuzz SECONDS` fuzzes longer, `--fuzz-seed N` begins where a round failed.
    """
    seed: int = request.config.getoption("--fuzz-seed")
    seconds: float = request.config.getoption("--fuzz")
    failed = request.session.testsfailed

    def rounds() -> Iterator[random.Random]:
        nonlocal seed
        end = time.monotonic() + seconds
        while True:
            yield random.Random(seed)
            seed += 1
            if time.monotonic() > end:
                return

    yield rounds
    if request.session.testsfailed > failed:
        print(f"again: --fuzz-seed {seed} --fuzz 0")  # noqa: T201  # pytest shows it with the failure


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[PostgresServer]:
    """A server for all tests that do not stop it."""
    with _own_postgres() as server:
        yield server


@pytest.fixture
def mortal_postgres() -> Iterator[PostgresServer]:
    """A server that a test may kill."""
    with _own_postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_process: PostgresServer) -> Server:
    """An empty schema, of which nobody else knows."""
    return Server(postgres_process.url, f"postman_{secrets.token_hex(4)}")


@contextmanager
def _own_postgres() -> Iterator[PostgresServer]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres_server())
        except NoServer as error:
            pytest.skip(f"no PostgreSQL here: {error}")
        yield server


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests that do not stop it."""
    with _own_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may kill."""
    with _own_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def redis(redis_process: RedisServer) -> Address:
    """A prefix of keys, of which nobody else knows."""
    return address_of(RedisSettings(url=redis_process.url, prefix=secrets.token_hex(4)))


@pytest.fixture(scope="session")
def sqs_process(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[SqsServer]:
    """A server for all tests that do not turn its clock. In moto each message costs a look at all, in fauxqs none."""
    serve = fauxqs_server if request.config.getoption("--long") else moto_server
    with serve(tmp_path_factory.mktemp("sqs")) as server:
        yield server


@pytest.fixture
def aws_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account, and nothing of the account of whoever runs the tests."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def places(request: pytest.FixtureRequest) -> Places:
    """Empty places on every engine."""
    fixtures = {"postgresql": "postgres_process", "redis": "redis_process", "sqs": "sqs_process"}
    return Places(lambda engine: request.getfixturevalue(fixtures[engine]))


@pytest.fixture
def mortal_places(mortal_postgres: PostgresServer, mortal_redis: RedisServer, sqs_process: SqsServer) -> Places:
    """Empty places on every engine; two of its servers may be killed."""
    servers: dict[str, PlaceServer] = {"postgresql": mortal_postgres, "redis": mortal_redis, "sqs": sqs_process}
    return Places(lambda engine: servers[engine])


@contextmanager
def _own_redis(directory: Path) -> Iterator[RedisServer]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(redis_server(directory))
        except LookupError as error:
            pytest.skip(f"no Redis here: {error}")
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """pytest-trio wraps what a test raises in an ExceptionGroup: a group of one leaf is shown as that leaf."""
    try:
        return (yield)
    except BaseExceptionGroup as group:
        one = leaf(group)
        if one is group:
            raise
        raise one from one.__cause__
