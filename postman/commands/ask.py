"""The commands that ask a running service over HTTP. None of them opens the database."""

from __future__ import annotations

import base64
import itertools
import mimetypes
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from postman.commands.client import Client, Refused, Unreachable
from postman.commands.options import asks_service, show
from postman.http.query import FROM_STATES, MOST, NO_ID, as_id
from postman.ledger import ALL
from postman.row import State, Verb

PAGE = 200
"""Mails asked for at once."""

UNKNOWN = "unknown"
"""In place of the state of a mail that is not there."""

_NO_MAIL = "no mail fits"
_NOT_THERE = "there is no such mail, or what is stored of it cannot be read"
_SPAN = re.compile(r"(\d+)([smhd])")
_STANDING = {"closed": "works", "open": "fails", "half-open": "is tried"}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.command()
@click.option("--check", is_flag=True, help="Exit with 1 when it is not well.")
@asks_service
def status(client: Client, *, check: bool, as_json: bool) -> int:
    """Say whether the service is well and, if not, why and what to do."""
    document = client.ask("GET", "/status")
    well = "well" if document["well"] else "not well"
    lines = [well if document["durable"] else f"{well}, not durable"]
    lines += [f"  {sentence}" for sentence in document["because"]]
    lines += [f"{state:<12}{number:>10}" for state, number in (document.get("mails") or {}).items() if number]
    if queue := document.get("queue"):
        ready = sum(queue["ready"])
        lines += ["", f"queue: {ready} ready, {queue['delayed']} delayed, {queue['leased']} in hand"]
    if providers := document.get("providers"):
        lines += ["", *map(_provider, providers)]
    show(document, lines, as_json=as_json)
    return 1 if check and not document["well"] else 0


def _provider(provider: dict[str, Any]) -> str:
    """A line about one provider; what is wrong with it stands last."""
    standing = "paused" if provider["paused"] else _STANDING[provider["breaker"]["state"]]
    calls = f"{provider['accepted']} accepted, {provider['not-accepted']} not, {provider['unknown']} unknown"
    return f"{provider['name']:<16} {standing:<10} {calls}  {provider['last-fault']}".rstrip()


