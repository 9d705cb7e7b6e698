"""The page to look at: `GET /` shows in a browser what `GET /status` and `GET /mail` tell. It asks them itself."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final

HTML: Final = files("postman.http").joinpath("page.html").read_text(encoding="utf-8")
"""The whole page; it loads nothing, and holds no data."""


def policy(html: str) -> str:
    """The Content-Security-Policy under which only the page's own script and style run, and only we are asked."""
    script, style = (_hash(html, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(html: str, tag: str) -> str:
    text = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": policy(HTML),
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
