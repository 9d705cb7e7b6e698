"""A TOML table as a frozen struct, with every mistake that is in it and not only the first."""

from __future__ import annotations

import difflib
import enum
import math
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec

from postman.errors import ConfigError
from postman.secret import Secret


@dataclass(frozen=True)
class Place:
    """Where a mistake is, as a person finds it: `postman.toml: [[provider]] #2 "backup"`."""

    file: str
    table: str = ""
    item: str = ""

    def under(self, key: str) -> Place:
        """The table `key` of this one."""
        if self.item:
            return replace(self, item=f"{self.item} {key}")
        return replace(self, table=f"{self.table}.{key}".lstrip("."))

    def entry(self, number: int, raw: object) -> Place:
        """Entry `number`, from 1, of this array of tables, with its name if it has one."""
        name = raw.get("name") if isinstance(raw, Mapping) else None
        return replace(self, item=f' #{number} "{name}"' if isinstance(name, str) else f" #{number}")

    def __str__(self) -> str:
        if not self.table:
            return self.file
        return f"{self.file}: [[{self.table}]]{self.item}" if self.item else f"{self.file}: [{self.table}]"


class Reader:
    """Reads tables into structs and collects what is wrong with them.

    Beside what msgspec knows, a field may be a `Secret` (`{ env = "NAME" }` or `{ file = "PATH" }`) or a `Path`
    (made absolute). A `msgspec.Meta(description=...)` replaces the type's name in the message.

    Args:
        directory: what relative paths are relative to.
        strict: False where all values are text (the query of a URL).
        hidden: keys that are not for a person; they must have defaults.
    """

    def __init__(self, directory: Path, *, strict: bool = True, hidden: Collection[str] = ()) -> None:
        self.mistakes: list[str] = []
        self._directory = directory
        self._strict = strict
        self._hidden = hidden

    def read[S: msgspec.Struct](self, kind: type[S], raw: object, place: Place) -> S | None:
        """`raw` as `kind`; None when something is wrong with it, which is in `mistakes` then."""
        if not isinstance(raw, Mapping):
            self.note(place, "must be a table")
            return None
        before = len(self.mistakes)
        fields = {f.encode_name: f for f in msgspec.structs.fields(kind) if f.encode_name not in self._hidden}
        for key in raw:
            if key not in fields:
                self.note(place, f'unknown key "{key}"{did_you_mean(key, fields)}')
        values: dict[str, Any] = {}
        for key, field in fields.items():
            if key in raw:
                values[field.name] = self._value(field.type, raw[key], key, place)
            elif field.required:
                self.note(place, f'"{key}" is missing')
        if len(self.mistakes) > before:
            return None
        try:
            return kind(**values)
        except (ValueError, TypeError, ConfigError) as error:  # a check of the struct's own
            self.note(place, str(error))
            return None

    def note(self, place: Place, mistake: str) -> None:
        """Remember a mistake."""
        self.mistakes.append(f"{place}: {mistake}")

    def checked[S: msgspec.Struct](self, read: S | None) -> S:
        """What was read, if there is no mistake.

        Raises:
            ConfigError: a line for each mistake.
        """
        if self.mistakes or read is None:
            raise ConfigError("\n".join(self.mistakes))
        return read

    def _value(self, kind: Any, raw: object, key: str, place: Place) -> Any:  # noqa: ANN401  # a type of any form
        inner = get_args(kind)[:1]
        if _is_struct(kind):
            return self.read(kind, raw, place.under(key))
        if get_origin(kind) is tuple and inner and _is_struct(inner[0]):
            entries = place.under(key)
            if not isinstance(raw, list):
                self.note(place, f'"{key}" is a table that may be there several times: write [[{entries.table}]]')
                return None
            return tuple(self.read(inner[0], entry, entries.entry(n, entry)) for n, entry in enumerate(raw, 1))
        try:
            value = msgspec.convert(raw, kind, strict=self._strict, dec_hook=self._special)
        except (ValueError, ConfigError) as error:  # msgspec's ValidationError is a ValueError
            self.note(place, f'"{key}": {_in_words(error, kind)}')
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self.note(place, f'"{key}": must be finite')
        return value

    def _special(self, kind: type, raw: object) -> object:
        if kind is Secret:
            return self._secret(raw)
        if issubclass(kind, Path) and isinstance(raw, str):
            return self._directory / raw
        raise ValueError(f"cannot be read as {kind.__name__}")

    def _secret(self, raw: object) -> Secret:
        match raw:
            case {"env": str(name), **rest} if not rest:
                text = os.environ.get(name, "").rstrip("\r\n")
                if not text:
                    raise ValueError(f"the environment variable {name} is not set, or is empty")
            case {"file": str(name), **rest} if not rest:
                text = read_safely(self._directory / name).rstrip("\r\n")
                if not text:
                    raise ValueError(f"the file {name} is empty")
            case _:
                raise ValueError('a secret is not written here: use { env = "NAME" } or { file = "PATH" }')
        return Secret(text)


def read_safely(path: Path) -> str:
    """The text of a file that not everybody may write.

    Raises:
        ConfigError: naming the file and the cure.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors begin a file with a mark
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise ConfigError(f"{path} may be written by everybody; run: chmod o-w {path}")
            return file.read()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that complains about `word`: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return f'; did you mean "{near[0]}"?' if near else f" (known: {', '.join(names)})"


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _in_words(error: Exception, kind: object) -> str:
    """Without the wrong value: it may be a secret at the wrong place."""
    text = str(error)
    where = text.partition(" - at `$")[2].strip("`.")
    described = _described(kind) if where or get_origin(kind) not in {frozenset, tuple} else None
    if described:
        text = f"must be {described}"
    elif text.startswith("Invalid enum value"):
        text = f"must be one of {', '.join(_words(kind))}"
    else:
        text = _TYPES.sub(_type_in_words, text.partition(" - at `$")[0])
        text = text.replace("Expected", "must be", 1).replace(", got a number", "").replace(", got ", ", not ")
    return f"{where} {text}" if where else text


_TYPES = re.compile("`([^`]*)`")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "date": "a date",
    "time": "a time",
    "datetime": "a date and time",
}


def _type_in_words(match: re.Match[str]) -> str:
    return " or ".join(_WORDS.get(word, word) for word in match[1].split(" | ") if word != "null")


def _described(kind: object) -> str | None:
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Annotated:
            for meta in get_args(part)[1:]:
                if isinstance(meta, msgspec.Meta) and meta.description:
                    return meta.description
    return None


def _words(kind: object) -> list[str]:
    """The words of a Literal or an enum, wherever they are in a type."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    return [word for part in get_args(kind) for word in ([part] if isinstance(part, str) else _words(part))]
