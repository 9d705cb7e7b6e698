"""Seeded nonsense at every place where bytes of others come in; see the fixture `fuzz` for its options."""

from __future__ import annotations

import contextlib
import email.headerregistry
import email.policy
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import msgspec
import trio

import postman_plugin_mailgun as mailgun  # type: ignore[import-untyped,unused-ignore]  # known when all is checked
import postman_plugin_sendgrid as sendgrid  # type: ignore[import-untyped,unused-ignore]  # the same
from postman.address import BadAddress, parse_email
from postman.backends.sqlite.ledger import open_both
from postman.clerk import Clerk
from postman.config import Http, load
from postman.errors import ConfigError, DamagedRow, OutcomeUnknown, ProviderError, StoreError
from postman.http.parse import parse
from postman.http.reader import Invalid
from postman.kind import Surroundings
from postman.ledger import Call, Claim, Filter, LedgerSettings
from postman.mail import Id, Letter
from postman.provider import Attempt, Receipt
from postman.queue import Note, QueueSettings
from postman.registry import set_up
from postman.row import State
from postman.testing import acts
from postman.testing.fault_server import open_fault_server
from postman.testing.letters import LETTERS, a_letter
from postman.wire import ClientFactory
from postman_plugin_smtp.message import render  # type: ignore[import-untyped,unused-ignore]  # the same

type Rounds = Callable[[], Iterator[random.Random]]

WORDS = [
    "", " ", "\r\n", "\n.\r\n", "\0", "\ud800", "=?utf-8?q?=0Ax?=", "ann@example.org", "a@b", "@", "xn--", "é",
    "x" * 300, "bcc", "2026-11-24T09:00:00Z", "9999-12-31T23:59:59Z", "text/plain", "text/html", "inline", "resend",
    "high", "aGk=", "X-A", "postman-id", "..", "a/b", "\u202e", "🚚", "{}", "*", "0x0000000000000001",
]  # fmt: skip
VALUES: list[Any] = [None, True, 0, -1, 1e400, 10**30, [], {}, [[]], [{}], {"email": "bob@example.org"}, *WORDS]


def a_tree(chance: random.Random) -> object:
    """A request with some of its values replaced, left out or doubled."""
    letter = chance.choice(list(LETTERS.values()))
    tree = [json.loads(msgspec.json.encode(letter.mail))]
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        here: Any = tree
        while isinstance(here, list | dict) and here:
            key = chance.choice(list(here) if isinstance(here, dict) else range(len(here)))
            if chance.random() < 0.4 or not isinstance(here[key], list | dict):
                change(chance, here, key)
                break
            here = here[key]
    return tree


