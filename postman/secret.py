"""What must not be shown: the secrets of the configuration, and people's addresses."""

from __future__ import annotations

import hmac
import re
from typing import Final

SHORTEST: Final = 8
"""Characters; shorter secrets are not looked for in texts, which would lose half their words."""

_ADDRESS = re.compile(r"(?<![^\s<>\"(),;:@])[^\s<>\"(),;:@]++@[^\s<>\"'(),;:]++")
_texts: Final[set[str]] = set()  # of secrets that were replaced, too: they were not meant to be seen either


class Secret:
    """Text that must not appear in a repr, a log, an error or a statistic.

    In postman.toml it is `{ env = "NAME" }` or `{ file = "PATH" }`, resolved when the configuration is read.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) >= SHORTEST:
            _texts.add(text)

    def reveal(self) -> str:
        """The text itself; call it where it is put on the wire, and nowhere else."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))


def hide(text: str) -> str:
    """`text` for a log, an error or a history: without any secret that this process knows, and without mail addresses.

    The last line of defence: words of vendors and of plugins may repeat what they were given.
    """
    for secret in sorted(_texts, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _ADDRESS.sub("(address)", text) if "@" in text else text
