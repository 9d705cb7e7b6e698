"""Names in postman.toml -> Kinds, through entry points and pluggy. Only what is named is imported.

A plugin is a distribution with an entry point in one of the groups of `postman.hookspecs`; what the entry point names
(a module or an object) has the one hook. Discovery reads metadata alone. Every way in which a plugin can be wrong is a
ConfigError that names the plugin and the cure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pluggy

from postman import distribution, hookspecs
from postman.config import Loaded, ProviderTable
from postman.errors import ConfigError
from postman.kind import Kind
from postman.secret import hide
from postman.table import Place, Reader

WORDS = {hookspecs.PROVIDERS: "provider", hookspecs.QUEUES: "queue", hookspecs.LEDGERS: "ledger"}
"""What a person calls the things of a group."""


@dataclass(frozen=True)
class Configured:
    """A kind with its settings, ready to be opened.

    Attributes:
        kind: what was registered.
        settings: of the type `kind.settings`; two configurations of one thing are equal.
        origin: the distribution that it comes from, with its version.
        fingerprint: changes when that distribution is installed again.
    """

    kind: Kind[Any, Any]
    settings: msgspec.Struct
    origin: str
    fingerprint: str


@dataclass(frozen=True)
class ConfiguredProvider(Configured):
    """A provider with its settings, and its table of postman.toml."""

    table: ProviderTable


@dataclass(frozen=True)
class Setup:
    """All that postman.toml names, decoded and checked; nothing is open."""

    loaded: Loaded
    ledger: Configured
    queues: tuple[Configured, ...]
    providers: tuple[ConfiguredProvider, ...]


def discover(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """The plugins of a group that are installed now, by name; imports none. More than one of a name is a conflict."""
    return _by_name(distribution.entry_points(), group)


def _by_name(points: Iterable[EntryPoint], group: str) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in sorted(points, key=lambda point: point.name):
        if point.group == group:
            found[point.name] = (*found.get(point.name, ()), point)
    return found


def origin(point: EntryPoint) -> str:
    """The distribution of an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def load_kind(group: str, name: str) -> Kind[Any, Any]:
    """Import the plugin `name`, and only that, and ask it what it is.

    Raises:
        ConfigError: there is none, there are two, or it is broken.
    """
    return _load(_find(distribution.entry_points(), group, name))


def decode_settings[S: msgspec.Struct](kind: Kind[S, Any], raw: object, place: Place | str, directory: Path) -> S:
    """The settings of `kind`, with secrets resolved and paths absolute; `place` is named in messages.

    Raises:
        ConfigError: a line for each mistake.
    """
    reader = Reader(directory)
    return reader.checked(reader.read(kind.settings, raw, place if isinstance(place, Place) else Place(place)))


def set_up(loaded: Loaded) -> Setup:
    """Everything that postman.toml names, decoded. Imports plugins, opens nothing.

    Raises:
        ConfigError: a line for each mistake in any of them.
    """
    mistakes: list[str] = []
    stores: list[Configured] = []
    providers: list[ConfiguredProvider] = []
    config = loaded.config
    points = distribution.entry_points()
    place = loaded.place.under("ledger")
    with _noted(mistakes):
        stores.append(_store(points, hookspecs.LEDGERS, config.ledger.url, place, loaded.directory))
    alike = config.queue.url is None
    place = place if alike else loaded.place.under("queue")
    for url in () if alike and mistakes else config.queue_urls:  # what is wrong with the one URL is told once
        with _noted(mistakes):
            stores.append(_store(points, hookspecs.QUEUES, url, place, loaded.directory))
    for number, table in enumerate(config.provider, 1):
        with _noted(mistakes):
            place = loaded.place.under("provider").entry(number, {"name": table.name})
            providers.append(_provider(points, table, place, loaded.directory))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    ledger, *queues = stores
    return Setup(loaded, ledger, tuple(queues), tuple(providers))


@contextmanager
def _noted(mistakes: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        mistakes.append(str(error))


_TABLES = ("policy", "visibility-timeout")
"""What the settings of a store have from the tables of postman.toml, and not from its URL."""


def _store(points: Sequence[EntryPoint], group: str, url: str, place: Place, directory: Path) -> Configured:
    """A ledger or queue: the URL's scheme is its name, the query its further settings."""
    base, _, query = url.partition("?")
    raw = [("url", base), *parse_qsl(query, keep_blank_values=True)]
    reader = Reader(directory, strict=False, hidden=_TABLES)
    for word, times in Counter(word for word, _ in raw).items():
        if times > 1:
            reader.note(place.under("url"), f'"{word}" is there {times} times')
    try:
        point = _find(points, group, base.partition(":")[0])
        kind = _load(point)
        settings: msgspec.Struct | None = reader.read(kind.settings, dict(raw), place.under("url"))
        if settings:
            kind.check(settings)
    except ConfigError as error:
        raise ConfigError(f"{place}: url: {error}") from error
    return Configured(kind, reader.checked(settings), origin(point), distribution.fingerprint(point.dist))


def _provider(points: Sequence[EntryPoint], table: ProviderTable, place: Place, directory: Path) -> ConfiguredProvider:
    try:
        point = _find(points, hookspecs.PROVIDERS, table.plugin)
        kind = _load(point)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    settings = decode_settings(kind, table.settings, place.under("settings"), directory)
    return ConfiguredProvider(kind, settings, origin(point), distribution.fingerprint(point.dist), table)


def _find(points: Iterable[EntryPoint], group: str, name: str) -> EntryPoint:
    word = WORDS[group]
    found = _by_name(points, group)
    match found.get(name, ()):
        case (point,):
            return point
        case ():
            near = get_close_matches(name.lower(), found, n=1)
            raise ConfigError(
                f"no plugin named {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + f" (installed: {', '.join(found) or 'none'})."
                + f" A {word} is added by installing its distribution, see plugins/README.md",
            )
        case several:
            brought = " and ".join(sorted(origin(point) for point in several))
            raise ConfigError(f"{brought} both bring a {word} named {name!r}; uninstall one of them")


def _load(point: EntryPoint) -> Kind[Any, Any]:
    """The wall between us and the import of a plugin."""
    plugin = f"plugin {point.name!r} ({origin(point)})"
    try:
        kind = _ask(distribution.load(point))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit too: nothing that a plugin does at import may end us
        what = hide(f"{type(error).__name__}: {error}".rstrip(": "))
        raise ConfigError(f"{plugin} cannot be used: {what}; repair, upgrade or uninstall it") from error
    return kind


def _ask(plugin: object) -> Kind[Any, Any]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    answers = manager.hook.postman_register()
    if not answers:
        raise ConfigError("it has no hook postman_register, marked with postman.hookspecs.hookimpl")
    kind = answers[0]
    if not isinstance(kind, Kind):
        raise ConfigError(f"its hook postman_register returned {type(kind).__name__}, not a postman.kind.Kind")
    if not issubclass(kind.settings, msgspec.Struct):
        raise ConfigError(f"its settings are {kind.settings.__name__}, not a msgspec.Struct")
    return kind
