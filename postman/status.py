"""What `GET /status` says: first whether all is well and, in sentences, why not and what to do; then the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from postman.breaker import State as BreakerState
from postman.http.server import ServerStatistics
from postman.kind import ONLY_FAKES
from postman.ledger import ALL, Instance, LedgerStatistics, Pause
from postman.queue import QueueStatistics
from postman.row import State
from postman.sending.carrier import CarrierStatistics

WAITS = 10.0
"""Seconds after which mail that is due and on the queue counts as waiting."""

LATE = 300.0
"""A letter that has been due for so many seconds is worth a sentence."""

RESTS = 60.0
"""So is a provider that rests for longer than so many seconds, because it said that its limit is reached."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the sentences are made of; times are wall seconds.

    Attributes:
        ledger_error: why the ledger did not answer; then there are no statistics.
        queue_error: why the queue did not answer, and then there are none of it; or why it took no notes.
        durable: whether an accepted letter survives a restart.
        held: deliveries in hand.
        bytes_in_flight: of the letters in hand.
        stopping: the process drains.
        instance: this process.
        instances: all on this ledger.
        troubles: what else somebody should know (a reload that failed).
    """

    version: str
    now: float
    started: float
    durable: bool
    ledger: LedgerStatistics | None
    queue: QueueStatistics | None
    ledger_error: str = ""
    queue_error: str = ""
    providers: Sequence[CarrierStatistics] = ()
    pauses: Sequence[Pause] = ()
    http: ServerStatistics | None = None
    held: int = 0
    bytes_in_flight: int = 0
    stopping: bool = False
    troubles: Sequence[str] = ()
    instance: Instance | None = None
    instances: Sequence[Instance] = ()


def document(facts: Facts) -> dict[str, Any]:
    """The answer of `GET /status`, as JSON values."""
    because = list(dict.fromkeys(sentences(facts)))  # ledger and queue of one server have the same troubles
    document: dict[str, Any] = {
        "well": not because,
        "because": because,
        "version": facts.version,
        "up": round(facts.now - facts.started, 1),
        "durable": facts.durable,
        "mails": facts.ledger and {**dict.fromkeys(State, 0), **facts.ledger.states, "doubled": facts.ledger.doubled},
        "oldest-due": _age(facts),
        "queue": facts.queue,
        "deliveries": {"in-hand": facts.held, "bytes": facts.bytes_in_flight},
        "instance": facts.instance,
        "instances": facts.instances,
        "providers": facts.providers,
        "pauses": facts.pauses,
        "http": facts.http,
    }
    kebab: dict[str, Any] = _kebab(msgspec.to_builtins(document))
    return kebab


def waits(ledger: LedgerStatistics, queue: QueueStatistics, now: float) -> bool:
    """Whether mail waits that any worker could take."""
    return sum(queue.ready) > 0 and ledger.oldest_due is not None and now - ledger.oldest_due > WAITS


def sentences(facts: Facts) -> Iterator[str]:
    """What is not well, why, and what to do; most urgent first."""
    if facts.stopping:
        yield "The service is stopping; it takes no new mail."
    if facts.ledger_error:
        yield f"The ledger does not answer, so nothing is accepted and nothing is sent: {facts.ledger_error}"
    elif facts.queue_error:
        yield f"The queue does not work, so mail is accepted and kept, and waits until it does: {facts.queue_error}"
    yield from facts.troubles
    yield from _about_providers(facts)
    if facts.ledger:
        yield from facts.ledger.troubles
        yield from _about_letters(facts, facts.ledger)
    if facts.queue:
        yield from facts.queue.troubles
    if facts.queue and facts.queue.buried:
        yield (
            f"{facts.queue.buried} notes on the queue were put aside: each could not be read, or named a mail that is"
            " not in the ledger, or is damaged there. They are with the reason in the table `buried` (Redis: the list"
            " `...queue:buried`; SQS: the queue `...-dead`, or the log): delete them when you have looked."
        )


def _about_providers(facts: Facts) -> Iterator[str]:
    if not facts.providers:
        yield "No provider is configured, so nothing is sent: add a [[provider]] to postman.toml."
    elif not any(provider.delivers for provider in facts.providers):
        yield ONLY_FAKES
    for pause in facts.pauses:
        what = "All providers are" if pause.provider == ALL else f"Provider {pause.provider} is"
        again = "" if pause.provider == ALL else f" {pause.provider}"
        yield f"{what} paused by {pause.who}; `postman resume{again}` ends that."
    for provider in facts.providers:
        if provider.breaker.state is not BreakerState.CLOSED:
            waits = f"another {provider.again_in:.0f} s"
            until = waits if provider.breaker.state is BreakerState.OPEN else "more than one mail until it takes one"
            yield (
                f"Provider {provider.name} is not asked for {until}: {provider.last_fault} ({provider.breaker.why})."
                f" `postman check --live` asks it now; `postman resume {provider.name}` forgets its faults."
            )
        elif provider.cooling > RESTS:
            yield (
                f"Provider {provider.name} is not asked for another {provider.cooling:.0f} s: it said that its limit is"
                " reached. `rate` in its [[provider]] keeps below a limit."
            )
        if provider.bug:
            yield (
                f"The plugin of provider {provider.name} has a bug ({provider.bug}); the log says where. A mail that no"
                " other provider takes is rejected, or in doubt. `postman reload` takes a mended plugin; `postman"
                " replay --all --state rejected` sends again."
            )


def _about_letters(facts: Facts, ledger: LedgerStatistics) -> Iterator[str]:
    held = ledger.states.get(State.HELD, 0)
    if held:
        noun, what = ("mail is", "it") if held == 1 else ("mails are", "each")
        yield (
            f"{held} {noun} held, because a provider may have taken {what} and nobody can tell: `postman mail --state"
            " held` lists them, `postman release` sends again, `postman settle` says that it arrived."
        )
    age = _age(facts)
    if age is not None and age > LATE:
        yield (
            f"The oldest mail has been waiting for {age / 60:.0f} min: `postman mail --state queued` lists what waits,"
            " `postman mail ID` says for what."
        )


def _kebab(value: Any) -> Any:  # noqa: ANN401  # any JSON
    """Names on the wire are kebab-case."""
    match value:
        case dict():
            return {str(key).replace("_", "-"): _kebab(item) for key, item in value.items()}
        case list() | tuple():
            return [_kebab(item) for item in value]
        case _:
            return value


def _age(facts: Facts) -> float | None:
    if facts.ledger is None or facts.ledger.oldest_due is None:
        return None
    return round(max(0.0, facts.now - facts.ledger.oldest_due), 1)
