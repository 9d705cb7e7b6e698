"""The laws, judged at rest: all faults have stopped, and time enough has passed.

1. Nothing is lost: each letter that was promised is in the ledger, has ended or waits for a person, and its state
   follows from what happened. A request that was refused stored nothing.
2. Nothing is doubled: each call has a claim of its own, which lasts as long as it is under way, and none is begun while
   an earlier one may have been accepted, unless a person, or with `resend` the policy, ended that doubt in between.
3. Nothing is in doubt, held or counted as a crash unless a call really was: its outcome unknown, or its owner gone or
   late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from postman.mail import Id, OnDoubt
from postman.row import EndKind, Policy, Row, State, Verb
from postman.testing.simulation.truth import Asked, Grant, Truth, Try
from postman.transitions import MAX_CRASHES


def broken(truth: Truth, rows: Mapping[Id, Row], policy: Policy, wall: float) -> list[str]:
    """Which laws are broken, each a sentence with the letter or the request."""
    found = [f"bug: {bug}" for bug in truth.bugs]
    for tries in truth.posts:
        found += (f"lost: {tries[0].subject}: {why}" for why in _promises(tries, truth, rows))
    for id, row in rows.items():
        found += (f"lost: {id}: {why}" for why in _lost(row, truth, policy, wall))
        found += (f"doubled: {id}: {why}" for why in _doubled(row, truth))
        found += (f"doubt: {id}: {why}" for why in _doubt(row, truth))
    return found


def _promises(tries: Sequence[Try], truth: Truth, rows: Mapping[Id, Row]) -> Iterator[str]:
    stored = truth.stored_subjects()
    for each in tries:
        if each.answer == "refused" and each.subject in stored:
            yield "it was refused, and is in the ledger"
        if any(id not in rows for id in each.ids):
            yield "it was accepted, and is not in the ledger"
    if len({each.ids for each in tries if each.answer == "accepted"}) > 1:
        yield "two requests of one key got different ids"
    if sum(each.subject in stored for each in tries) > 1:
        yield "two requests of one key were stored"


def _lost(row: Row, truth: Truth, policy: Policy, wall: float) -> Iterator[str]:
    """Why a row's state does not follow from what happened."""
    grants = _grants(row.id, truth)
    ends = {grant.end for grant in grants}
    if EndKind.ACCEPTED in ends and row.state is not State.SENT:
        yield f"a receipt came, but it is {row.state}"
    match row.state:
        case State.QUEUED | State.SENDING | State.IN_DOUBT:
            yield f"it is {row.state} for ever"
        case State.SENT if (row.id, Verb.SETTLE) not in truth.acts:
            sources = {entry.provider for entry in row.history if entry.state is State.SENT}
            if not sources & {asked.vendor for asked in truth.asked[row.id] if asked.accepted}:
                yield f"it is sent by {sources}, who did not take it"
        case State.REJECTED if EndKind.REJECTED not in ends and EndKind.REFUSED not in ends:
            yield "nobody rejected it"
        case State.EXPIRED if row.expires is None or row.expires > wall:
            yield "it was not to expire"
        case State.CANCELLED if not truth.acts & {(row.id, Verb.CANCEL), (row.id, Verb.DISCARD)}:
            yield "nobody cancelled it"
        case State.FAILED:
            given_up = row.since >= row.born + policy.give_up_after
            if not (given_up or row.attempts >= policy.max_attempts or row.crashes >= MAX_CRASHES):
                yield "it was given up too early"


def _doubled(row: Row, truth: Truth) -> Iterator[str]:
    asked = truth.asked[row.id]
    if any(call.grant is None for call in asked):
        yield "a provider was asked without a claim"
    if any(grant.robbed for grant in _grants(row.id, truth)):
        yield "it was given up while a call was under way"
    if any(call.late for call in asked):
        yield "a provider was asked after the lease of its claim"
    for first, second in combinations([call for call in asked if call.maybe or call.accepted], 2):
        if not _freed_between(first, second, row, truth):
            yield f"{second.vendor} was asked while {first.vendor} may have taken it"
    if row.receipts > 1 and sum(call.accepted for call in asked) < 2:
        yield "it counts as doubled, and is not"


def _freed_between(first: Asked, second: Asked, row: Row, truth: Truth) -> bool:
    if first.grant is None or second.grant is None:
        return True  # judged already
    span = range(first.grant.number, second.grant.number)
    may = row.on_doubt is OnDoubt.RESEND
    return any(freed.number in span and (may or not freed.by_policy) for freed in truth.freed[row.id])


def _doubt(row: Row, truth: Truth) -> Iterator[str]:
    grants = _grants(row.id, truth)
    cuts = sum(grant.cut or grant.late for grant in grants)
    if row.crashes > cuts:
        yield f"{row.crashes} crashes are counted, {cuts} calls were cut or late"
    if row.state in {State.IN_DOUBT, State.HELD} and not _is_doubtful(grants[-1], truth):
        yield f"it is {row.state}, and there is no doubt"


def _is_doubtful(grant: Grant, truth: Truth) -> bool:
    calls = [call for call in truth.asked[grant.claim.id] if call.grant is grant]
    unknown = any(call.maybe and not call.answered for call in calls)
    return grant.cut or (grant.end is EndKind.UNKNOWN and unknown)


def _grants(id: Id, truth: Truth) -> list[Grant]:
    return [grant for (of, _), grant in truth.grants.items() if of == id]
