"""The ceiling of the way in: the same server and endpoint, which decode and check mails and then drop them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

import trio

from postman import logs
from postman.config import Http
from postman.flake import Flake
from postman.http.endpoint import Office, create_app
from postman.http.keyring import Keyring
from postman.http.listeners import open_listeners
from postman.http.server import Server
from postman.intake import Intake
from postman.ledger import Accepted, Ledger
from postman.mail import Letter
from postman.queue import Queue


class _Dropper:
    """As much of a ledger, and of an office, as a POST asks."""

    async def accept(self, letters: Sequence[Letter], client: str, key: str | None, fingerprint: bytes) -> Accepted:
        await trio.lowlevel.checkpoint()
        return Accepted(tuple(letter.id for letter in letters), noted=True)

    def unready(self) -> str | None:
        return None


async def serve() -> None:
    """Serve on a free port of this machine until killed; print the URL."""
    http = Http()
    dropper = _Dropper()
    ledger, office = cast("Ledger", dropper), cast("Office", dropper)
    intake = Intake(ledger, cast("Queue", None), Flake())  # `noted`: no note is put
    server = Server(await open_listeners("127.0.0.1:0"), http)
    print(json.dumps({"url": server.url}), flush=True)  # noqa: T201  # whoever started it reads it
    await server.serve(create_app(intake, ledger, office, http, Keyring((), batch=http.max_batch)))


if __name__ == "__main__":
    logs.configure("info")
    trio.run(serve)
