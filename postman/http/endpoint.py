"""The way in: HTTP to intake, ledger and office. Every route stands in one table, with the scope that it needs.

A client sees only its own letters; another's are as unknown to it as those that never were.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import structlog
from quart import Response, request
from quart_trio import QuartTrio

from postman import journal
from postman.config import Http, Scope
from postman.failpoint import failpoint
from postman.host import host_of, is_loopback
from postman.http import explain, page, query
from postman.http.exchange import Application, answer, idempotency_key, json_body
from postman.http.keyring import Client, Keyring
from postman.http.parse import parse
from postman.http.problem import Problem, not_now, problem_of
from postman.intake import Intake
from postman.ledger import Ledger
from postman.row import Row, State, Verb

_NOBODY = Client("", frozenset())
_PUBLIC = frozenset({"well", "because", "version", "up", "durable"})
"""What of the status every client may know."""

_log = structlog.get_logger()


class Office(Protocol):
    """What the way in may ask of the whole house."""

    async def status(self) -> dict[str, Any]:
        """The document of `GET /status`."""
        ...

    def unready(self) -> str | None:
        """Why no mail can be accepted now, in words for anyone, with nothing of our insides; None: it can."""
        ...

    async def pause(self, provider: str, who: str) -> bool | None:
        """Begin no more calls of `provider` (`*`: of any); whether it was not paused before. None: there is no such."""
        ...

    async def resume(self, provider: str, who: str) -> bool | None:
        """End that; whether there was a pause of this name. None: there is no such provider."""
        ...

    async def reload(self) -> dict[str, Any]:
        """Read postman.toml anew; what changed.

        Raises:
            ConfigError: nothing changed, and why.
        """
        ...

    async def wake(self, rows: Sequence[Row]) -> None:
        """Put notes for rows that a person queued again."""
        ...


class Route(NamedTuple):
    """Who may ask what. `any`: every key; `public`: no key at all."""

    method: str
    path: str
    scope: Scope | Literal["any", "public"]
    handler: Callable[..., Awaitable[Response]]


def create_app(
    intake: Intake,
    ledger: Ledger,
    office: Office,
    http: Http,
    keyring: Keyring,
    *,
    takes_mail: bool = True,
) -> QuartTrio:
    """The application; limits on connections and headers are the server's.

    Args:
        intake: takes mails.
        ledger: is read and acted upon.
        office: answers for the house.
        http: bounds of bodies and batches.
        keyring: whose keys are valid; may be replaced under way.
        takes_mail: whether mail is taken here at all.
    """
    app = Application("postman", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=http.max_body, PROVIDE_AUTOMATIC_OPTIONS=False)
    app.url_map.merge_slashes = False  # else //mail is redirected
    endpoint = _Endpoint(intake, ledger, office, http, keyring)
    for route in endpoint.routes(takes_mail=takes_mail):
        name = f"{route.method} {route.path}".replace(".", "_")
        app.add_url_rule(route.path, name, endpoint.view(route), methods=[route.method])
    app.register_error_handler(Exception, _refuse)
    return app


class _Endpoint:
    """One method for each route."""

    def __init__(self, intake: Intake, ledger: Ledger, office: Office, http: Http, keyring: Keyring) -> None:
        self._intake = intake
        self._ledger = ledger
        self._office = office
        self._http = http
        self._keyring = keyring

    def routes(self, *, takes_mail: bool) -> Sequence[Route]:
        """The whole table."""
        return (
            Route("POST", "/mail", "send", self.post if takes_mail else self.turn_away),
            Route("GET", "/mail", "read", self.find),
            Route("GET", "/mail/<id>", "read", self.read),
            Route("DELETE", "/mail/<id>", "cancel", partial(self.act, verb=Verb.CANCEL)),
            *(Route("POST", f"/mail/<id>/{v}", "admin", partial(self.act, verb=v)) for v in query.FROM_STATES),
            *(Route("POST", f"/mail/{v}", "admin", partial(self.act_on_many, verb=v)) for v in query.FROM_STATES),
            Route("POST", "/pause", "admin", self.pause),
            Route("POST", "/resume", "admin", self.resume),
            Route("POST", "/reload", "admin", self.reload),
            Route("GET", "/status", "any", self.status),
            Route("GET", "/", "public", self.page),
            Route("GET", "/health/live", "public", self.live),
            Route("GET", "/health/ready", "public", self.ready),
        )

    def view(self, route: Route) -> Callable[..., Awaitable[Response]]:
        """The route's handler behind its lock."""

        async def view(**place: str) -> Response:
            if route.scope == "public":
                return await route.handler(_NOBODY, **place)
            client = self._client()
            if route.scope != "any" and not client.may(route.scope):
                raise Problem(HTTPStatus.FORBIDDEN, f"This needs a key with the scope {route.scope!r}.")
            return await route.handler(client, **place)

        return view

    async def post(self, client: Client) -> Response:
        """Take mails."""
        reason = self._office.unready()
        if reason:
            raise not_now(f"No mail is accepted now: {reason}. Nothing was accepted.", Connection="close")
        key = idempotency_key()
        failpoint("A1")
        body = await json_body()
        fingerprint = hashlib.sha256(body).digest() if key else b""
        mails = parse(body, self._http, repeatable=key is not None)
        del body  # it may be 30 MiB, and what is made of it takes as much again, twice, until it is stored
        errors = client.wrong_senders(mails)
        if errors:
            raise Problem(HTTPStatus.FORBIDDEN, "Nothing was accepted; see errors.", errors=errors)
        wait = self._keyring.spend(client, len(mails))
        if wait:
            headers = {"Retry-After": f"{math.ceil(wait)}"}
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS, "This client sends too fast. Nothing was accepted.", headers=headers
            )
        accepted = await self._intake.accept(mails, client.name, key, fingerprint)
        headers = {"Idempotency-Replayed": "true"} if accepted.replayed else {}
        failpoint("A6")
        return answer({"queued": True, "tracking-ids": accepted.ids}, HTTPStatus.ACCEPTED, headers)

    async def turn_away(self, _client: Client) -> Response:
        """Take no mail, because another process does."""
        raise not_now(
            "This process runs with --only workers and takes no mail: post it to one that runs with --only http, or"
            " without --only. Nothing was accepted."
        )

    async def find(self, client: Client) -> Response:
        """List letters, newest first."""
        listing = query.read_listing(request.args.items(multi=True))
        own = listing.filter if client.admin else msgspec.structs.replace(listing.filter, client=client.name)
        rows = await self._ledger.find(own, listing.after, listing.limit)
        after = rows[-1].id if len(rows) == listing.limit else None
        now = time.time()
        return answer({"mails": [explain.summary(row, now) for row in rows], "after": after})

    async def read(self, client: Client, id: str) -> Response:
        """Tell all about one letter."""
        return self._told(await self._row(client, id))

    async def act(self, client: Client, id: str, verb: Verb) -> Response:
        """Do `verb` to one letter; to cancel what is cancelled is no error."""
        row = await self._row(client, id)
        row, done = (await self._ledger.act([row.id], verb, client.name)).get(row.id, (row, False))
        if done:
            await self._follow([row])
            _log.info("acted", verb=verb, who=client.name, id=row.id)
        elif not (verb is Verb.CANCEL and row.state is State.CANCELLED):
            detail = f"This mail is {row.state}; {verb} does not apply to it."
            raise Problem(HTTPStatus.CONFLICT, detail, more={"tracking-id": row.id, "state": row.state})
        return self._told(row)

    async def act_on_many(self, client: Client, verb: Verb) -> Response:
        """Do `verb` to up to 500 letters: `{"ids": [...]}`, or those that a filter fits, `{"state": "held", ...}`.

        Answers `done`, `refused` and `unknown`; ask again with `after` until it is null.
        """
        selection = query.read_selection(await json_body(), verb)
        ids, after = selection.ids, None
        if selection.listing:
            listing = selection.listing
            rows = await self._ledger.find(listing.filter, listing.after, listing.limit)
            ids = tuple(row.id for row in rows)
            after = ids[-1] if len(ids) == listing.limit else None
        acted = await self._ledger.act(ids, verb, client.name)
        await self._follow([row for row, done in acted.values() if done])
        _log.info("acted", verb=verb, who=client.name, mails=sum(done for _, done in acted.values()))
        return answer(
            {
                "done": [id for id, (_, done) in acted.items() if done],
                "refused": [{"tracking-id": id, "state": r.state} for id, (r, done) in acted.items() if not done],
                "unknown": [id for id in ids if id not in acted],
                "after": after,
            },
        )

    async def pause(self, client: Client) -> Response:
        """Begin no more calls of a provider, or of any."""
        return await self._switch(client, self._office.pause, paused=True)

    async def resume(self, client: Client) -> Response:
        """End that."""
        return await self._switch(client, self._office.resume, paused=False)

    async def _switch(
        self, client: Client, switch: Callable[[str, str], Awaitable[bool | None]], *, paused: bool
    ) -> Response:
        provider = query.read_provider(await json_body(may_be_empty=True))
        changed = await switch(provider, client.name)
        if changed is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"There is no provider named {provider!r} in postman.toml.")
        _log.info("paused" if paused else "resumed", provider=provider, who=client.name)
        return answer({"provider": provider, "paused": paused, "changed": changed})

    async def reload(self, _client: Client) -> Response:
        """Read postman.toml anew."""
        return answer(await self._office.reload())

    async def status(self, client: Client) -> Response:
        """Tell whether all is well, and to an admin why not, and the numbers, which are of all clients."""
        document = await self._office.status()
        if not client.admin:
            document = {name: told for name, told in document.items() if name in _PUBLIC}
            document["because"] = document["because"] and ["A key with the scope admin is told why."]
        return answer(document)

    async def page(self, _client: Client) -> Response:
        """Show the status to a person; the page asks for it with the person's key."""
        return Response(page.HTML, HTTPStatus.OK, page.HEADERS)

    async def live(self, _client: Client) -> Response:
        """Answer, and so show that the process lives."""
        return answer({"live": True})

    async def ready(self, _client: Client) -> Response:
        """Tell whether mail is accepted now."""
        reason = self._office.unready()
        if reason:
            raise not_now(f"No mail is accepted now: {reason}.")
        return answer({"ready": True})

    def _client(self) -> Client:
        """Whose request it is."""
        if self._keyring.open and (
            "Origin" in request.headers or not is_loopback(host_of(request.headers.get("Host", "localhost")))
        ):
            raise Problem(HTTPStatus.FORBIDDEN, "Without keys only programs of this machine are served, no web pages.")
        given = request.headers.getlist("Authorization")
        client = self._keyring.authenticate(given[0] if len(given) == 1 else None)
        if client is None:
            headers = {"WWW-Authenticate": "Bearer"}
            detail = "This key is not known." if given else "This needs a key: Authorization: Bearer pm_live_..."
            raise Problem(HTTPStatus.UNAUTHORIZED, detail, headers=headers)
        if self._keyring.is_over(client):
            raise Problem(HTTPStatus.UNAUTHORIZED, f"This key has expired, at {client.expires}; ask for a new one.")
        return client

    async def _row(self, client: Client, id: str) -> Row:
        known = query.as_id(id)
        if known is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"This is {query.NO_ID}.")
        row = await self._ledger.read(known, None if client.admin else client.name)
        if row is None:
            raise Problem(HTTPStatus.NOT_FOUND, "There is no mail with this tracking id.")
        return row

    async def _follow(self, rows: Sequence[Row]) -> None:
        """What follows from a person's act: a line in the log for each end, and notes for what is queued again."""
        for row in rows:
            journal.write(row)
        queued = [row for row in rows if row.state is State.QUEUED]
        if queued:
            await self._office.wake(queued)

    def _told(self, row: Row) -> Response:
        return answer(explain.document(row, time.time()))


async def _refuse(error: Exception) -> Response:
    problem = problem_of(error)
    return answer(problem.document, problem.status, problem.headers)
