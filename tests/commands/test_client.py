"""What a person is told who asks where there is no service, or with what can be no URL or key."""

from __future__ import annotations

import pytest

from postman.cli import main


@pytest.mark.parametrize(("url", "why"), [("http://127.0.0.1:1", "`postman serve`"), ("https://no.invalid/x", "known")])
def test_a_service_that_is_not_there_ends_with_3(url: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", url]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"{url} does not answer: ")
    assert why in said


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
