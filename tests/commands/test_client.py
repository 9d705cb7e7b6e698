"""What a person is told who asks where there is no service, or with what can be no URL or key."""

from __future__ import annotations

import pytest
import trio

from postman.cli import main
from postman.testing import acts
from postman.testing.fault_server import Act, Turn, open_fault_server


@pytest.mark.parametrize(("url", "why"), [("http://127.0.0.1:1", "`postman serve`"), ("https://no.invalid/x", "known")])
def test_a_service_that_is_not_there_ends_with_3(url: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", url]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"{url} does not answer: ")
    assert why in said


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"<html>"), (200, b"<html>"), (200, b"[]"), (200, b'{"status": "UP"}'), (404, b""), (502, b"Bad Gateway")],
)
async def test_what_answers_and_is_no_service_of_ours_ends_with_3(
    status: int, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_fault_server(otherwise=acts.answer(status, body=body, then_close=True)) as other:
        assert await trio.to_thread.run_sync(main, ["status", "--url", other.url]) == 3
    said = capsys.readouterr().err
    assert said == f"{other.url} is no Postman, or what stands before it answered in its place [{status}]\n"


async def test_a_service_that_speaks_no_tls_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    async def play(turn: Turn) -> bool:
        await turn.stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        return False

    async with open_fault_server(otherwise=Act(play)) as other:
        url = other.url.replace("http:", "https:")
        assert await trio.to_thread.run_sync(main, ["status", "--url", url]) == 3
    assert "speaks no TLS; write http://" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "ftp://127.0.0.1",
        "127.0.0.1:8901",
        "http://[",
        "http://127.0.0.1:99999",
        "http://a b",
        "http://\u00e4.de",
    ],
)
def test_what_is_no_url_ends_with_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", url]) == 2
    assert f"{url} is not the URL of a service" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["pm_l\u00efve_", "a\nb"])
def test_a_key_that_cannot_be_one_ends_with_2(
    key: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTMAN_KEY", key)
    assert main(["status", "--url", "http://127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert "POSTMAN_KEY" in said
    assert key not in said
