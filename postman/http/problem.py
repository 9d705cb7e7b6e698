"""Answers that say no: `application/problem+json` (RFC 9457), and which error becomes which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from postman.errors import (
    ConfigError,
    DamagedRow,
    KeyReused,
    NewerRow,
    PostmanError,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from postman.http.reader import Fault, Invalid

FULL_RETRY = 30
BUSY_RETRY = 5

_OUR_FAULT = "This is our fault; the log says more."
_log = structlog.get_logger()


class Problem(PostmanError):
    """The request is not done.

    Args:
        status: of HTTP.
        detail: a sentence for the client's developer; nothing of our insides.
        errors: each place that is wrong.
        headers: of the answer.
        more: further members of the document.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = {"Content-Type": "application/problem+json", **(headers or {})}
        self.document = {"title": status.phrase, "status": status, "detail": detail, **(more or {})}
        if errors:
            self.document["errors"] = errors


def not_now(detail: str, seconds: float = BUSY_RETRY, **headers: str) -> Problem:
    """503: nothing was accepted; ask again in so many seconds."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": f"{seconds:.0f}", **headers})


def problem_of(error: Exception) -> Problem:  # noqa: C901, PLR0911  # one line a kind
    """What a client is told of an error. What it must not be told is logged."""
    match error:
        case Problem():
            return error
        case Invalid():
            return Problem(HTTPStatus.BAD_REQUEST, "Nothing was done; see errors.", errors=error.errors)
        case KeyReused():
            detail = "This Idempotency-Key came before with another body. Nothing was accepted."
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
        case StoreFull():
            return not_now("There is no room for more mail. Nothing was accepted.", FULL_RETRY)
        case StoreUnavailable(may_have_happened=True):
            _log.error("the store did not answer", error=str(error))
            return not_now("It is not known whether this was done. Repeat it, a POST with the same Idempotency-Key.")
        case NewerRow():
            return not_now("A newer Postman wrote this mail; this one, which is older, leaves it alone.")
        case DamagedRow():
            detail = (
                "What is stored of this mail is damaged, so nothing can be told of it, or done with it. Ask the"
                " recipient, or look at the providers, before it is posted anew."
            )
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
        case StoreError():
            _log.error("the store did not answer", error=str(error))
            return not_now("The store does not answer. Nothing was done.")
        case ConfigError():
            return Problem(HTTPStatus.CONFLICT, str(error))
        case HTTPException():
            return _of_http(error)
        case _:
            _log.error("a request failed", exc_info=error)
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, _OUR_FAULT)


def _of_http(error: HTTPException) -> Problem:
    """What Quart itself refuses: unknown paths, wrong methods, bodies that are too large or too slow."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    details = {
        HTTPStatus.NOT_FOUND: "There is nothing here.",
        HTTPStatus.METHOD_NOT_ALLOWED: "This cannot be done here; see Allow.",
        HTTPStatus.CONTENT_TOO_LARGE: "The body is too large.",
        HTTPStatus.REQUEST_TIMEOUT: "The body took too long to arrive.",
        HTTPStatus.INTERNAL_SERVER_ERROR: _OUR_FAULT,
    }
    return Problem(status, details.get(status, "The request is wrong."), headers=headers)
