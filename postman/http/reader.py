"""Reads a JSON document strictly and notes every place where it is not what it should be.

A `Reader` never raises for what it reads: each method returns the value, or a harmless stand-in after noting a fault.
"""

from __future__ import annotations

import difflib
import enum
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec

from postman.errors import PostmanError
from postman.text import flaw

MAX_FAULTS = 100
"""Later faults are left out."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class Fault(msgspec.Struct, frozen=True):
    """What is wrong where.

    Attributes:
        path: `[1].to[0].email`; empty: the whole document.
        message: a predicate to be read after the path: "must be text, not a number".
    """

    path: str
    message: str


class Invalid(PostmanError):
    """A document is not what it should be.

    Attributes:
        errors: every fault, the first hundred of them.
    """

    def __init__(self, errors: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(f"{fault.path or 'the body'} {fault.message}" for fault in errors))
        self.errors = errors


class _Doubled(dict[str, Any]):
    """An object in which the name `twice` came twice."""

    twice: str


def decode(body: bytes, most_values: int) -> Value:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no Infinity. Numbers become 0.0, since no document of ours holds any.

    Args:
        body: the bytes.
        most_values: more values than this are refused before they take memory.

    Raises:
        Invalid: with one fault that says where reading stopped.
    """
    try:
        if len(body) > most_values < _count_values(body) and _count_values(_STRING.sub(b"", body)) > most_values:
            _refuse(f"holds more than {most_values} values")
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        _refuse(f"is not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        _refuse(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        _refuse("is nested too deeply")


type Value = object
"""What JSON holds: None, bool, float, str, list or dict."""

type Fields = Mapping[str, tuple[str, Callable[[Any, Value, str], Any]]]
"""What an object may have: of each field, the name that its value gets, and the method of a reader that reads it."""


def _fine(_text: str) -> None:
    return None


class Reader:
    """One walk over one document; `faults` is what it found wrong so far."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.wrong = 0

    def fault(self, path: str, message: str) -> None:
        """Note that `path` is wrong."""
        self.wrong += 1
        if self.wrong <= MAX_FAULTS:
            self.faults.append(Fault(path, message))

    def fields(self, value: Value, path: str, known: Fields, required: Iterable[str] = ()) -> dict[str, Any] | None:
        """The fields of an object that are there, under their new names; None when anything in it is wrong."""
        before = self.wrong
        read = {}
        for name, raw in self.mapping(value, path).items():
            if name in known:
                rename, method = known[name]
                read[rename] = method(self, raw, f"{path}.{name}" if path else name)
            else:
                hint = did_you_mean(name, known) if self.wrong < MAX_FAULTS else ""  # costs too much for thousands
                self.fault(at(path, name), f"is not known{hint}")
        if isinstance(value, dict):
            for name in required:
                if name not in value:
                    self.fault(at(path, name), "is missing")
        return read if self.wrong == before else None

    def mapping(self, value: Value, path: str, *, most: int | None = None) -> dict[str, Any]:
        """An object with any names, none of them twice."""
        if not isinstance(value, dict):
            self.fault(path, f"must be an object, not {kind(value)}")
            return {}
        if isinstance(value, _Doubled):
            self.fault(at(path, value.twice), "is there twice")
        if most is not None and len(value) > most:
            self.fault(path, f"has {len(value)} entries; at most {most} are allowed")
            return {}
        return value

    def items(
        self,
        value: Value,
        path: str,
        read: Callable[[Value, str], Any],
        *,
        most: int,
        least: int = 0,
    ) -> tuple[Any, ...]:
        """Read a list of `least` to `most` values; one that is longer is noted and not read."""
        if not isinstance(value, list):
            self.fault(path, f"must be a list, not {kind(value)}")
        elif len(value) > most:
            self.fault(path, f"has {len(value)} entries; at most {most} are allowed")
        elif len(value) < least:
            self.fault(path, "must not be empty")
        else:
            return tuple([read(item, f"{path}[{i}]") for i, item in enumerate(value)])
        return ()

    def text(self, value: Value, path: str, check: Callable[[str], str | None] = _fine) -> str:
        """Text that `check` finds nothing wrong with; it answers with a predicate if it does."""
        if not isinstance(value, str):
            self.fault(path, f"must be text, not {kind(value)}")
            return ""
        reason = check(value)
        if reason:
            self.fault(path, reason)
        return value

    def line(self, value: Value, path: str, *, most: int, least: int = 0) -> str:
        """Text that may be in a header, of `least` to `most` characters."""
        if isinstance(value, str) and not least <= len(value) <= most:
            self.fault(path, f"must have {least} to {most} characters, not {len(value)}")
            return ""
        return self.text(value, path, flaw)

    def pattern(self, value: Value, path: str, pattern: re.Pattern[str], wanted: str) -> str:
        """Text that matches `pattern`; `wanted` says so in words."""
        return self.text(value, path, lambda text: None if pattern.fullmatch(text) else wanted)

    def choice[T: enum.StrEnum](self, value: Value, path: str, choices: type[T]) -> T | None:
        """A member of `choices`."""
        try:
            if isinstance(value, str):
                return choices(value)
        except ValueError:
            pass
        known = [member.value for member in choices]
        self.text(value, path, lambda text: f"must be one of {', '.join(known)}{did_you_mean(text, known)}")
        return None

    def time(self, value: Value, path: str) -> datetime | None:
        """An RFC 3339 time with offset, as UTC."""
        try:
            if isinstance(value, str) and _RFC3339.fullmatch(value):
                return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        self.text(value, path, lambda _: "must be a time with its offset, as 2026-11-24T09:00:00+01:00 (RFC 3339)")
        return None


def at(path: str, name: str) -> str:
    """The path of the field `name` of the object at `path`."""
    if not _PLAIN_KEY.fullmatch(name):
        return f"{path}[{json.dumps(name[:64])}]"
    return f"{path}.{name}" if path else name


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    return _KINDS[type(value)]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A hint to add to a message, if `word` is nearly one of `known`."""
    close = difflib.get_close_matches(word[:64], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _count_values(body: bytes) -> int:
    """About how many lists, objects and members there are, without making them; too many if strings look like them."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _refuse(message: str) -> NoReturn:
    raise Invalid((Fault("", message),)) from None


def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Pairs as a JSON object that remembers whether a name came twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = _Doubled(found)
        doubled.twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        return doubled
    return found


def _number(_digits: str) -> float:
    return 0.0  # int() of 5,000 digits raises


def _constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a value", "", 0)


_DECODER = json.JSONDecoder(
    object_pairs_hook=as_object,
    parse_int=_number,
    parse_float=_number,
    parse_constant=_constant,
)
_KINDS = {
    str: "text",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
    _Doubled: "an object",
}
