"""The choice among providers: who is asked first, who takes over, who probes, who waits."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from postman.breaker import Breaker, State
from postman.errors import MailRefused, ProviderError, ProviderUnavailable
from postman.mail import Letter
from postman.provider import Attempt, Receipt
from postman.sending.carrier import Carrier, Terms, blame
from postman.sending.postbox import STAY, Postbox, Turn, deal


class Silent:
    async def send(self, letter: Letter, attempt: Attempt) -> Receipt:
        raise AssertionError("not asked in these tests")


def make(name: str, *, weight: int = 1, max_concurrent: int | None = None, rate: float | None = None) -> Carrier:
    breaker = Breaker(is_fault=blame, probe_delay=lambda _: 30.0, faults_in_a_row=3, clock=trio.current_time)
    terms = Terms(name=name, account="", weight=weight, max_concurrent=max_concurrent, rate=rate)
    return Carrier(Silent(), terms, breaker, clock=trio.current_time)


def postbox(*carriers: Carrier, workers: int = 1) -> Postbox:
    return Postbox(carriers, workers, chance=random.Random(1))


def order(turn: Turn) -> list[tuple[str, bool]]:
    return [(call.provider, call.ready) for call in turn.calls()]


def end(turn: Turn, name: str, error: ProviderError | None = None) -> None:
    turn.calls()
    try:
        with turn.call(name):
            if error:
                raise error
    except ProviderError:
        pass


def break_open(carrier: Carrier) -> None:
    while carrier.breaker.state is not State.OPEN:
        try:
            with carrier.call():
                raise ProviderUnavailable("down")
        except ProviderUnavailable:
            pass


@pytest.mark.parametrize(
    ("weights", "workers", "expected"),
    [
        ((1, 1), 64, [32, 32]),
        ((1, 1), 3, [2, 1]),
        ((3, 1), 64, [48, 16]),
        ((1, 0), 8, [8, 0]),
        ((0, 0), 8, [8, 0]),
        ((1, 1, 1), 64, [22, 21, 21]),
        ((1000, 1), 4, [4, 0]),
    ],
)
async def test_primaries_are_dealt_by_weight(weights: tuple[int, ...], workers: int, expected: list[int]) -> None:
    carriers = [make(str(i), weight=weight) for i, weight in enumerate(weights)]
    dealt = Counter(c.name for c in deal(carriers, workers, random.Random(1)))
    assert [dealt[c.name] for c in carriers] == expected


async def test_64_workers_on_two_equal_providers_start_32_and_32() -> None:
    box = postbox(make("a"), make("b"), workers=64)
    first: Counter[str] = Counter()
    for worker in range(64):
        with await box.wait_available(worker) as turn:
            first[turn.calls()[0].provider] += 1
    assert first == {"a": 32, "b": 32}


async def test_fall_backs_come_last_in_the_order_of_the_file() -> None:
    box = postbox(make("x", weight=0), make("y", weight=0), make("a"), make("b"))
    with await box.wait_available(0) as turn:
        names = [call.provider for call in turn.calls()]
    assert set(names[:2]) == {"a", "b"}
    assert names[2:] == ["x", "y"]


async def test_whoever_takes_over_becomes_current_until_the_primary_is_due_again(autojump_clock: MockClock) -> None:
    box = postbox(make("lamda"), make("delta", weight=0))
    with await box.wait_available(0) as turn:
        end(turn, "lamda", ProviderUnavailable("down"))
        assert order(turn) == [("delta", True), ("lamda", False)]
        end(turn, "delta")
    with await box.wait_available(0) as turn:
        assert order(turn)[0] == ("delta", True)
        end(turn, "delta", ProviderUnavailable("down"))
        end(turn, "lamda")
    with await box.wait_available(0) as turn:
        assert order(turn)[0] == ("lamda", True)
        end(turn, "lamda", ProviderUnavailable("down"))
        end(turn, "delta")
    await trio.sleep(STAY)
    with await box.wait_available(0) as turn:
        assert order(turn)[0] == ("lamda", True)


async def test_a_provider_that_refused_one_mail_stays_the_worker_s_first() -> None:
    box = postbox(make("lamda"), make("delta", weight=0))
    with await box.wait_available(0) as turn:
        end(turn, "lamda", MailRefused("not here"))
        end(turn, "delta")
    with await box.wait_available(0) as turn:
        assert order(turn)[0] == ("lamda", True)


async def test_workers_wait_while_nothing_is_available_and_one_of_them_probes(autojump_clock: MockClock) -> None:
    lamda = make("lamda")
    box = postbox(lamda, workers=5)
    break_open(lamda)
    passed: list[float] = []
    go_on = trio.Event()

    async def work(worker: int) -> None:
        with await box.wait_available(worker) as turn:
            passed.append(trio.current_time())
            if len(passed) == 1:
                await go_on.wait()
                end(turn, "lamda")

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for worker in range(5):
            nursery.start_soon(work, worker)
        await trio.sleep(100)
        assert passed == [pytest.approx(began + 30)]
        go_on.set()
    assert len(passed) == 5


async def test_a_worker_that_went_to_another_provider_probes_its_primary_once_that_may_be_asked(
    autojump_clock: MockClock,
) -> None:
    lamda, delta = make("lamda"), make("delta", weight=0)
    box = postbox(lamda, delta)
    with await box.wait_available(0) as turn:
        end(turn, "lamda", ProviderUnavailable("down"))
        end(turn, "delta")
    break_open(lamda)
    with await box.wait_available(0) as turn:
        assert order(turn) == [("delta", True), ("lamda", False)]
    await trio.sleep(31)
    with await box.wait_available(0) as turn:
        assert order(turn)[0] == ("lamda", True)


async def test_max_concurrent_bounds_the_workers_that_go_on_to_take_a_note() -> None:
    box = postbox(make("lamda", max_concurrent=3), workers=10)
    inside = 0
    leave = trio.Event()

    async def work(worker: int) -> None:
        nonlocal inside
        with await box.wait_available(worker):
            inside += 1
            await leave.wait()

    async with trio.open_nursery() as nursery:
        for worker in range(10):
            nursery.start_soon(work, worker)
        await wait_all_tasks_blocked()
        assert inside == 3
        leave.set()
    assert inside == 10


async def test_a_rate_paces_the_workers(autojump_clock: MockClock) -> None:
    box = postbox(make("lamda", rate=2), workers=4)
    began = trio.current_time()
    at: list[float] = []

    async def work(worker: int) -> None:
        for _ in range(5):
            with await box.wait_available(worker) as turn:
                end(turn, "lamda")
                at.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for worker in range(4):
            nursery.start_soon(work, worker)
    assert len(at) == 20
    assert at[-1] == pytest.approx((20 - 2) / 2)


async def test_a_turn_whose_place_became_void_asks_the_next_provider() -> None:
    lamda, delta = make("lamda"), make("delta", weight=0)
    box = postbox(lamda, delta)
    with await box.wait_available(0) as turn:
        break_open(lamda)
        assert order(turn) == [("delta", True), ("lamda", False)]


async def test_a_cancelled_wait_and_an_unused_turn_keep_no_place(autojump_clock: MockClock) -> None:
    lamda = make("lamda", max_concurrent=1)
    box = postbox(lamda, workers=2)
    with await box.wait_available(0):
        with trio.move_on_after(5) as scope:
            await box.wait_available(1)
        assert scope.cancelled_caught
    assert lamda.free() == 1


async def test_without_providers_everybody_waits_until_some_are_there(autojump_clock: MockClock) -> None:
    box = postbox()
    with trio.move_on_after(1000) as scope:
        await box.wait_available(0)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.wait_available, 0)
        await wait_all_tasks_blocked()
        box.replace([make("lamda")])


async def test_a_paused_provider_is_passed_over_and_everything_waits_when_all_are_paused(
    autojump_clock: MockClock,
) -> None:
    lamda, delta = make("lamda"), make("delta", weight=0)
    box = postbox(lamda, delta)
    lamda.paused = True
    with await box.wait_available(0) as turn:
        assert order(turn)[0] == ("delta", True)
    delta.paused = True
    assert not box.available()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.wait_available, 0)
        await trio.sleep(1000)
        lamda.paused = False


async def test_letters_can_leave_though_an_idle_worker_keeps_the_only_place(autojump_clock: MockClock) -> None:
    lamda = make("lamda", max_concurrent=1)
    box = postbox(lamda)
    with await box.wait_available(0) as turn:
        assert lamda.free() == 0
        assert box.available()
        turn.calls()
        with turn.call("lamda"):
            assert box.available()


async def test_a_turn_that_began_before_a_replacement_asks_the_new_providers(autojump_clock: MockClock) -> None:
    box = postbox(make("old"))
    with await box.wait_available(0) as turn:
        box.replace([make("new")])
        assert order(turn) == [("new", True)]
        box.replace([])
        assert order(turn) == []


async def test_a_delivery_in_hand_ends_with_the_provider_that_its_claim_names(autojump_clock: MockClock) -> None:
    old = make("old")
    box = postbox(old)
    settled = trio.Event()

    async def wait() -> None:
        await box.wait_settled()
        settled.set()

    async with trio.open_nursery() as nursery:
        with await box.wait_available(0) as turn:
            turn.calls()
            box.replace([make("new")])
            nursery.start_soon(wait)
            await trio.sleep(1)
            with turn.call("old") as carrier:
                assert carrier is old
            assert not settled.is_set()
        await trio.sleep(1)
        assert settled.is_set()
