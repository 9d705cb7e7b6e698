"""The damaged mails among those that the clerk must see to."""

from __future__ import annotations

from postman.backends import seal
from postman.errors import DamagedRow, NewerRow
from postman.mail import Id
from postman.row import Row

SHOWN = 3
"""So many are named in the sentence."""


class Damage:
    """What one look of the clerk came across: each is told once in the log, and all in the status until they are whole.

    Args:
        before: the look before.
    """

    def __init__(self, before: Damage | None = None) -> None:
        self.ids: dict[Id, None] = {}
        self._told = before.ids.keys() if before else frozenset[Id]()

    def decoded(self, id: Id, stored: bytes) -> Row | None:
        """See `seal.decoded`."""
        try:
            return seal.row_of(id, stored)
        except NewerRow:
            return None
        except DamagedRow as error:
            if id not in self._told and id not in self.ids:
                seal.tell(id, error)
            self.ids[id] = None
            return None

    @property
    def troubles(self) -> tuple[str, ...]:
        """A sentence, if there are any."""
        number = len(self.ids)
        if not number:
            return ()
        named = ", ".join([*self.ids][:SHOWN]) + (f" and {number - SHOWN} more" if number > SHOWN else "")
        sentence = (
            f"{'1 mail is' if number == 1 else f'{number} mails are'} damaged in the ledger, and nobody can send or end"
            f" what was promised: {named}. Restore the ledger from a copy; or post them again, and delete them there."
        )
        return (sentence,)
