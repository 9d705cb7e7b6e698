"""The whole way of letters in one deterministic run, with everything going wrong, and what must hold nevertheless.

Real are intake, delivery, postbox, carriers, breakers, guard, room, workers, clerk and the decisions of the ledger.
Simulated are time, chance, the order of tasks, the stores' faults, the vendors, and the death of whole instances. All
of it follows from one number, the seed:

    report = simulate(42)
    assert not report.broken, report

| file     | what                                                             |
|----------|------------------------------------------------------------------|
| dice     | chance: what goes wrong in this run, and how often               |
| truth    | what really happened, which nobody inside can know               |
| stores   | ledger and queue as one instance sees them through a bad network |
| vendor   | providers that do everything that providers do                   |
| instance | one process: its workers, its clerk, its death                   |
| move     | the backlog moves to another ledger                              |
| world    | clients, a person, a nemesis; then rest                          |
| laws     | what is broken, seen from the truth                              |

A run does not depend on the hash seed, the machine or the speed: `Report.digest` is the same for the same code.
"""

from __future__ import annotations

from postman.testing.simulation.instance import Parts
from postman.testing.simulation.run import Report, simulate
from postman.testing.simulation.stores import SimulatedLedger

__all__ = ["Parts", "Report", "SimulatedLedger", "simulate"]
