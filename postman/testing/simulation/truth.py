"""What really happened in a run, which nobody inside can know. The laws are judged by it."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import trio

from postman.ledger import Claim, Unclaimable
from postman.mail import Id, Letter
from postman.row import End, EndKind, Row, State, Verb

_GIVEN_UP = frozenset({State.QUEUED, State.IN_DOUBT, State.HELD})
_PERSONS = frozenset({Verb.RELEASE, Verb.REPLAY})


@dataclass(eq=False)
class Grant:
    """A claim that the ledger granted.

    Attributes:
        number: of the event; later ones are greater.
        owner: the instance.
        end: what was written of its call.
        late: when its owner came back to the ledger, the lease was over.
        robbed: the ledger gave its letter up while its call was under way.
        cut: its owner died, or forgot it by a bug, before that.
    """

    claim: Claim
    number: int
    owner: object
    task: trio.lowlevel.Task
    end: EndKind | None = None
    late: bool = False
    robbed: bool = False
    cut: bool = False

    @property
    def live(self) -> bool:
        """Whether its call is under way, and its lease not over."""
        return self.end is None and not self.cut and trio.current_time() < self.claim.lease_ends


@dataclass(eq=False)
class Asked:
    """A call as the vendor sees it.

    Attributes:
        grant: the claim that it was made by; None: there was none for this vendor, or it was used up.
        late: it was made after the lease of its claim.
        maybe: as far as we can know, the vendor may have taken the letter.
        answered: we were told.
        accepted: it did take it.
    """

    id: Id
    vendor: str
    grant: Grant | None
    maybe: bool
    late: bool = False
    answered: bool = False
    accepted: bool = False
    message_id: str | None = None
    taken: trio.Event = field(default_factory=trio.Event)


@dataclass
class Try:
    """One POST of a client: `unknown` when no answer came."""

    subject: str
    answer: Literal["accepted", "refused", "unknown"] = "unknown"
    ids: tuple[Id, ...] = ()


@dataclass
class Freed:
    """A doubt was ended by sending again."""

    number: int
    by_policy: bool


class Truth:
    """Keeps the journal of a run, and what the laws ask for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.letters: dict[Id, Letter] = {}
        self.grants: dict[tuple[Id, int], Grant] = {}
        self.asked: defaultdict[Id, list[Asked]] = defaultdict(list)
        self.freed: defaultdict[Id, list[Freed]] = defaultdict(list)
        self.acts: set[tuple[Id, Verb]] = set()
        self.posts: list[list[Try]] = []
        self.bugs: list[str] = []
        """Errors of our own that nobody planned, and what nobody may do."""
        self._held: dict[trio.lowlevel.Task, Grant] = {}
        self._used: set[Grant] = set()
        self._numbers = itertools.count()

    def log(self, *facts: object) -> None:
        """Write a line."""
        self.lines.append(f"{trio.current_time():.6f} {' '.join(map(str, facts))}")

    @property
    def digest(self) -> str:
        """Of the whole journal."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def stored(self, letters: Iterable[Letter]) -> None:
        """The ledger has them."""
        for letter in letters:
            self.letters[letter.id] = letter
            self.log("stored", letter.id, letter.mail.subject)

    def stored_subjects(self) -> frozenset[str]:
        """Of all letters that the ledger was given."""
        return frozenset(letter.mail.subject for letter in self.letters.values())

    def claimed(self, id: Id, answer: Claim | Unclaimable, owner: object) -> None:
        """The ledger answered to a claim."""
        task = trio.lowlevel.current_task()
        lost = self._held.get(task)
        if lost is not None and lost.claim.id == id and lost.end is None:
            lost.late |= trio.current_time() >= lost.claim.lease_ends
        if isinstance(answer, Claim):
            self._granted(answer, owner, task)

    def _granted(self, claim: Claim, owner: object, task: trio.lowlevel.Task) -> None:
        grant = self.grants.get((claim.id, claim.fence))
        if grant is None:
            grant = Grant(claim, next(self._numbers), owner, task)
            self.grants[claim.id, claim.fence] = grant
            self.log("granted", claim.id, claim.fence, claim.call.provider)
        else:
            self.log("granted again", claim.id, claim.fence)
        self._held[task] = grant

    def ended(self, claim: Claim, end: End) -> None:
        """The ledger was told how a call ended."""
        grant = self.grants[claim.id, claim.fence]
        if grant.end is None:
            grant.end = end.kind
            grant.late |= trio.current_time() >= grant.claim.lease_ends
        self.log("ended", claim.id, claim.fence, end.kind, end.reason)

    def written(self, row: Row) -> None:
        """What the ledger says of a letter after it was changed."""
        grant = self.grants.get((row.id, row.fence))
        if grant is not None and grant.live and row.state in _GIVEN_UP:
            grant.robbed = True

    def died(self, owner: object) -> None:
        """An instance is gone, and with it all that it had in hand."""
        self._cut(grant for grant in self.grants.values() if grant.owner is owner)

    def forgot(self) -> None:
        """A bug ends the delivery of this task."""
        task = trio.lowlevel.current_task()
        self._cut(grant for grant in self.grants.values() if grant.task is task)

    def ruled(self, verb: Verb, results: Mapping[Id, tuple[Row, bool]]) -> None:
        """Somebody acted on rows."""
        for id, (row, done) in results.items():
            if done:
                self.acts.add((id, verb))
                self.log(verb, id, row.state)
                self.written(row)
            if done and row.state is State.QUEUED and (verb in _PERSONS or verb is Verb.DECIDE):
                self.freed[id].append(Freed(next(self._numbers), verb is Verb.DECIDE))

    def meddled(self, ids: Iterable[Id]) -> None:
        """An instance decided on doubt at somebody else's account, before the others' patience was over."""
        self.bugs += [f"{id}: doubt was decided by who does not have its account" for id in ids]

    def ask(self, id: Id, vendor: str, *, marks: bool) -> Asked:
        """A vendor's plugin was called."""
        grant = self._held.get(trio.lowlevel.current_task())
        if grant and (grant in self._used or (grant.claim.id, grant.claim.call.provider) != (id, vendor)):
            grant = None
        if grant:
            self._used.add(grant)
        late = grant is not None and not marks and trio.current_time() >= grant.claim.lease_ends
        asked = Asked(id, vendor, grant, maybe=not marks, late=late)
        self.asked[id].append(asked)
        self.log("asked", vendor, id, grant.claim.fence if grant else "without a claim")
        return asked

    def _cut(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            if grant.end is None:
                grant.cut = True
