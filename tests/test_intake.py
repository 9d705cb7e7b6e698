"""Mails become letters: the commit is the promise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from postman.backends.memory.ledger import MemoryLedger
from postman.backends.memory.queue import MemoryQueue, memory_queue
from postman.errors import IdTaken, KeyReused, StoreFull, StoreRefused, StoreUnavailable
from postman.flake import Flake
from postman.intake import FULL_FOR, MINTINGS, PUT_TIMEOUT, UNNOTED_FOR, Intake, size_of
from postman.ledger import Accepted, Filter
from postman.mail import Address, Content, Id, Letter, Mail, Priority
from postman.queue import MAX_DELAY, Note
from postman.row import Row

NOW = 1_800_000_000.0
MAIL = Mail(
    to=(Address(email="ann@example.com"),),
    from_=Address(email="shop@example.org"),
    subject="Your order",
    content=(Content(type="text/plain", value="It is on its way."),),
)
PRINT = b"f" * 32


class OddLedger(MemoryLedger):
    """Raises what it is told: before it has accepted, after it, and when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.reading: list[Exception] = []
        self.noted = False

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        if self.before:
            raise self.before.pop(0)
        accepted = await super().accept(letters, client, key, fingerprint)
        if self.after:
            raise self.after.pop(0)
        return msgspec.structs.replace(accepted, noted=self.noted)

    async def read(self, id: Id, client: str | None) -> Row | None:
        if self.reading:
            raise self.reading.pop(0)
        return await super().read(id, client)


class WatchedQueue:
    """Remembers what is put; fails or hangs if told to."""

    durable = shared = False

    def __init__(self, queue: MemoryQueue) -> None:
        self.puts: list[tuple[float, list[Note]]] = []
        self.error: Exception | None = None
        self.hangs = False
        self.take, self.ack, self.release = queue.take, queue.ack, queue.release
        self.bury, self.statistics = queue.bury, queue.statistics

    async def put(self, notes: Sequence[Note], delay: float = 0) -> None:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if self.error:
            raise self.error
        self.puts.append((delay, list(notes)))


class Desk:
    def __init__(self, queue: MemoryQueue) -> None:
        self.ledger = OddLedger()
        self.queue = WatchedQueue(queue)
        self.intake = Intake(self.ledger, self.queue, Flake(1), wall=lambda: NOW)

    async def accept(self, *mails: Mail, key: str | None = None) -> Accepted:
        return await self.intake.accept(mails or (MAIL,), "shop", key, PRINT)

    async def rows(self) -> list[Id]:
        return [row.id for row in await self.ledger.find(Filter(), None, 100)][::-1]

    @property
    def noted(self) -> list[Id]:
        return [note.id for _, notes in self.queue.puts for note in notes]


@pytest.fixture
async def desk() -> AsyncGenerator[Desk]:
    async with memory_queue(60) as queue:
        yield Desk(queue)


def later(seconds: float) -> Mail:
    return msgspec.structs.replace(MAIL, send_at=datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds))


async def test_letters_are_stored_in_order_and_their_notes_put(desk: Desk) -> None:
    bulk = msgspec.structs.replace(MAIL, priority=Priority.BULK)
    accepted = await desk.accept(MAIL, bulk)
    assert list(accepted.ids) == await desk.rows() == desk.noted == sorted(desk.noted)
    assert [note.lane for note in desk.queue.puts[0][1]] == [1, 2]
    assert [note.size for note in desk.queue.puts[0][1]] == [size_of(MAIL)] * 2


async def test_notes_are_put_by_their_delay_and_those_of_far_letters_not_yet(desk: Desk) -> None:
    accepted = await desk.accept(MAIL, later(60), later(MAX_DELAY), later(MAX_DELAY + 1), later(-60), later(60))
    now1, in60, at_most, _far, past, in60_too = accepted.ids
    put = {delay: [note.id for note in notes] for delay, notes in desk.queue.puts}
    assert put == {0.0: [now1, past], 60.0: [in60, in60_too], MAX_DELAY: [at_most]}


