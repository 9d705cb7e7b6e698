"""A client of a running service, for the command line. It takes the standard library's: it starts in a blink."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import msgspec

from postman.errors import ConfigError, PostmanError


class Unreachable(PostmanError):
    """No answer of a service of ours came."""


class Refused(PostmanError):
    """The service answered that it did not do it.

    Args:
        status: the HTTP status.
        problem: the body, `application/problem+json`.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(self._text())

    def _text(self) -> str:
        said = self.problem.get("detail") or self.problem.get("title") or "no reason was given"
        if self.status == 401:
            said = f"{said} (the key is taken from POSTMAN_KEY)"
        places = [
            f"  {error.get('path') or 'the body'}: {error.get('message')}" for error in self.problem.get("errors", ())
        ]
        return "\n".join([f"{said} [{self.status}]", *places])


class Client:
    """One conversation with a service.

    Args:
        url: where it listens.
        key: an API key, if it wants one.
        timeout: seconds for each question.

    Raises:
        ConfigError: URL or key cannot be one.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 60.0) -> None:
        self.url = url
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError("what POSTMAN_KEY holds is no key: it has characters that no key has")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http, self._prefix = _connection(url, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | None] | None = None,
        body: bytes | None = None,
        idempotency_key: str | None = None,
    ) -> Any:  # noqa: ANN401  # a JSON document
        """Ask and return the document of the answer; a query of None is left out.

        Raises:
            Unreachable: no answer of a service of ours came; whether it did it is not known.
            Refused: it did not do it, and says why.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        headers = self._headers | ({} if body is None else {"Content-Type": "application/json"})
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        target = f"{self._prefix}{path}{'?' if given else ''}{urlencode(given)}"
        try:
            self._http.request(method, target, body, headers)
            answer = self._http.getresponse()
            content = answer.read()
        except (OSError, HTTPException, UnicodeError) as error:
            raise Unreachable(f"{self.url} does not answer: {_why(error)}") from error
        document = _document(content)
        stranger = Unreachable(
            f"{self.url} is no Postman, or what stands before it answered in its place [{answer.status}]"
        )
        if not isinstance(document, dict):  # ours answers with an object, whatever it says
            raise stranger
        if not 200 <= answer.status < 300:
            raise Refused(answer.status, document)
        return _Answer(document, stranger)


class _Answer(dict[str, Any]):
    """The document of an answer; asked for a field that it lacks it is none of ours."""

    def __init__(self, document: dict[str, Any], stranger: Unreachable) -> None:
        super().__init__(document)
        self._stranger = stranger

    def __missing__(self, _name: str) -> Any:  # noqa: ANN401  # never
        raise self._stranger


def _connection(url: str, timeout: float) -> tuple[HTTPConnection, str]:
    """A connection that is not open yet, and what paths begin with behind a proxy."""
    mistake = ConfigError(f"{url} is not the URL of a service: write http://HOST:PORT")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise mistake from None
    kind = {"http": HTTPConnection, "https": HTTPSConnection}.get(parts.scheme)
    if kind is None or not parts.hostname or parts.username or parts.query or not re.fullmatch(r"[!-~]+", url):
        raise mistake
    return kind(parts.hostname, port, timeout=timeout), parts.path.rstrip("/")


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there; `postman serve` does, if it runs"
    if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
        return "it speaks no TLS; write http://"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _document(content: bytes) -> Any:  # noqa: ANN401  # a JSON document
    try:
        return msgspec.json.decode(content) if content else None
    except msgspec.DecodeError:
        return None
