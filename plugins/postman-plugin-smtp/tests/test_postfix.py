"""Against Postfix, where it is installed: a private instance on loopback that holds what it takes."""

from __future__ import annotations

import email
import email.policy
import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from postman.mail import Address, Attachment, Content, Letter
from postman.provider import MailRefused, MailRejected, ProviderUnavailable, Receipt
from postman.testing.letters import a_letter, an_attempt
from postman.testing.ports import free_port
from postman_plugin_smtp import SmtpProvider
from postman_plugin_smtp.message import render

POSTFIX = shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(
    POSTFIX is None or os.geteuid() != 0,
    reason="needs Postfix (apt-get install postfix) and root, who alone may start it",
)

type OpenProvider = Callable[..., AbstractAsyncContextManager[SmtpProvider]]
type Send = Callable[..., Awaitable[list[Receipt]]]

MAIN = """
compatibility_level = 3.6
queue_directory = {home}/spool
data_directory = {home}/data
maillog_file = {home}/log/maillog
maillog_file_prefixes = {home}
myhostname = mx.example.net
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
alias_maps =
notify_classes =
message_size_limit = 500000
smtpd_recipient_limit = 60
smtpd_tls_security_level = encrypt
smtpd_tls_chain_files = {home}/etc/chain.pem
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = check_recipient_access inline:{{
    {{nobody@example.net = 550 5.1.1 no such user}}, {{later@example.net = 450 4.2.0 greylisted}}}}
smtpd_end_of_data_restrictions = check_client_access static:HOLD
"""

MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix(NamedTuple):
    """A running instance."""

    port: int
    home: Path

    def held(self, queue_id: str | None) -> bytes:
        """The message that it holds, with its own Received on top."""
        command = ["/usr/sbin/postcat", "-c", str(self.home / "etc"), "-bh", "-q", str(queue_id)]
        return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def postfix(authority: trustme.CA) -> Iterator[Postfix]:
    """Its own configuration, queue and port; nothing of an installed Postfix is touched."""
    home = Path(tempfile.mkdtemp(prefix="postfix"))  # not below pytest's, which the user postfix may not enter
    home.chmod(0o755)
    for name in ("etc", "spool", "data", "log"):
        (home / name).mkdir()
    shutil.chown(home / "data", "postfix")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(home / "etc/chain.pem"))
    port = free_port()
    (home / "etc/main.cf").write_text(MAIN.format(home=home))
    (home / "etc/master.cf").write_text(MASTER.format(port=port))
    command = [str(POSTFIX), "-c", str(home / "etc")]
    try:
        subprocess.run([*command, "start"], check=True, capture_output=True, timeout=30)
        yield Postfix(port, home)
    finally:
        subprocess.run([*command, "stop"], check=False, capture_output=True, timeout=30)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def send(postfix: Postfix, ca_file: Path, open_provider: OpenProvider) -> Send:
    """Send letters over one provider."""

    async def send(*letters: Letter) -> list[Receipt]:
        async with open_provider(postfix.port, security="starttls", ca_file=ca_file) as provider:
            return [await provider.send(letter, an_attempt()) for letter in letters]

    return send


async def test_postfix_holds_exactly_the_message_that_was_rendered(postfix: Postfix, send: Send) -> None:
    file = Attachment(filename="Ü.bin", type="application/octet-stream", content=bytes(range(256)) * 40)
    letters = [
        a_letter(subject="Grüße", bcc=(Address(email="hidden@example.net"),)),
        a_letter(content=(Content(type="text/plain", value="a\n.\n\r.\r..\n.\r\nb"),)),
        a_letter(content=(Content(type="text/html", value="<p>ä"),), attachments=(file,)),
        a_letter(to=tuple(Address(email=f"u{at}@example.net", name="é, x") for at in range(50))),
    ]
    receipts = await send(*letters)
    assert len({receipt.message_id for receipt in receipts}) == len(letters)
    for letter, receipt in zip(letters, receipts, strict=True):
        held = postfix.held(receipt.message_id).replace(b"\n", b"\r\n")
        assert held.endswith(render(letter))
        assert email.message_from_bytes(held, policy=email.policy.default).keys()[0] == "Received"
        assert b"hidden" not in held


async def test_postfix_refuses_recipients_one_by_one(send: Send) -> None:
    one, nobody, later = (Address(email=f"{name}@example.net") for name in ("one", "nobody", "later"))
    (receipt,) = await send(a_letter(to=(one, nobody)))
    assert [refusal.recipient for refusal in receipt.refused] == ["nobody@example.net"]
    with pytest.raises(MailRejected):
        await send(a_letter(to=(nobody,)))
    with pytest.raises(ProviderUnavailable):
        await send(a_letter(to=(one, later)))


async def test_postfix_says_its_limits(send: Send) -> None:
    file = Attachment(filename="f", type="application/octet-stream", content=b"x" * 400_000)
    with pytest.raises(MailRefused, match="the server takes 500000"):
        await send(a_letter(attachments=(file,)))
    with pytest.raises(MailRefused, match="takes fewer than 61 recipients"):
        await send(a_letter(to=tuple(Address(email=f"u{at}@example.net") for at in range(61))))
