"""Who is named for delivering much less than the others."""

from __future__ import annotations

import socket

import msgspec
import pytest
import trio
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.ledger import Instance
from postman.roster import PERIOD, Roster, Share, lagging

SECONDS = 300.0


def named(*delivered: int, seconds: tuple[float, ...] = ()) -> list[str]:
    times = seconds or (SECONDS,) * len(delivered)
    shares = [Share(str(n), count, time) for n, (count, time) in enumerate(zip(delivered, times, strict=True))]
    return [share.name for share, _ in lagging(shares)]


@pytest.mark.parametrize(
    ("delivered", "who"),
    [
        ((), []),
        ((400,), []),
        ((0, 0, 0), []),
        ((400, 410), []),
        ((400, 100), []),
        ((400, 79), ["1"]),
        ((400, 80), []),
        ((3, 410, 410), ["0"]),
        ((0, 19, 19), []),
        ((0, 20, 20), ["0"]),
        ((0, 0, 410, 410), ["0", "1"]),
    ],
)
def test_who_delivers_much_less_than_the_average_of_the_others_is_named(
    delivered: tuple[int, ...], who: list[str]
) -> None:
    assert named(*delivered) == who


def test_who_has_fewer_workers_or_came_later_is_measured_by_its_own_time() -> None:
    assert named(400, 40, seconds=(1_000.0, 100.0)) == []
    assert named(400, 4, seconds=(1_000.0, 100.0)) == ["1"]
    assert named(400, 0, seconds=(1_000.0, 0.0)) == [], "it takes mail only, or has just begun"


class Hands:
    """A postbox whose workers deliver what a test says."""

    def __init__(self, workers: int) -> None:
        self.counts = [0] * workers
        self.in_service = True

    def delivered(self) -> list[int]:
        return list(self.counts)

    def asking(self) -> list[object]:
        return []

    def available(self) -> bool:
        return self.in_service


async def rounds(roster: Roster, hands: Hands, *each: int, count: int = 8, waits: bool = True) -> None:
    for _ in range(count):
        await trio.sleep(PERIOD)
        hands.counts = [before + more for before, more in zip(hands.counts, each, strict=True)]
        await roster.look(waits=waits)


async def test_a_worker_that_hangs_while_mail_waits_is_named(autojump_clock: MockClock) -> None:
    hands = Hands(3)
    roster = Roster(MemoryLedger(), hands, workers=3, only="")  # type: ignore[arg-type]  # as much as it asks for
    await rounds(roster, hands, 0, 9, 9, waits=False)
    assert list(roster.sentences()) == [], "nothing waited"
    hands.in_service = False
    await rounds(roster, hands, 0, 9, 9)
    assert list(roster.sentences()) == [], "nothing could leave"
    hands.in_service = True
    await rounds(roster, hands, 0, 9, 9)
    (sentence,) = roster.sentences()
    assert "0 (asks nobody now) delivered 0 mails or fewer" in sentence
    assert "the others makes 72" in sentence


async def test_an_instance_that_starves_is_named_by_the_others_and_by_itself(autojump_clock: MockClock) -> None:
    other = Instance(id="b", name="web-2", pid=17, workers=2, delivered=410, seconds=120.0)

    class Shared(MemoryLedger):
        async def enrol(self, instance: Instance) -> list[Instance]:
            return [instance, other]

    hands = Hands(2)
    roster = Roster(Shared(), hands, workers=2, only="")  # type: ignore[arg-type]  # as much as it asks for
    await rounds(roster, hands, 1, 1)
    (sentence,) = roster.sentences()
    assert f"(pid {roster.me.pid}) delivered 16 mails" in sentence
    await rounds(roster, hands, 100, 100, count=20)
    assert [sentence for sentence in roster.sentences() if "web-2 (pid 17) delivered 410" in sentence] == []
    other = msgspec.structs.replace(other, delivered=3)
    await rounds(roster, hands, 100, 100, count=1)
    (sentence,) = roster.sentences()
    assert "Instance web-2 (pid 17) delivered 3 mails" in sentence


class Together(MemoryLedger):
    """A ledger of several instances."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, Instance] = {}

    async def enrol(self, instance: Instance) -> list[Instance]:
        self.said[instance.id] = msgspec.structs.replace(instance, at=trio.current_time())
        if instance.left:
            del self.said[instance.id]
        return list(self.said.values())

    def roster(self, hands: Hands, only: str = "") -> Roster:
        return Roster(self, hands, workers=1, only=only)  # type: ignore[arg-type]  # as much as it asks for


async def test_an_instance_that_says_nothing_any_more_is_named_unless_it_was_stopped(autojump_clock: MockClock) -> None:
    hands, ledger = Hands(1), Together()
    me, other = ledger.roster(hands), ledger.roster(hands)
    await me.look(waits=False)
    await other.look(waits=False)
    await rounds(me, hands, 0, count=4)
    assert (len(me.instances), list(me.sentences())) == (2, [])
    await rounds(me, hands, 0, count=1)
    (sentence,) = me.sentences()
    assert "has said nothing for 75 s: it hangs, was killed, or does not reach the ledger" in sentence
    await other.leave()
    await other.look(waits=False)
    await rounds(me, hands, 0, count=1)
    assert (len(me.instances), list(me.sentences())) == (1, [])


@pytest.mark.parametrize(
    ("machines", "left"),
    [(["here"] * 5, 0), (["there"], 0), (["there", "there", "elsewhere"], 2), (["here", "there"], 1)],
)
async def test_those_that_were_killed_are_named_until_others_of_their_kind_were_started_in_their_place(
    autojump_clock: MockClock, machines: list[str], left: int
) -> None:
    hands, ledger = Hands(1), Together()
    neighbour = ledger.roster(hands, "http")
    for number, machine in enumerate(machines):
        name = socket.gethostname() if machine == "here" else machine
        await ledger.enrol(Instance(id=f"{number}", name=name, pid=number, only="workers"))
    await rounds(neighbour, hands, 0, count=40)
    told = list(neighbour.sentences())
    assert len(told) == min(len(machines), 4), "after ten minutes still"
    assert "So have 2 more" in told[-1] or len(machines) < 5
    following = ledger.roster(hands, "workers")
    await rounds(following, hands, 0, count=3)
    assert len(list(following.sentences())) == left
    await rounds(neighbour, hands, 0, count=1)
    assert (len(list(neighbour.sentences())), len(ledger.said)) == (left, left + 2)


async def test_that_nobody_delivers_is_told(autojump_clock: MockClock) -> None:
    roster = Roster(MemoryLedger(), Hands(0), workers=0, only="http")  # type: ignore[arg-type]  # as much as it asks for
    assert list(roster.sentences()) == [], "nothing is known yet"
    await roster.look(waits=False)
    assert list(roster.sentences()) == [], "functions may deliver it, which are not on the roster"
    await roster.look(waits=True)
    (sentence,) = roster.sentences()
    assert "--only workers" in sentence


async def test_who_is_not_heard_of_does_not_count_as_one_who_delivers(autojump_clock: MockClock) -> None:
    silent = Instance(id="b", name="web-2", pid=17, workers=2, at=-100.0)

    class Shared(MemoryLedger):
        async def enrol(self, instance: Instance) -> list[Instance]:
            return [instance, silent]

    roster = Roster(Shared(), Hands(0), workers=0, only="http")  # type: ignore[arg-type]  # as much as it asks for
    await roster.look(waits=True)
    nobody, gone = roster.sentences()
    assert "nobody delivers it" in nobody
    assert "Instance web-2 (pid 17) has said nothing for 100 s" in gone
