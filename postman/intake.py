"""Mails become letters: ids are minted, the ledger takes them, notes wake the workers.

The commit in the ledger is the promise. Before it nothing has happened; after it the answer is 202, whatever becomes
of the notes: the clerk puts those that are missing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import structlog
import trio

from postman.allowance import Allowances
from postman.errors import IdTaken, StoreFull, StoreRefused, StoreUnavailable
from postman.failpoint import failpoint
from postman.flake import Flake
from postman.ledger import Accepted, Ledger
from postman.mail import Id, Letter, Mail
from postman.queue import MAX_DELAY, Note, Queue

PUT_TIMEOUT = 5.0
"""Seconds that a client waits for the notes; the answer does not depend on them."""

MINTINGS = 3
"""So often ids are minted before we believe that something is wrong with the node number."""

FULL_FOR = 300.0
"""Seconds after a refusal for want of room in which it is worth a sentence."""

UNNOTED_FOR = 60.0
"""Seconds after notes that were not put in which it is worth a sentence, if no others are."""

_LOOKS = (0.0, 0.2, 1.0)
"""Seconds before each look at what became of a commit without an answer."""

_log = structlog.get_logger()


class Intake:
    """Takes mails that `parse` has read.

    Args:
        ledger: gives the promise.
        queue: is told of the letters.
        flake: mints the ids.
        allowances: of the clients; None: each has what it asks for.
        wall: seconds since 1970.

    Attributes:
        failing: the ledger did not take the last mails, for want of something else than room.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        flake: Flake,
        *,
        allowances: Allowances | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._flake = flake
        self._allowances = allowances
        self.failing = False
        self._wall = wall
        self._full = ""
        self._full_at = 0.0
        self._unnoted = ""
        self._unnoted_at = 0.0

    @property
    def trouble(self) -> str:
        """Why the last mails were refused for want of room; "" when some were taken since, or none came lately."""
        if not self._full or self._wall() - self._full_at > FULL_FOR:
            return ""
        return f"Mail was refused with 503 for want of room: {self._full}."

    @property
    def unnoted(self) -> str:
        """Why the queue did not take the notes of the last mails; "" when it took some since, or none came lately."""
        return self._unnoted if self._wall() - self._unnoted_at <= UNNOTED_FOR else ""

    async def accept(self, mails: Sequence[Mail], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        """Take mails, all or none. On return they are promised.

        Once begun it is not cut short by a cancelled caller: what was stored is stored whole, with its notes.

        Args:
            mails: at least one.
            client: whose they are.
            key: the Idempotency-Key, if the client sent one.
            fingerprint: SHA-256 of the request's body; counts with a key alone.

        Raises:
            KeyReused: the key came before with another body; nothing was accepted.
            StoreFull: nothing was accepted.
            StoreUnavailable: nothing was accepted, unless it says `may_have_happened`.
        """
        failpoint("A2")
        if self._allowances is not None:
            mails = self._allowances.place(client, mails)
        with trio.CancelScope(shield=True):
            try:
                letters, accepted = await self._commit(mails, client, key, fingerprint)
            except (StoreUnavailable, StoreRefused):
                self.failing = True
                raise
            failpoint("A4")
            self.failing, self._full = False, ""
            if not accepted.noted and not accepted.replayed:
                await self._put(letters)
        return accepted

    async def _commit(
        self, mails: Sequence[Mail], client: str, key: str | None, fingerprint: bytes
    ) -> tuple[Sequence[Letter], Accepted]:
        for _ in range(MINTINGS):
            letters = self._letters(mails)
            try:
                return letters, await self._ledger.accept(letters, client, key, fingerprint)
            except StoreFull as error:
                self._note_full(str(error))
                raise
            except IdTaken:
                _log.warning("an id was taken; another process may have the same node number")
            except StoreUnavailable as error:
                if not error.may_have_happened:
                    raise
                return letters, await self._fate(error, letters, client, key, fingerprint)
        raise StoreUnavailable("no new ids could be minted; give each process a node number of its own")

    def _note_full(self, why: str) -> None:
        if not self._full:
            _log.warning("no room for more mail; clients are answered 503", reason=why)
        self._full, self._full_at = why, self._wall()

    def _letters(self, mails: Sequence[Mail]) -> Sequence[Letter]:
        now = datetime.fromtimestamp(self._wall(), UTC)
        return [Letter(id=Id(self._flake.next_id()), mail=mail, accepted=now) for mail in mails]

    async def _fate(
        self, error: StoreUnavailable, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes
    ) -> Accepted:
        """What became of a commit without an answer; raises `error` when nobody can tell."""
        for seconds in _LOOKS:
            await trio.sleep(seconds)
            with suppress(StoreUnavailable, StoreFull):  # neither tells what became of the first
                found = await self._look(letters, client, key, fingerprint)
                break
        else:
            raise error
        if found is None:
            raise StoreUnavailable(str(error)) from error
        return found

    async def _look(
        self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes
    ) -> Accepted | None:
        """Whether letters were stored; one tells for the whole request. None: surely not.

        With a key the request is made again: that changes nothing if it was stored, and finds an older one of that key.
        """
        ids = tuple(letter.id for letter in letters)
        if key is None:
            return None if await self._ledger.read(ids[0], client) is None else Accepted(ids)
        accepted = await self._ledger.accept(letters, client, key, fingerprint)
        return msgspec.structs.replace(accepted, replayed=accepted.replayed and accepted.ids != ids)

    async def _put(self, letters: Sequence[Letter]) -> None:
        """Wake the workers. What fails is mended by the clerk, so it is logged and no more."""
        try:
            with trio.fail_after(PUT_TIMEOUT):
                for delay, notes in self._notes(letters).items():
                    await self._queue.put(notes, delay)
                    failpoint("A5")
            self._unnoted = ""
        except Exception as error:  # noqa: BLE001  # the letters are promised, whatever a queue raises
            if not self._unnoted:  # else each request would say so
                _log.warning("the queue takes no notes; the clerk will put them", error=repr(error))
            self._unnoted, self._unnoted_at = str(error) or f"no answer within {PUT_TIMEOUT:g} s", self._wall()

    def _notes(self, letters: Sequence[Letter]) -> dict[float, list[Note]]:
        """Notes by their delay in seconds; letters due later than a queue can wait get none yet."""
        now = self._wall()
        notes: defaultdict[float, list[Note]] = defaultdict(list)
        for letter in letters:
            send_at = letter.mail.send_at
            delay = max(0.0, send_at.timestamp() - now) if send_at else 0.0
            if delay <= MAX_DELAY:
                notes[delay].append(Note(letter.id, letter.mail.priority.lane, size_of(letter.mail)))
        return notes


def size_of(mail: Mail) -> int:
    """About how many bytes of memory a mail takes."""
    content = sum(len(content.value) for content in mail.content)
    files = sum(len(file.content) for file in mail.attachments)
    return 1_024 + content + files + 100 * len(mail.recipients)
