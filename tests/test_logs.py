"""Logs are configured for a whole process, so each test has one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from postman.logs import LONGEST, Writer, sanitise


def logged(program: str, *, pretty: bool = False, level: str = "info") -> str:
    """What a program says on stderr that logs as it is told."""
    start = f"import logging, structlog\nfrom postman import logs\nlogs.configure({level!r}, pretty={pretty})\n"
    code = f"{start}log = structlog.get_logger()\n{program}\n"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert ended.stdout == ""
    return ended.stderr


def test_a_line_is_json_with_time_level_and_event_first() -> None:
    line = json.loads(logged("log.info('sent', id='0x1', attempts=2, ms=1.5, ok=True, provider=None)"))
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert {**line, "timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "event": "sent",
        "id": "0x1",
        "attempts": 2,
        "ms": 1.5,
        "ok": True,
        "provider": None,
    }


def test_a_person_at_a_terminal_gets_words() -> None:
    line = logged("log.warning('held', id='0x1')", pretty=True)
    assert "held" in line
    assert not line.startswith("{")


def test_what_is_below_the_level_is_not_written() -> None:
    program = "log.debug('a'); log.info('b'); log.warning('c'); log.error('d')"
    assert [json.loads(line)["event"] for line in logged(program, level="warning").splitlines()] == ["c", "d"]
    assert logged("log.error('a'); logging.error('b')", level="critical") == ""


def test_libraries_are_heard_from_warnings_on_in_the_same_form() -> None:
    lines = logged("logging.getLogger('x').info('a'); logging.getLogger('x').warning('b %s', 'c')").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["b c"]


@pytest.mark.parametrize("pretty", [False, True])
def test_a_value_cannot_forge_a_line(*, pretty: bool) -> None:
    forged = r"'x\n{\"level\": \"error\"}\r\x1b[2J\u2028\u202e'"
    for program in (f"log.info('e', reason={forged})", f"log.info({forged})", f"logging.warning({forged})"):
        said = logged(program, pretty=pretty)
        assert said.count("\n") == 1
        assert "\x1b[2J" not in said
        assert "\u202e" not in said
        if not pretty:
            json.loads(said)


FAILING = (
    "def f():\n    secret = 'a-' + 'canary'\n    try: {}['k' + 'ey']\n"
    "    except KeyError: raise ValueError('w' + 'hy')\n"
    "def g():\n    try: f()\n    except ValueError as e: raise ExceptionGroup('ev' + 'ery', [e])\n"
    "try: g()\nexcept ExceptionGroup: log.exception('bug')"
)


@pytest.mark.parametrize("pretty", [False, True])
def test_a_traceback_is_written_without_the_values_of_variables_and_without_words_of_exceptions(
    *, pretty: bool
) -> None:
    said = logged(FAILING, pretty=pretty)
    assert all(name in said for name in ("KeyError", "ValueError", "ExceptionGroup", "in f"))
    assert not any(word in said for word in ("a-canary", "why", "every", "'key'"))


def test_whoever_asks_for_debug_is_told_the_words_of_exceptions() -> None:
    said = logged(FAILING, level="debug")
    assert "ValueError: why" in said
    assert "KeyError: 'key'" in said
    assert "a-canary" not in said


def test_an_endless_value_is_cut() -> None:
    event = sanitise(None, "", {"event": "x", "reason": "y" * 10 * LONGEST, "names": ["z" * 10 * LONGEST] * 1_000})
    assert len(event["reason"]) < LONGEST + 50
    assert len(str(event["names"])) < 101 * (LONGEST + 50)


def test_a_secret_is_shown_as_none() -> None:
    assert "canary" not in logged("from postman.secret import Secret\nlog.info('x', key=Secret('canary'))")


def test_a_reader_that_stops_reading_blocks_nobody_and_what_is_lost_is_counted() -> None:
    reading, writing = os.pipe()
    writer = Writer(writing, capacity=10)
    line = "x" * 4_000 + "\n"
    began = time.monotonic()
    for _ in range(1_000):
        writer.write(line)
    assert time.monotonic() - began < 5
    lost = writer.dropped
    assert lost > 0
    with os.fdopen(reading) as reader:
        told = ""
        whole = 0
        while not told:
            said = reader.readline()
            whole += said == line
            told = "" if said == line else said
        assert told == f"{lost} log lines were dropped: nobody read them in time\n"
        assert whole == 1_000 - lost
        writer.close()
        os.close(writing)


def test_closing_waits_only_so_long_for_a_reader_that_does_not_read() -> None:
    reading, writing = os.pipe()
    writer = Writer(writing, capacity=10)
    for _ in range(100):
        writer.write("x" * 4_000 + "\n")
    began = time.monotonic()
    writer.close(patience=0.05)
    assert time.monotonic() - began < 2
    os.close(reading)  # lets the thread end
    os.close(writing)


def test_a_reader_that_is_gone_or_a_pipe_that_does_not_block_is_borne() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = Writer(writing, capacity=1_000)
    for _ in range(100):
        writer.write("x" * 4_000 + "\n")
    assert len(os.read(reading, 100_000)) > 0
    os.close(reading)
    writer.write("y\n")
    writer.close(patience=5)
    os.close(writing)
    assert writer.dropped > 0


def test_text_that_cannot_be_encoded_is_written_all_the_same() -> None:
    reading, writing = os.pipe()
    writer = Writer(writing)
    writer.write("\ud800\n")
    writer.close()
    assert os.read(reading, 100) == b"\\ud800\n"
    os.close(reading)
    os.close(writing)
