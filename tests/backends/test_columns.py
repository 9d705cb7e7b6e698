from __future__ import annotations

from postman.backends.columns import NUMBERS, SLACK, first_id, hash_of, hashes_of, id_of, joined, key_of
from postman.ledger import Which
from postman.mail import Id
from postman.row import State

IDS = [Id(f"0x{number:016x}") for number in (0, 1, 2**42, 2**63 - 1, 2**63, 2**64 - 1)]


def test_keys_fit_a_signed_column_and_are_in_the_order_of_their_ids() -> None:
    keys = [key_of(id) for id in IDS]
    assert keys == sorted(keys)
    assert (keys[0], keys[-1]) == (-(2**63), 2**63 - 1)
    assert [id_of(key) for key in keys] == IDS


def test_states_keep_the_numbers_that_are_stored() -> None:
    ends = (State.SENT, State.REJECTED, State.FAILED, State.EXPIRED, State.CANCELLED)
    assert [NUMBERS[state] for state in (State.QUEUED, State.SENDING, State.IN_DOUBT, State.HELD)] == [0, 1, 2, 3]
    assert sorted(NUMBERS[state] for state in ends) == [4, 5, 6, 7, 8]


def test_the_first_id_since_a_time_is_before_all_that_were_made_an_hour_earlier_whatever_the_time() -> None:
    since = 1_800_000_000.0
    assert first_id(since) == Id(f"0x{int((since - SLACK) * 1_000) << 22:016x}")
    assert first_id(-1.0) == first_id(0.0) == IDS[0]
    assert first_id(1e300) <= IDS[-1]


def test_labels_are_told_apart_and_found_again_where_they_were_joined() -> None:
    labels: list[tuple[Which, str]] = [("to", "news"), ("tag", "news"), ("tag", "new")]
    hashes = [hash_of(label) for label in labels]
    assert len(set(hashes)) == len(labels)
    assert hashes_of(joined(labels)) == hashes