@pytest.mark.parametrize("error", [StoreUnavailable("the queue is down"), StoreFull("full"), RuntimeError("a bug")])
async def test_a_queue_that_fails_changes_nothing_about_the_promise(desk: Desk, error: Exception) -> None:
    desk.queue.error = error
    accepted = await desk.accept()
    assert list(accepted.ids) == await desk.rows()


async def test_why_notes_were_not_put_is_told_until_others_are_or_none_come(desk: Desk) -> None:
    now = NOW
    intake = Intake(desk.ledger, desk.queue, Flake(2), wall=lambda: now)
    for later, error, told in (
        (0, StoreUnavailable("not allowed"), "not allowed"),
        (UNNOTED_FOR + 1, None, ""),
        (UNNOTED_FOR + 1, TimeoutError(), f"no answer within {PUT_TIMEOUT:g} s"),
    ):
        desk.queue.error = error
        await intake.accept((MAIL,), "shop", None, PRINT)
        assert intake.unnoted == told
        now += later
    desk.queue.error = StoreFull("full")
    await intake.accept((MAIL,), "shop", None, PRINT)
    now += UNNOTED_FOR + 1
    assert intake.unnoted == ""


async def test_a_queue_that_takes_no_notes_is_one_line_in_the_log_however_many_mails_come(desk: Desk) -> None:
    with capture_logs() as log:
        for error in (StoreUnavailable("down"), StoreUnavailable("down"), None, StoreUnavailable("down again")):
            desk.queue.error = error
            await desk.accept()
    assert [line["error"] for line in log] == ["StoreUnavailable('down')", "StoreUnavailable('down again')"]