def change(chance: random.Random, here: Any, key: Any) -> None:  # noqa: ANN401  # any JSON
    match chance.randrange(4):
        case 0:
            here[key] = chance.choice(VALUES)
        case 1:
            del here[key]
        case 2 if isinstance(here, dict):
            here[chance.choice(WORDS)] = here[key]
        case _:
            here[key] = [here[key]] * chance.choice([1, 2, 101]) if isinstance(here, list) else chance.choice(WORDS)


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, cut out or put in."""
    raw = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        place = chance.randrange(len(raw) + 1)
        match chance.randrange(3):
            case 0 if place < len(raw):
                raw[place] = chance.randrange(256)
            case 1:
                del raw[place : place + chance.randrange(20)]
            case _:
                raw[place:place] = chance.choice(
                    [chance.randbytes(3), *(word.encode("utf-8", "replace") for word in WORDS)]
                )
    return bytes(raw)


CONFIGURATION = """\
node = 7
http.bind = "127.0.0.1:8901"
http.max-body = 31_457_280
http.fair-rate = 10
[[http.key]]
name = "shop"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
scopes = ["send", "read"]
from = ["example.com"]
rate = 100
expires = 2027-01-01T00:00:00Z
[ledger]
url = "redis://ann:secret@db.example.com:6379/1?prefix=mail&timeout=5&wait=1"
retention = 2_592_000
[queue]
url = ["redis://db.example.com", "sqs://eu-central-1/mail?lanes=3", "postgresql://ann@db.example.com/mail?schema=mail"]
visibility-timeout = 60
[delivery]
workers = 64
on-doubt = "hold"
[[provider]]
name = "primary"
plugin = "sendgrid"
rate = 10
from-domains = ["example.com"]
suppressed = "fail-over"
settings = { api-key = { env = "HOME" }, base-url = "https://api.example.com" }
[[provider]]
name = "backup"
plugin = "smtp"
weight = 0
settings = { host = "smtp.example.com", port = 587, security = "tls", username = "ann", password = { env = "HOME" } }
"""
LITERALS = [
    '""', '" "', '"\\u0000"', '"\\uFFFF"', '"é@[::1"', "-1", "0", "0.5", "1e400", "nan", "true", "[]", "[[]]", "{}",
    "1" * 5_000, '{ env = "HOME" }', '{ env = "" }', '{ file = "." }', '{ file = "\\u0000" }', "2026-01-01",
    "10:00:00", f'"{"x" * 300}"', '"sqlite:"', '"sqlite://x"', '"sqlite:no/x"', '"redis://["', '"redis://h:x"',
    '"sqs:"', '"sqs://eu-central-1/a b"', '"postgresql://%zz@h"', '"memory:?x=1&x=2"', '"127.0.0.1:99999"',
    '"[::1]:1"', '["memory:", "memory:"]', '"http://[::1"',
]  # fmt: skip


def a_configuration(chance: random.Random) -> bytes:
    """A postman.toml with some of its values replaced, its lines doubled or left out, or its bytes changed."""
    lines = CONFIGURATION.splitlines()
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        place = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                del lines[place]
            case 1:
                lines[place:place] = [chance.choice(lines)]
            case _ if " = " in lines[place]:
                lines[place] = f"{lines[place].partition(' = ')[0]} = {chance.choice(LITERALS)}"
    raw = "\n".join(lines).encode()
    return mutated(chance, raw) if chance.random() < 0.3 else raw


def test_a_configuration_is_refused_in_words_or_can_be_set_up(fuzz: Rounds, tmp_path: Path) -> None:
    path = tmp_path / "postman.toml"
    path.touch(0o600)
    taken = 0
    for chance in fuzz():
        path.write_bytes(a_configuration(chance))
        try:
            set_up(load(path))
            taken += 1
        except ConfigError as error:
            assert str(error).startswith(("postman.toml", str(path)))  # noqa: PT017  # it may be raised, or not
    assert taken


def test_what_is_posted_is_refused_with_its_places_or_can_be_written_by_every_plugin(fuzz: Rounds) -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    accepted = 0
    for chance in fuzz():
        body = json.dumps(a_tree(chance)).encode()
        try:
            mails = parse(mutated(chance, body) if chance.random() < 0.3 else body, Http(), now)
        except Invalid as error:
            assert error.errors  # noqa: PT017  # it may be raised, or not
            msgspec.json.encode(error.errors)
            continue
        accepted += len(mails)
        for mail in mails:
            letter = Letter(id=Id("0x0000000000000001"), mail=mail, accepted=now)
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(letter), type=Letter) == letter
            for write in (sendgrid.payload, mailgun.payload, render):
                with contextlib.suppress(ProviderError):
                    msgspec.json.encode(write(letter))
    assert accepted


def test_an_address_that_is_read_is_one_mailbox_for_others_too(fuzz: Rounds) -> None:
    alphabet = [*'ab@.-_+"()<>,;: \\[]\r\néß。\u200d', "xn--", "example.org", "bob@evil.example"]
    read = 0
    for chance in fuzz():
        for _ in range(100):
            text = "".join(chance.choices(alphabet, k=chance.randrange(1, 9)))
            text = chance.choice([text, f"{text}@example.org", f"ann@{text}.org", f"ann@example.org{text}"])
            with contextlib.suppress(BadAddress):
                address = parse_email(text)
                assert parse_email(address) == address
                seen = email.headerregistry.Address(addr_spec=address)
                assert f"{seen.username}@{seen.domain}" == address
                read += 1
    assert read


ANSWERS = [
    b"HTTP/1.1 202 Accepted\r\nX-Message-Id: abc\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 31\r\n\r\n{"id": "<a@b>", "message": "q"}\n',
    b'HTTP/1.1 400 Bad Request\r\nContent-Length: 52\r\n\r\n{"errors": [{"message": "no", "field": "from.email"}]}',
    b"HTTP/1.1 100 Continue\r\n\r\n"  # noqa: ISC004  # one answer after another
    b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    b"HTTP/1.1 429 Slow\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n\x1f\x8b\x08\x00\x00",
]


async def test_whatever_a_provider_answers_the_call_ends_in_the_closed_list_and_never_as_unsent(fuzz: Rounds) -> None:
    letter = a_letter()
    ends: set[type] = set()
    async with (
        open_fault_server(otherwise=acts.answer(202)) as vendor,
        ClientFactory()(base_url=vendor.url) as client,
    ):
        for chance in fuzz():
            vendor.script(acts.garbage(mutated(chance, chance.choice(ANSWERS))))
            attempt = Attempt("k", lease_ends=float("inf"))
            with trio.fail_after(5):
                try:
                    answer = await client.post("/", attempt=attempt, json=sendgrid.payload(letter))
                except OutcomeUnknown as error:
                    ends.add(type(error))
                    continue
            for read in (sendgrid.receipt, mailgun.receipt):
                try:
                    assert isinstance(read(answer), Receipt)
                    assert answer.ok
                except ProviderError as error:
                    ends.add(type(error))
    assert len(ends) > 1


async def test_damage_in_the_ledger_or_the_queue_stops_no_sound_letter(fuzz: Rounds, tmp_path: Path) -> None:
    for chance in fuzz():
        path = tmp_path / f"{chance.random()}.db"
        settings = LedgerSettings(url=f"sqlite:{path}"), QueueSettings(url=f"sqlite:{path}")
        surroundings = Surroundings("test", 1, 1.0, ClientFactory())
        letters = [a_letter(number) for number in range(1, 9)]
        async with open_both(*settings, surroundings) as (ledger, _):
            await ledger.accept(letters, "shop", None, b"")
            for letter in chance.sample(letters, 3):
                await ledger.claim(letter.id, [LAMDA])
        damaged = damage(path, chance)
        async with open_both(*settings, surroundings) as (ledger, queue):
            clerk = Clerk(ledger, queue, accounts=frozenset, delivering=lambda: True)
            await clerk.round()
            await ledger.find(Filter(), None, 100)
            await ledger.statistics()
            taken: dict[Id, str] = {}
            while sum((await queue.statistics()).ready):
                lease = await queue.take()
                assert lease.note is not None
                try:
                    claim = await ledger.claim(lease.note.id, [LAMDA])
                except DamagedRow:
                    assert lease.note.id in damaged
                else:
                    assert not isinstance(claim, Claim) or claim.letter in letters, "what is sent is as it was"
                    taken[lease.note.id] = type(claim).__name__
                await queue.ack(lease)
            for letter in letters:
                if letter.id not in damaged:
                    row = await ledger.read(letter.id, None)
                    assert row is not None
                    assert row.state in {State.SENDING, State.IN_DOUBT, State.HELD}, (row.state, taken)


LAMDA = Call("lamda", "", 30)


PLACES = [
    ("letter", "row", "key"),
    ("body", "letter", "key"),
    *(("note", column, "id") for column in ("id", "size", "version", "due", "lane")),
]
NONSENSE = [b"\xff", "", "x", -1, 2**62, 1e300, 3.5]


def damage(path: Path, chance: random.Random) -> set[Id]:
    """Change some values of some letters; their ids."""
    damaged = set()
    connection = apsw.Connection(str(path))
    for _ in range(chance.choice([1, 2, 4])):
        table, column, key = chance.choice(PLACES)
        number = chance.randrange(1, 9)
        id = Id(f"0x{number:016x}")
        damaged.add(id)
        where = number - 2**63 if key == "key" else id
        old = connection.execute(f"SELECT {column} FROM {table} WHERE {key} = ?", (where,)).get  # noqa: S608  # PLACES
        new: Any = mutated(chance, old) if isinstance(old, bytes) else chance.choice(NONSENSE)
        with contextlib.suppress(apsw.ConstraintError):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (new, where))  # noqa: S608  # PLACES
    connection.close()
    return damaged


async def test_a_file_with_flipped_bits_opens_or_is_refused(fuzz: Rounds, tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    settings = LedgerSettings(url=f"sqlite:{path}"), QueueSettings(url=f"sqlite:{path}")
    surroundings = Surroundings("test", 1, 1.0, ClientFactory())
    async with open_both(*settings, surroundings) as (ledger, _):
        await ledger.accept([a_letter(number) for number in range(1, 33)], "shop", None, b"")
    sound = path.read_bytes()
    for chance in fuzz():
        raw = bytearray(sound)
        for _ in range(chance.choice([1, 8, 200])):
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        path.write_bytes(raw)
        with contextlib.suppress(StoreError):
            async with open_both(*settings, surroundings) as (ledger, queue):
                for number in range(1, 33):
                    with contextlib.suppress(StoreError):
                        claim = await ledger.claim(Id(f"0x{number:016x}"), [LAMDA])
                        assert not isinstance(claim, Claim) or claim.letter == a_letter(number)
                with contextlib.suppress(StoreError):
                    await ledger.find(Filter(), None, 100)
                    await ledger.overdue(100)
                    await queue.put([Note(Id("0x0000000000000001"))])
