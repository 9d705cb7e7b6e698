"""AWS Signature Version 4 of a request with a body and without a query. Pure: no I/O, and the time is an argument."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final

from botocore.credentials import ReadOnlyCredentials

SERVICE: Final = "sqs"
_WHAT: Final = "AWS4-HMAC-SHA256"


def sign(
    keys: ReadOnlyCredentials, region: str, at: datetime, headers: Mapping[str, str], body: bytes
) -> dict[str, str]:
    """The headers that sign a POST of `body` to `/`.

    Args:
        keys: of the account; with a token when they are temporary.
        region: whose endpoint is asked.
        at: the time by the clock of AWS, which refuses what is five minutes off; UTC.
        headers: to be signed; `Host` among them.
        body: all of it.

    Returns:
        What is to be sent beside `headers`.
    """
    time = at.strftime("%Y%m%dT%H%M%SZ")
    day = time[:8]
    added = {"X-Amz-Date": time} | ({"X-Amz-Security-Token": keys.token} if keys.token else {})
    signed = sorted((name.lower(), value) for name, value in {**headers, **added}.items())
    names = ";".join(name for name, _ in signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed)
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{day}/{region}/{SERVICE}/aws4_request"
    text = f"{_WHAT}\n{time}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    proof = _hmac(_key(keys.secret_key, day, region), text).hex()
    return {
        **added,
        "Authorization": f"{_WHAT} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={proof}",
    }


@lru_cache(maxsize=4)
def _key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, SERVICE, "aws4_request"):
        key = _hmac(key, word)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), hashlib.sha256)
