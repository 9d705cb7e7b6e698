"""Reads what a client asks about letters: which ones, and which provider."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from postman.address import BadAddress, parse_email
from postman.http.reader import Fields, Invalid, Reader, Value, as_object, decode
from postman.ledger import ALL, Filter
from postman.mail import Id
from postman.row import State, Verb

MOST = 500
"""Letters in one answer, or acted upon by one request."""
USUAL = 50

NO_ID = "no tracking id; they look like 0x6882f4a1c0001000"
"""What a person is told that another text is."""

FROM_STATES = {
    Verb.RELEASE: (State.HELD,),
    Verb.DISCARD: (State.HELD, State.QUEUED),
    Verb.SETTLE: (State.HELD, State.IN_DOUBT),
    Verb.REPLAY: (State.FAILED, State.REJECTED),
}
"""What a person may do, and to letters in which states."""

_ID = re.compile("0x[0-9a-f]{16}")
_LIMIT = re.compile("[1-9][0-9]{0,2}")
_TAG = re.compile("[A-Za-z0-9_.:-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}|\*")


class Listing(msgspec.Struct, frozen=True):
    """Which letters, newest first: at most `limit` of those that `filter` fits, beginning behind `after`."""

    filter: Filter
    after: Id | None = None
    limit: int = USUAL


class Selection(msgspec.Struct, frozen=True):
    """Letters to act upon: these ids, or those of a listing."""

    ids: tuple[Id, ...] = ()
    listing: Listing | None = None


def as_id(text: str) -> Id | None:
    """`text` as a tracking id, if it looks like one."""
    return Id(text) if _ID.fullmatch(text) else None


def read_listing(pairs: Iterable[tuple[str, str]]) -> Listing:
    """The query of `GET /mail`: `state`, `since`, `recipient`, `tag`, `client`, `after`, `limit`.

    Raises:
        Invalid: with every parameter that is wrong.
    """
    reader = _QueryReader()
    return reader.checked(reader.listing(as_object(list(pairs)), "", _LISTING))


def read_selection(body: bytes, verb: Verb) -> Selection:
    """The body of `POST /mail/{verb}`: `{"ids": [...]}`, or `{"state": ..., ...}` as in the query of `GET /mail`.

    Raises:
        Invalid: with every place that is wrong; also when letters in that state cannot be acted upon so.
    """
    reader = _QueryReader()
    tree = decode(body, most_values=10 * MOST)
    if isinstance(tree, dict) and "ids" in tree:
        return reader.checked(Selection(**(reader.fields(tree, "", _IDS) or {})))
    listing = reader.listing(tree, "", _SELECTION)
    if not reader.wrong and listing.filter.state not in FROM_STATES[verb]:
        reader.fault("state", f"must be one of {', '.join(FROM_STATES[verb])} to {verb}, or give ids")
    return reader.checked(Selection(listing=msgspec.structs.replace(listing, limit=MOST)))


def read_provider(body: bytes) -> str:
    """The body of `POST /pause` and `/resume`: empty or `{"provider": "name"}`; `*`, all, when it names none.

    Raises:
        Invalid: with every place that is wrong.
    """
    if not body:
        return ALL
    reader = _QueryReader()
    read: dict[str, str] = reader.checked(reader.fields(decode(body, most_values=10), "", _PROVIDER) or {})
    return read.get("provider", ALL)


class _QueryReader(Reader):
    def checked[T](self, value: T) -> T:
        """`value`, if nothing was wrong."""
        if self.faults:
            raise Invalid(tuple(self.faults))
        return value

    def listing(self, value: Value, path: str, known: Fields) -> Listing:
        read: dict[str, Any] = self.fields(value, path, known) or {}
        after, limit = read.pop("after", None), read.pop("limit", USUAL)
        return Listing(Filter(**read), after, limit)

    def state(self, value: Value, path: str) -> State | None:
        return self.choice(value, path, State)

    def since(self, value: Value, path: str) -> float | None:
        time = self.time(value, path)
        return time.timestamp() if time else None

    def recipient(self, value: Value, path: str) -> str:
        try:
            return parse_email(self.text(value, path))
        except BadAddress as error:
            self.fault(path, str(error))
            return ""

    def tag(self, value: Value, path: str) -> str:
        return self.pattern(value, path, _TAG, "must be 1 to 64 of A-Z, a-z, 0-9, and _ . : -")

    def name(self, value: Value, path: str) -> str:
        return self.pattern(value, path, _NAME, "must be 1 to 64 of A-Z, a-z, 0-9, and _ . -, or *")

    def id(self, value: Value, path: str) -> Id:
        return Id(self.pattern(value, path, _ID, "must be a tracking id, 0x and 16 digits of 0-9 a-f"))

    def ids(self, value: Value, path: str) -> tuple[Id, ...]:
        return tuple(dict.fromkeys(self.items(value, path, self.id, most=MOST, least=1)))

    def limit(self, value: Value, path: str) -> int:
        text = self.pattern(value, path, _LIMIT, f"must be a number from 1 to {MOST}")
        if _LIMIT.fullmatch(text) and int(text) > MOST:
            self.fault(path, f"must be a number from 1 to {MOST}")
        return MOST if self.wrong else int(text)


_LISTING: Fields = {
    "state": ("state", _QueryReader.state),
    "since": ("since", _QueryReader.since),
    "recipient": ("recipient", _QueryReader.recipient),
    "tag": ("tag", _QueryReader.tag),
    "client": ("client", _QueryReader.name),
    "after": ("after", _QueryReader.id),
    "limit": ("limit", _QueryReader.limit),
}
_SELECTION: Fields = {name: field for name, field in _LISTING.items() if name != "limit"}
_IDS: Fields = {"ids": ("ids", _QueryReader.ids)}
_PROVIDER: Fields = {"provider": ("provider", _QueryReader.name)}
