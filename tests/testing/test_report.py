from __future__ import annotations

import msgspec

from postman.row import Now, Policy, Row, State
from postman.testing.letters import a_letter
from postman.testing.report import report
from postman.transitions import accepted_row


def row(number: int, state: State) -> Row:
    return msgspec.structs.replace(accepted_row(a_letter(number), "", 0, Policy(), Now(0, 0)), state=state)


def test_every_letter_is_counted_for_what_became_of_it() -> None:
    states = [State.SENT, State.SENT, State.SENT, State.HELD, State.QUEUED, State.HELD]
    rows = [row(number, state) for number, state in enumerate(states)]
    ids = [str(row.id) for row in rows]
    taken = [ids[0], ids[1], ids[1], ids[1], ids[5], "0xnobody"]
    found = report([*ids, "0xgone"], taken, rows, recovered={ids[1]})
    assert found.lost == (ids[2], "0xgone"), "the ledger calls one sent that nobody took, and does not know the other"
    assert found.unexpected == ("0xnobody",)
    assert found.duplicated == {ids[1]: 2}
    assert (found.acked, found.accepted, found.told, found.waiting, found.recovered) == (7, 4, 1, 1, 1)
    assert "| duplicated | 2 |" in found.table()