@click.command()
@click.argument("file", required=False, type=click.File("rb"))
@click.option("--from", "sender", help="The sender's address.")
@click.option("--to", multiple=True, help="A recipient; may be repeated, as --cc and --bcc.")
@click.option("--cc", multiple=True)
@click.option("--bcc", multiple=True)
@click.option("--subject", default="")
@click.option("--text", help="The body as plain text.")
@click.option("--html", help="The body as HTML.")
@click.option(
    "--attach",
    multiple=True,
    help="A file; may be repeated.",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--tag", "tags", multiple=True, help="A word to find it by; may be repeated.")
@click.option("--idempotency-key", help="The same key never sends twice.  [default: a new one]")
@asks_service
def send(
    client: Client,
    *,
    file: Any,  # noqa: ANN401  # click's file
    idempotency_key: str | None,
    as_json: bool,
    **options: Any,  # noqa: ANN401  # those that make a mail
) -> int:
    """Send one mail made of options, or those of a FILE.

    FILE is JSON as POST /mail takes it, a list or one mail; - is standard input.
    """
    if file is None:
        body = msgspec.json.encode([_mail(**options)])
    elif any(options.values()):
        raise click.UsageError("either a FILE or the options of one mail")
    else:
        body = file.read()
        body = body if body.lstrip().startswith(b"[") else b"[" + body + b"]"
    key = idempotency_key or str(uuid.uuid4())
    try:
        document = client.ask("POST", "/mail", body=body, idempotency_key=key)
    except (Unreachable, Refused) as error:
        if not isinstance(error, Refused) or error.status >= 500:  # another try may do, and this one may have done
            error.args = (f"{error}\nSend it again with --idempotency-key {key}; it will not be sent twice.",)
        raise
    show(document, document["tracking-ids"], as_json=as_json)
    return 0


def _mail(
    *,
    sender: str | None,
    subject: str,
    text: str | None,
    html: str | None,
    attach: Sequence[Path],
    tags: Sequence[str],
    **recipients: Sequence[str],
) -> dict[str, Any]:
    content = [{"type": kind, "value": value} for kind, value in (("text/plain", text), ("text/html", html)) if value]
    if not (sender and recipients["to"] and content):
        raise click.UsageError("a mail needs --from, --to and --text or --html; or give a JSON FILE")
    mail: dict[str, Any] = {"from": {"email": sender}, "subject": subject, "content": content}
    mail |= {field: [{"email": email} for email in emails] for field, emails in recipients.items() if emails}
    if tags:
        mail["tags"] = tags
    if attach:
        mail["attachments"] = [_attachment(path) for path in attach]
    return mail


def _attachment(path: Path) -> dict[str, str]:
    return {
        "filename": path.name,
        "type": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        "content": base64.b64encode(path.read_bytes()).decode(),
    }


def _moment(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """`90m` or `2d` ago, or a time as RFC 3339."""
    if text is None:
        return None
    try:
        if span := _SPAN.fullmatch(text):
            return (datetime.now(UTC) - timedelta(**{_UNITS[span[2]]: int(span[1])})).isoformat(timespec="seconds")
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.astimezone()).isoformat()
    except (ValueError, OverflowError):
        raise click.BadParameter("neither a span, such as 90m, 12h or 2d, nor a time, such as 2026-01-31") from None


def _checked_id[T: (str | None, tuple[str, ...])](_context: click.Context, _argument: click.Parameter, given: T) -> T:
    """One tracking id, none, or several."""
    for id in [given] if isinstance(given, str) else given or ():
        if as_id(id) is None:
            raise click.BadParameter(f"{id!r} is {NO_ID}")
    return given


def filters(states: Iterable[State]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """The options that choose mails, in some states."""

    def add(command: Callable[..., int]) -> Callable[..., int]:
        for option in (
            click.option("--tag", help="One of its tags."),
            click.option("--recipient", help="A whole address."),
            click.option("--since", callback=_moment, help="Accepted since: 90m, 12h, 2d, or a time."),
            click.option("--state", type=click.Choice([state.value for state in states])),
        ):
            command = option(command)
        return command

    return add


@click.command()
@click.argument("id", required=False, callback=_checked_id)
@filters(State)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000))
@asks_service
def mail(client: Client, *, id: str | None, limit: int, as_json: bool, **chosen: str | None) -> int:
    """Show what became of a mail, or list mails, newest first."""
    if id and any(chosen.values()):
        raise click.UsageError("give an ID, or --state and the like, not both")
    if id:
        document = client.ask("GET", f"/mail/{id}")
        show(document, list(_story(document)), as_json=as_json)
        return 0
    found = list(find(client, limit, **chosen))
    lines = [f"{m['tracking-id']}  {m['state']:<9}  {m['since']}  {m['provider'] or '-'}" for m in found]
    show({"mails": found}, lines, as_json=as_json)
    if not found:
        click.echo(_NO_MAIL, err=True)  # the list itself may be for a program
    return 0


def find(client: Client, limit: int, **chosen: str | None) -> Iterator[dict[str, Any]]:
    """Mails, newest first, page by page."""
    after = None
    while limit > 0:
        page = client.ask("GET", "/mail", query={**chosen, "after": after, "limit": min(limit, PAGE)})
        yield from page["mails"]
        after = page["after"]
        if after is None:
            return
        limit -= len(page["mails"])


def _story(document: dict[str, Any]) -> Iterator[str]:
    history = document["history"]
    for name, value in document.items():
        if name not in {"history", "next", "refused"} and value is not None:
            yield f"{name:<12} {value}"
    for refusal in document["refused"]:
        yield f"{'refused':<12} {refusal['recipient']}: {refusal['reason']}"
    yield ""
    for entry in history:
        told = (entry["at"], f"{entry.get('state', ''):<9}", entry.get("provider"), entry.get("reason"))
        yield "  ".join(part for part in told if part)
    yield ""
    yield document["next"]


