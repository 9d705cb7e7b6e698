"""The demonstration: the real service with two fakes that fail every second call, and four mails.

It shows the one thing that Postman is for: a provider fails, another one takes over, and every mail ends in a state.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from postman.commands.client import Client
from postman.config import load
from postman.row import EndKind, State
from postman.sending.delivery import Called
from postman.service import run

CONFIG = """\
[http]
bind = "127.0.0.1:0"
[delivery]
workers = 1
grace = 5
[[provider]]
name = "lamda"
plugin = "lamda"
weight = 1
[[provider]]
name = "delta"
plugin = "delta"
weight = 0
"""

MAILS = 4

PATIENCE = 20.0
"""Seconds that a mail of the demonstration may take."""


def mail(number: int) -> dict[str, Any]:
    """Mail `number`, as a client posts it."""
    return {
        "to": [{"email": f"recipient-{number}@example.com", "name": f"Recipient {number}"}],
        "from": {"email": "postman@example.com", "name": "Postman"},
        "subject": f"Mail {number}",
        "content": [{"type": "text/plain", "value": f"This is mail {number}."}],
    }


async def demonstrate(tell: Callable[[str], None]) -> bool:
    """Run the service, post the mails one by one, and tell each provider call as it happens.

    Args:
        tell: takes a line for a person.

    Returns:
        Whether every mail was sent.
    """
    finals: list[tuple[int, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(prefix="postman-demo-") as directory:
        loaded = load(_written(Path(directory)))
        teller = _Teller(tell)
        async with trio.open_nursery() as nursery:
            url: str = await nursery.start(partial(run, loaded, on_call=teller.on_call))
            tell(f"Postman is at {url} with two fakes; each fails every second call, and nothing is delivered.")
            tell("lamda is asked first, delta takes over.")
            with Client(url) as client:
                for number in range(1, MAILS + 1):
                    teller.begin(number)
                    finals.append((number, await _send(client, mail(number))))
            nursery.cancel_scope.cancel()
    tell("")
    for number, final in finals:
        tell(f"  mail {number}   {final['tracking-id']}   {final['state']} by {final['provider']}")
    return all(final["state"] == State.SENT for _, final in finals)


def _written(directory: Path) -> Path:
    path = directory / "postman.toml"
    path.write_text(CONFIG)
    path.chmod(0o600)
    return path


async def _send(client: Client, mail: dict[str, Any]) -> dict[str, Any]:
    """Post one mail and wait for its end."""
    (id,) = (await _ask(client, "POST", "/mail", msgspec.json.encode([mail])))["tracking-ids"]
    document: dict[str, Any] = {}
    with trio.fail_after(PATIENCE):
        while not State(document.get("state", State.QUEUED)).ended:
            await trio.sleep(0.01)
            document = await _ask(client, "GET", f"/mail/{id}")
    return document


async def _ask(client: Client, method: str, path: str, body: bytes | None = None) -> Any:  # noqa: ANN401  # JSON
    return await trio.to_thread.run_sync(partial(client.ask, method, path, body=body))


class _Teller:
    """Says in a line what came of a call."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._mail = ""
        self._failed = False

    def begin(self, number: int) -> None:
        self._tell("")
        self._mail = f"mail {number}"
        self._failed = False

    def on_call(self, called: Called) -> None:
        if called.end.kind is EndKind.ACCEPTED:
            what = "took over and sent it" if self._failed else "sent it"
        else:
            what = f"failed: {called.end.reason}"
        self._tell(f"  {self._mail:<6}   {called.provider:<6} {what}")
        self._mail = ""
        self._failed = called.end.kind is not EndKind.ACCEPTED
