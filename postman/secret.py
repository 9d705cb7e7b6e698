"""A secret of the configuration: shown nowhere, compared by value."""

from __future__ import annotations

import hmac


class Secret:
    """Text that must not appear in a repr, a log, an error or a statistic.

    In postman.toml it is `{ env = "NAME" }` or `{ file = "PATH" }`, resolved when the configuration is read.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

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
