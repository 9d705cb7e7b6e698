"""Each way in which a provider can fail, at once: the status names them all, no mail is lost, burnt or sent twice."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import trustme

from postman.row import State
from postman.testing import acts
from postman.testing.customer import open_customer
from postman.testing.fault_server import Act, open_fault_server
from postman.testing.ports import free_port
from postman.testing.program import open_program

BREAKS = 5
"""Faults in a row that open a breaker."""
FAULTS: dict[str, tuple[Act | None, str]] = {
    "refused": (None, "no connection: connection refused"),
    "untrusted": (acts.answer(202), "no connection: its certificate is not trusted"),
    "revoked": (acts.answer(401), "the provider answered 401 Unauthorized"),
    "moved": (acts.redirect("http://127.0.0.1:1/"), "the provider answered 302 Found"),
    "limited": (acts.answer(429, {"Retry-After": "600"}), "it said that its limit is reached"),
    "busy": (acts.answer(503), "the provider answered 503 Service Unavailable"),
    "broken": (acts.answer(500), "the provider answered 500 Internal Server Error"),
    "silent": (acts.hang(accept=True), "within 0.5 s"),
    "rude": (acts.reset_after_request(accept=True), "the request was sent, but no answer came"),
}
DOUBTFUL = {"broken", "silent", "rude"}


def all_named(status: Mapping[str, list[str]]) -> bool:
    """Whether it has a sentence for each of the providers."""
    return sum("is not asked for another" in told or "has a bug" in told for told in status["because"]) > len(FAULTS)


async def test_whatever_a_provider_suffers_from_stands_in_the_status(
    tmp_path: Path, toml: Callable[..., str], provider: Callable[..., str]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    key = f'api-key = {{ file = "{tmp_path / "key"}" }}'
    async with AsyncExitStack() as stack:
        tables = []
        for name, (act, _) in FAULTS.items():
            url = f"http://127.0.0.1:{free_port()}"
            if act:
                tls = context if name == "untrusted" else None
                url = (await stack.enter_async_context(open_fault_server(otherwise=act, tls=tls))).url
            more = f'timeout = {0.5 if name == "silent" else 20}\nfrom-domains = ["{name}.example"]'
            tables.append(provider(name, "sendgrid", f'{key}, base-url = "{url}"', more=more))
        tables.append(provider("buggy", settings='outcomes = ["bug"]', more='from-domains = ["buggy.example"]'))
        text = toml(*tables, workers=64, more='from-domains = ["example.org"]')
        program = await stack.enter_async_context(open_program(tmp_path, text))
        customer = await stack.enter_async_context(open_customer(lambda: program.url))
        await program.start()
        for name in (*FAULTS, "buggy"):
            mail = {
                "to": [{"email": "ann@example.com"}],
                "from": {"email": f"shop@{name}.example"},
                "subject": "",
                "content": [{"type": "text/plain", "value": "x"}],
            }
            await customer.post(name, [mail] * BREAKS)
        because = (await customer.wait_status(all_named))["because"]
        for name, (_, words) in FAULTS.items():
            (sentence,) = [sentence for sentence in because if f"Provider {name} " in sentence]
            assert words in sentence
        assert any("The plugin of provider buggy has a bug (" in sentence for sentence in because)
        await program.stop()
        rows = {str(row.id): row for row in await program.rows()}
    for name in FAULTS:
        for row in [rows[id] for id in customer.promised[name]]:
            if name in DOUBTFUL:
                assert (row.attempts, row.state) in {(1, State.IN_DOUBT), (1, State.HELD), (0, State.QUEUED)}, name
            else:
                assert (row.attempts, row.state) == (0, State.QUEUED), name
