"""TLS to PostgreSQL: what the URL asks for is had, or refused with the reason."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from postman.backends.postgres.checks import is_exposed
from postman.backends.postgres.server import Server, prepare
from postman.errors import StoreUnavailable
from postman.testing.postgres_server import PostgresServer
from postman.testing.tcp_proxy import carry


@asynccontextmanager
async def encrypted(port: int, ca: trustme.CA) -> AsyncGenerator[int]:
    """Before a server that was built without TLS: a port that speaks it, with a certificate for `localhost`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.receive_some(8)  # "do you speak TLS?"
            await stream.send_all(b"S")
            secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            await carry(secure, await trio.open_tcp_stream("127.0.0.1", port))

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_certificate_and_its_name_are_verified_when_the_url_says_so(
    postgres: Server, postgres_process: PostgresServer, tmp_path: Path
) -> None:
    ours, others = trustme.CA(), trustme.CA()

    def named(host: str, port: int, ca: trustme.CA = ours) -> Server:
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        options = {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.pem")}
        return Server(f"postgresql://postgres@{host}:{port}/postgres", postgres.schema, options=options)

    async with encrypted(postgres_process.port, ours) as port:
        await prepare(named("localhost", port), durable=True)
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await prepare(named("localhost", port, others), durable=True)
        with pytest.raises(StoreUnavailable, match="does not match host name"):
            await prepare(named("127.0.0.1", port), durable=True)
    with pytest.raises(StoreUnavailable, match="does not support SSL"):
        await prepare(named("localhost", postgres_process.port), durable=True)


@pytest.mark.parametrize(
    ("address", "encrypted", "exposed"),
    [
        ("", False, False),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("192.0.2.1", False, True),
        ("2001:db8::1", False, True),
        ("192.0.2.1", True, False),
    ],
)
def test_mails_that_travel_unencrypted_to_another_machine_are_exposed(
    address: str, encrypted: bool, exposed: bool
) -> None:
    assert is_exposed(address, encrypted=encrypted) is exposed