async def test_a_queue_that_hangs_keeps_the_client_waiting_for_seconds_only(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.queue.hangs = True
    begin = trio.current_time()
    assert list((await desk.accept()).ids) == await desk.rows()
    assert trio.current_time() - begin == pytest.approx(PUT_TIMEOUT)
    assert autojump_clock.autojump_threshold == 0


async def test_a_client_that_goes_away_leaves_its_mails_stored_whole_and_noted(desk: Desk) -> None:
    with trio.CancelScope() as request:
        request.cancel()
        await desk.accept(MAIL, MAIL)
    assert desk.noted == await desk.rows()
    assert len(desk.noted) == 2


async def test_notes_that_the_ledger_put_are_not_put_again(desk: Desk) -> None:
    desk.ledger.noted = True
    await desk.accept()
    assert desk.queue.puts == []


async def test_a_replay_mints_and_puts_nothing(desk: Desk) -> None:
    first = await desk.accept(key="k")
    again = await desk.accept(key="k")
    assert (again.ids, again.replayed) == (first.ids, True)
    assert len(desk.queue.puts) == 1
    assert len(await desk.rows()) == 1


async def test_ids_that_are_taken_are_minted_anew(desk: Desk) -> None:
    desk.ledger.before = [IdTaken("taken")] * (MINTINGS - 1)
    assert list((await desk.accept()).ids) == await desk.rows()


async def test_ids_that_stay_taken_are_an_error_that_names_the_cure(desk: Desk) -> None:
    desk.ledger.before = [IdTaken("taken")] * MINTINGS
    with pytest.raises(StoreUnavailable, match="node number"):
        await desk.accept()


async def test_a_commit_without_an_answer_that_happened_is_accepted(desk: Desk) -> None:
    desk.ledger.after = [StoreUnavailable("the answer was lost", may_have_happened=True)]
    accepted = await desk.accept(MAIL, MAIL)
    assert list(accepted.ids) == await desk.rows() == desk.noted


async def test_a_commit_without_an_answer_that_did_not_happen_is_surely_not_accepted(desk: Desk) -> None:
    desk.ledger.before = [StoreUnavailable("the answer was lost", may_have_happened=True)]
    with pytest.raises(StoreUnavailable) as caught:
        await desk.accept()
    assert not caught.value.may_have_happened
    assert desk.queue.puts == []


async def test_the_fate_of_a_commit_is_looked_for_more_than_once(desk: Desk, autojump_clock: MockClock) -> None:
    desk.ledger.after = [StoreUnavailable("the answer was lost", may_have_happened=True)]
    desk.ledger.reading = [StoreUnavailable("not yet"), StoreUnavailable("not yet")]
    assert list((await desk.accept()).ids) == await desk.rows()
    assert autojump_clock.autojump_threshold == 0


async def test_a_fate_that_nobody_can_tell_is_told_as_such(desk: Desk, autojump_clock: MockClock) -> None:
    desk.ledger.after = [StoreUnavailable("the answer was lost", may_have_happened=True)]
    desk.ledger.reading = [StoreUnavailable("down")] * 9
    with pytest.raises(StoreUnavailable) as caught:
        await desk.accept()
    assert caught.value.may_have_happened
    assert autojump_clock.autojump_threshold == 0


@pytest.mark.parametrize("stored", [False, True])
async def test_a_request_with_a_key_whose_answer_was_lost_is_made_again(desk: Desk, stored: bool) -> None:
    lost = StoreUnavailable("the answer was lost", may_have_happened=True)
    (desk.ledger.after if stored else desk.ledger.before).append(lost)
    accepted = await desk.intake.accept([MAIL], "shop", "order-1", PRINT)
    assert not accepted.replayed
    assert [note.id for _, notes in desk.queue.puts for note in notes] == list(accepted.ids)
    assert [row.id for row in await desk.ledger.find(Filter(), None, 10)] == list(accepted.ids)


async def test_want_of_room_does_not_tell_what_became_of_a_request_whose_answer_was_lost(
    desk: Desk, autojump_clock: MockClock
) -> None:
    lost = StoreUnavailable("the answer was lost", may_have_happened=True)
    desk.ledger.before = [lost, *[StoreFull("full")] * 9]
    with pytest.raises(StoreUnavailable) as caught:
        await desk.intake.accept([MAIL], "shop", "order-1", PRINT)
    assert caught.value.may_have_happened


async def test_a_repeat_whose_answer_was_lost_is_told_of_the_first_request(desk: Desk) -> None:
    first = await desk.intake.accept([MAIL], "shop", "order-1", PRINT)
    desk.ledger.after = [StoreUnavailable("the answer was lost", may_have_happened=True)]
    again = await desk.intake.accept([MAIL], "shop", "order-1", PRINT)
    assert (again.ids, again.replayed) == (first.ids, True)


@pytest.mark.parametrize("error", [StoreUnavailable("down"), StoreFull("full"), KeyReused("reused")])
async def test_what_was_not_accepted_is_not_noted(desk: Desk, error: Exception) -> None:
    desk.ledger.before = [error]
    with pytest.raises(type(error)):
        await desk.accept()
    assert desk.queue.puts == []


@pytest.mark.parametrize("error", [StoreUnavailable("no answer"), StoreRefused("read-only")])
async def test_a_ledger_that_does_not_take_a_mail_is_failing_until_it_takes_one(
    desk: Desk, error: StoreUnavailable | StoreRefused
) -> None:
    desk.ledger.before = [error]
    with pytest.raises(type(error)):
        await desk.accept()
    assert desk.intake.failing
    await desk.accept()
    assert not desk.intake.failing


async def test_a_refusal_for_want_of_room_is_told_until_mail_is_taken_again_or_none_comes(desk: Desk) -> None:
    now = NOW
    intake = Intake(desk.ledger, desk.queue, Flake(2), wall=lambda: now)
    desk.ledger.before = [StoreFull("the disk is full"), StoreFull("the disk is full")]
    with capture_logs() as lines:
        for _ in range(2):
            with pytest.raises(StoreFull):
                await intake.accept((MAIL,), "shop", None, PRINT)
    assert [line["reason"] for line in lines] == ["the disk is full"]
    assert "the disk is full" in intake.trouble
    now += FULL_FOR + 1
    assert intake.trouble == ""
    now = NOW
    await intake.accept((MAIL,), "shop", None, PRINT)
    assert intake.trouble == ""
