"""One exchange over HTTP: what is read of a request before its meaning, and how an answer is written."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Mapping
from http import HTTPStatus
from typing import Any, cast

import msgspec
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Response, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from postman.http.problem import Problem

_KEY = re.compile("[!-~]{1,255}")
_WANTED = "The body must have Content-Type: application/json, be UTF-8 and not compressed."
_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Body(TrioBody):
    """The body of a request, read when the handler asks for it; Quart's is read ahead, by a task of its own."""

    receive: ASGIReceiveCallable

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:  # noqa: ARG002  # what is said to come was looked at by the server
        self._most = math.inf if max_content_length is None else max_content_length

    def __await__(self) -> Generator[Any, None, bytes]:
        """All of it.

        Raises:
            HTTPException: it is too large, or did not come.
        """
        return self._read().__await__()

    async def _read(self) -> bytes:
        body = bytearray()  # pieces of a large one would stay with the allocator, among what others take
        more = True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientDisconnected
            body += message["body"]
            if len(body) > self._most:
                raise RequestEntityTooLarge
            more = message["more_body"]
        return bytes(body)


class Request(TrioRequest):
    """A request with such a body."""

    body_class = Body
    body: Body


class Exchange(TrioASGIHTTPConnection):
    """A request and its answer in the task of the server; Quart begins two more."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer."""
        request = cast("Request", self._create_request_from_scope(send))
        request.body.receive = receive
        await self._send_response(send, await self.app.handle_request(request))


class Application(QuartTrio):
    """Quart, with less to do for each request."""

    asgi_http_class = Exchange
    request_class = Request


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
    body: bytes = await request.body
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
