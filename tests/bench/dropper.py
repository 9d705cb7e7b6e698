"""The ceilings of the way in: the same endpoint, which decodes and checks mails and then drops them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import cast

import hypercorn.trio
import trio
from hypercorn.config import Config
from quart_trio import QuartTrio

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


def _app(http: Http) -> QuartTrio:
    dropper = _Dropper()
    ledger, office = cast("Ledger", dropper), cast("Office", dropper)
    intake = Intake(ledger, cast("Queue", None), Flake())  # `noted`: no note is put
    return create_app(intake, ledger, office, http, Keyring((), batch=http.max_batch))


async def serve(*, stock: bool) -> None:
    """Serve on a free port of this machine until killed; print the URL.

    Args:
        stock: by Quart-Trio and Hypercorn as they are, and not by our server.
    """
    http = Http()
    app = _app(http)
    async with trio.open_nursery() as nursery:
        if stock:
            app.asgi_http_class, app.request_class = QuartTrio.asgi_http_class, QuartTrio.request_class
            config = Config()
            config.bind, config.errorlog = ["127.0.0.1:0"], None
            (url,) = await nursery.start(hypercorn.trio.serve, app, config)
        else:
            server = Server(await open_listeners("127.0.0.1:0"), http)
            url = server.url
            nursery.start_soon(server.serve, app)
        print(json.dumps({"url": url}), flush=True)  # noqa: T201  # whoever started it reads it


if __name__ == "__main__":
    logs.configure("info")
    trio.run(partial(serve, stock="--stock" in sys.argv))
