"""The one hook, and the entry-point groups that plugins are found in. Hooks register, objects work."""

from __future__ import annotations

from typing import Any

import pluggy

from postman.kind import Kind

PROJECT = "postman"
CORE = "postman-mail"
"""The distribution of Postman itself."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

PROVIDERS = "postman.providers"
QUEUES = "postman.queues"
LEDGERS = "postman.ledgers"


@hookspec
def postman_register() -> Kind[Any, Any]:  # type: ignore[empty-body]  # a specification has no body
    """Say what this plugin is. Called once, must not block or open anything."""
