"""One exchange over HTTP: what is read of a request before its meaning, and how an answer is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from quart import Response, request

from postman.http.problem import Problem

_KEY = re.compile("[!-~]{1,255}")
_WANTED = "The body must have Content-Type: application/json, be UTF-8 and not compressed."
_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


async def json_body(*, may_be_empty: bool = False) -> bytes:
    """The body of the request, which must say that it is JSON and be neither compressed nor in another charset.

    Raises:
        Problem: 415.
        HTTPException: it is too large, or too slow.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    is_json = request.mimetype == "application/json" and charset == "utf-8"
    if encoding != "identity" or not (is_json or (may_be_empty and not request.mimetype)):
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, _WANTED)
    body: bytes = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    if body and not is_json:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, _WANTED)
    return body


def idempotency_key() -> str | None:
    """The Idempotency-Key, if there is one.

    Raises:
        Problem: 400, there are several, or it is none.
    """
    keys = request.headers.getlist("Idempotency-Key")
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Problem(HTTPStatus.BAD_REQUEST, "Idempotency-Key must be one, of 1 to 255 visible ASCII characters.")
    return keys[0]


def answer(document: object, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON, for this client alone."""
    return Response(msgspec.json.encode(document, enc_hook=str), status, {**_HEADERS, **(headers or {})})