@click.command()
@click.argument("ids", nargs=-1, required=True, callback=_checked_id)
@asks_service
def cancel(client: Client, *, ids: Sequence[str], as_json: bool) -> int:
    """Stop queued mails, unless a provider has them already."""
    done: list[str] = []
    refused: dict[str, str] = {}
    for id in ids:
        try:
            client.ask("DELETE", f"/mail/{id}")
            done.append(id)
        except Refused as error:
            if error.status not in {404, 409}:
                raise
            refused[id] = str(error.problem.get("state", UNKNOWN))
    return _report(Verb.CANCEL, done, refused, as_json=as_json)


def _verb(verb: Verb, text: str) -> click.Command:
    """The command of a verb, for given ids or for all mails that match."""
    states = FROM_STATES[verb]

    @click.command(str(verb), help=text)
    @click.argument("ids", nargs=-1, callback=_checked_id)
    @click.option("--all", "everything", is_flag=True, help="All that the other options fit.")
    @filters(states)
    @asks_service
    def command(client: Client, *, ids: Sequence[str], everything: bool, as_json: bool, **chosen: str | None) -> int:
        if ids and everything:
            raise click.UsageError("give IDS or --all, not both")
        if not everything and any(chosen.values()):
            raise click.UsageError("--state and the like go with --all, not with IDS")
        if not ids and not everything:
            raise click.UsageError(f"give IDS, or --all --state {' or '.join(states)}")
        if everything and not chosen["state"]:
            raise click.UsageError(f"--all needs --state {' or '.join(states)}")
        done: list[str] = []
        refused: dict[str, str] = {}
        for selection in _selections(ids, chosen):
            while True:
                answer = client.ask("POST", f"/mail/{verb}", body=msgspec.json.encode(selection))
                done += answer["done"]
                refused |= {letter["tracking-id"]: letter["state"] for letter in answer["refused"]}
                refused |= dict.fromkeys(answer["unknown"], UNKNOWN)
                if answer["after"] is None:
                    break
                selection["after"] = answer["after"]
        return _report(verb, done, refused, as_json=as_json)

    return command


def _selections(ids: Sequence[str], chosen: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    """What to act upon, in requests of a size that is allowed."""
    if not ids:
        yield {name: value for name, value in chosen.items() if value is not None}
    for batch in itertools.batched(ids, MOST, strict=False):
        yield {"ids": batch}


def _report(verb: Verb, done: Sequence[str], refused: dict[str, str], *, as_json: bool) -> int:
    lines = [f"{id}  {verb}: done" for id in done]
    for id, state in refused.items():
        lines.append(f"{id}  {verb}: not done, {_NOT_THERE if state == UNKNOWN else f'it is {state}'}")
    show({"done": done, "refused": refused}, lines or [_NO_MAIL], as_json=as_json)
    return 1 if refused else 0


def _switch(name: str, text: str, unchanged: str) -> click.Command:
    @click.command(name, help=text)
    @click.argument("provider", default=ALL)
    @asks_service
    def command(client: Client, *, provider: str, as_json: bool) -> int:
        document = client.ask("POST", f"/{name}", body=msgspec.json.encode({"provider": provider}))
        whom = "all providers" if provider == ALL else provider
        show(document, [f"{name}d: {whom}" if document["changed"] else f"{whom}: {unchanged}"], as_json=as_json)
        return 0

    return command


@click.command()
@asks_service
def reload(client: Client, *, as_json: bool) -> int:
    """Read postman.toml again; a mistake changes nothing."""
    report = client.ask("POST", "/reload")
    lines = [f"{what:<8} {', '.join(providers)}" for what, providers in report.items() if providers]
    show(report, lines, as_json=as_json)
    return 0


COMMANDS: tuple[click.Command, ...] = (
    status,
    send,
    mail,
    _verb(Verb.RELEASE, "Send held mails (again): they did not arrive."),
    _verb(Verb.DISCARD, "Give up held or queued mails."),
    _verb(Verb.SETTLE, "Record held mails as sent: they did arrive."),
    _verb(Verb.REPLAY, "Send failed or rejected mails anew."),
    cancel,
    _switch("pause", "Stop asking a provider, or all; survives a restart.", "paused already"),
    _switch("resume", "End a pause of a provider, or all pauses; it is asked at once.", "not paused; asked at once"),
    reload,
)
