"""Ids: never the same twice, always in order, whatever the clock does."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postman.flake import Flake, parts

NOW = 1_700_000_000.123
END = 2**42 / 1000
"""Where the milliseconds end, in 2109."""

clock_readings = st.lists(
    st.one_of(
        st.floats(min_value=-1e9, max_value=END - 10),
        st.sampled_from([0.0, NOW, NOW + 0.001, NOW - 3600, NOW + 86_400]),
    ),
    min_size=2,
    max_size=60,
)


@given(clock_readings, st.integers(0, 1023))
@settings(max_examples=100, deadline=None)
def test_ids_rise_and_sort_as_text_while_the_clock_jumps_anywhere(readings: list[float], node: int) -> None:
    times = iter(readings)
    flake = Flake(node, clock=lambda: next(times))
    ids = [flake.next_id() for _ in readings]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert all(int(a, 16) < int(b, 16) for a, b in pairwise(ids))
    assert {parts(int(text, 16)).node for text in ids} == {node}


@given(clock_readings)
@settings(max_examples=100, deadline=None)
def test_an_id_is_never_behind_the_clock(readings: list[float]) -> None:
    times = iter(readings)
    flake = Flake(clock=lambda: next(times))
    for reading in readings:
        assert parts(flake.next()).time >= int(reading * 1000) / 1000


def test_an_id_tells_time_node_and_sequence() -> None:
    flake = Flake(77, clock=lambda: NOW)
    assert parts(flake.next()) == (NOW, 77, 0)
    assert parts(flake.next()) == (NOW, 77, 1)


def test_an_id_known_from_2018_is_read_as_such() -> None:
    known = parts(0x587E6D1522401000)
    assert datetime.fromtimestamp(known.time, UTC) == datetime(2018, 3, 6, 5, 6, 40, 393_000, UTC)
    assert (known.node, known.sequence) == (1, 0)
    assert Flake(1, clock=lambda: known.time).next_id() == "0x587e6d1522401000"


def test_the_4097th_id_of_a_millisecond_borrows_from_the_next() -> None:
    flake = Flake(5, clock=lambda: NOW)
    ids = [flake.next() for _ in range(10_000)]
    assert len(set(ids)) == 10_000
    assert parts(ids[4095]) == (NOW, 5, 4095)
    assert parts(ids[4096]) == (1_700_000_000.124, 5, 0)
    assert parts(ids[-1]) == (1_700_000_000.125, 5, 10_000 - 2 * 4096 - 1)


def test_a_clock_that_goes_back_lets_the_sequence_go_on() -> None:
    readings = iter([NOW, NOW - 3600, NOW - 3600, NOW + 1])
    flake = Flake(5, clock=lambda: next(readings))
    assert [parts(flake.next()) for _ in range(4)] == [(NOW, 5, 0), (NOW, 5, 1), (NOW, 5, 2), (NOW + 1, 5, 0)]


def test_an_id_has_the_same_width_always() -> None:
    assert Flake(0, clock=lambda: 0.0).next_id() == "0x0000000000000000"
    assert Flake(1023, clock=lambda: END - 0.0005).next_id() == "0xfffffffffffff000"


def test_a_clock_past_the_last_millisecond_is_refused_and_harms_nothing() -> None:
    readings = iter([NOW, END, NOW])
    flake = Flake(1, clock=lambda: next(readings))
    flake.next()
    with pytest.raises(OverflowError, match="2109"):
        flake.next()
    assert parts(flake.next()) == (NOW, 1, 1)


def test_a_node_is_random_unless_pinned() -> None:
    assert Flake(1023).node == 1023
    nodes = {Flake().node for _ in range(200)}
    assert len(nodes) > 50
    assert nodes <= set(range(1024))


@pytest.mark.parametrize("node", [-1, 1024])
def test_a_node_that_does_not_fit_is_refused(node: int) -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.1023"):
        Flake(node)


def test_the_default_clock_is_now() -> None:
    before = datetime.now(UTC).timestamp()
    assert before - 0.001 <= parts(Flake().next()).time <= datetime.now(UTC).timestamp() + 0.001
