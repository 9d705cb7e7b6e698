"""Secrets and people's words that must not come out: a plugin and a vendor that repeat all they were given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2 as httpx
import pytest
import trio

from postman.http.keyring import new_key
from postman.testing import acts
from postman.testing.fault_server import FaultServer, open_fault_server
from postman.testing.waiting import wait_for, wait_until

SECRET = "SG.canary-of-a-secret.0123456789"
ADDRESS = "canary@recipient.example"
SUBJECT = "canary-in-the-subject"
BODY = "canary-in-the-body"

PLUGIN = """
from contextlib import asynccontextmanager
from postman.errors import *
from postman.hookspecs import hookimpl
from postman.kind import Kind, ProviderSettings
from postman.provider import Receipt, Refusal
from postman.secret import Secret

class Settings(ProviderSettings, frozen=True, kw_only=True):
    key: Secret
    deed: str = ""

class Worst(BaseException):
    pass

class Gossip:
    def __init__(self, settings):
        self.key = settings.key.reveal()

    async def send(self, letter, attempt):
        mail = letter.mail
        words = f"key {self.key} to {mail.to[0].email} about {mail.subject}: {mail.text}"
        attempt.starting()
        match mail.tags[0]:
            case "bug": raise ValueError(words)
            case "chain":
                try: raise KeyError(words)
                except KeyError as error: raise RuntimeError(words) from error
            case "worst": raise Worst(words)
            case "group": raise BaseExceptionGroup(words, [ValueError(words), Worst(words)])
            case "refuse": raise MailRefused(f"key {self.key} to {mail.to[0].email}")
            case "reject": raise MailRejected(f"key {self.key} to {mail.to[0].email}")
            case "down": raise ProviderUnavailable(f"key {self.key} to {mail.to[0].email}")
        attempt.handed_over()
        match mail.tags[0]:
            case "late": raise ValueError(words)
            case "unknown": raise OutcomeUnknown(f"key {self.key} to {mail.to[0].email}")
            case "long": raise OutcomeUnknown("x" * 490 + self.key + "y" * 1_000_000)
        return Receipt("id\\n" * 100_000, tuple(Refusal(mail.to[0].email, f"key {self.key}") for _ in range(1_000)))

@asynccontextmanager
async def open_gossip(settings, surroundings):
    if settings.deed == "config":
        raise ConfigError(f"the key {settings.key.reveal()} is wrong")
    if settings.deed == "bug":
        raise ValueError(settings.key.reveal())
    yield Gossip(settings)

@hookimpl
def postman_register():
    return Kind("gossip", Settings, open_gossip, marks=True)
"""
DEEDS = ["bug", "chain", "worst", "group", "refuse", "reject", "down", "late", "unknown", "long", "receipt"]
KEY = new_key("shop")
TOML = """\
[http]
bind = "127.0.0.1:0"
[[http.key]]
name = "shop"
sha256 = "{digest}"
scopes = ["admin"]
[delivery]
workers = 2
[[provider]]
name = "gossip"
plugin = "gossip"
from-domains = ["shop.example"]
settings = {{ key = {{ file = "secret" }}, deed = "{deed}" }}
[[provider]]
name = "vendor"
plugin = "sendgrid"
from-domains = ["vendor.example"]
settings = {{ api-key = {{ file = "secret" }}, base-url = "{url}" }}
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A directory with the plugin `gossip`, as pip would install it."""
    directory = tmp_path / "plugins"
    about = directory / "gossip-1.dist-info"
    about.mkdir(parents=True)
    directory.chmod(0o755)
    (directory / "gossip.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gossip\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[postman.providers]\ngossip = gossip\n")
    (about / "RECORD").write_text("gossip.py,,\n")
    return directory


@pytest.fixture
async def vendor() -> AsyncIterator[FaultServer]:
    """Answers with the key, the request and everything."""
    said = {"errors": [{"message": f"wrong key {SECRET} for {ADDRESS}", "field": f"Bearer {SECRET}"}]}
    async with open_fault_server(otherwise=acts.answer(401, body=json.dumps(said).encode())) as server:
        yield server


def write_toml(directory: Path, vendor: FaultServer, deed: str = "") -> Path:
    path = directory / "postman.toml"
    digest = KEY.toml.split('sha256 = "')[1].split('"')[0]
    path.write_text(TOML.format(digest=digest, deed=deed, url=vendor.url))
    (directory / "secret").write_text(f"{SECRET}\n")
    return path


def postman(plugins: Path, *words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "postman", "--plugins", str(plugins), *words]


@asynccontextmanager
async def serving(toml: Path, plugins: Path, level: str) -> AsyncIterator[httpx.AsyncClient]:
    command = postman(plugins, "serve", "--config", str(toml), "--log-level", level)
    with (toml.parent / "log").open("wb") as out:
        process = await trio.lowlevel.open_process(command, stderr=out, stdout=out)
    try:
        log = toml.parent / "log"
        await wait_until(lambda: '"ready"' in log.read_text() or process.returncode is not None)
        said = log.read_text()
        assert process.returncode is None, said
        url = json.loads(next(line for line in said.splitlines() if '"ready"' in line))["url"]
        headers = {"Authorization": f"Bearer {KEY.token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=10, trust_env=False) as client:
            yield client
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()


async def outputs(client: httpx.AsyncClient, toml: Path) -> Mapping[str, str]:
    """Everything that somebody may read after every deed was done."""
    told: dict[str, str] = {}
    ids: list[str] = []
    for deed in DEEDS:
        ids += await post(client, deed, "shop.example")
    ids += await post(client, "vendor", "vendor.example")
    for id in ids:  # accepted, sending, and its end
        answer = await wait_for(
            partial(client.get, f"/mail/{id}"), lambda told: len(told.json()["history"]) > 2, within=20
        )
        told[id] = answer.text
    for method, path, body in (
        ("GET", "/status", None),
        ("GET", "/mail?limit=100", None),
        ("GET", "/", None),
        ("POST", "/mail", [{"to": [{"email": ADDRESS, "key": SECRET}], "subject": SUBJECT}]),
        ("GET", f"/mail/{SECRET}", None),
        ("POST", "/pause", {"provider": "none"}),
    ):
        answer = await client.request(method, path, json=body)
        told[f"{method} {path}"] = answer.text
    toml.write_text(toml.read_text().replace('deed = ""', 'deed = "bug"'))
    answer = await client.post("/reload")
    assert answer.status_code == 409, answer.text
    told["POST /reload"] = answer.text
    told["GET /status after it"] = (await client.get("/status")).text
    return told


async def post(client: httpx.AsyncClient, deed: str, domain: str) -> list[str]:
    mail = {
        "to": [{"email": ADDRESS}],
        "from": {"email": f"shop@{domain}"},
        "subject": SUBJECT,
        "content": [{"type": "text/plain", "value": BODY}],
        "tags": [deed],
    }
    answer = await client.post("/mail", json=[mail])
    assert answer.status_code == 202, answer.text
    ids: list[str] = answer.json()["tracking-ids"]
    return ids


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_nothing_comes_out_whatever_plugins_and_vendors_say(
    level: str, tmp_path: Path, plugins: Path, vendor: FaultServer
) -> None:
    toml = write_toml(tmp_path, vendor)
    async with serving(toml, plugins, level) as client:
        told = dict(await outputs(client, toml))
        database = b"".join(path.read_bytes() for path in tmp_path.glob("postman.db*"))
    log = (tmp_path / "log").read_text()
    assert log.count("bug in a plugin") >= 5
    assert "Traceback" in log
    assert "wrong key ***" in told["GET /status"]
    for place, text in {**told, "log": log}.items():
        assert SECRET not in text, place
        assert SECRET[:12] not in text or place == f"GET /mail/{SECRET}", place
        assert KEY.token not in text, place
    for text in (log, told["GET /status"], told["POST /reload"]):
        assert ADDRESS not in text
    for place, text in told.items():
        if place != "POST /mail":
            assert SUBJECT not in text, place
            assert BODY not in text, place
            assert len(text) < 100_000, place
    if level == "info":
        assert SUBJECT not in log
        assert BODY not in log
    assert SECRET.encode() not in database
    assert KEY.token.encode() not in database


@pytest.mark.parametrize("deed", ["config", "bug"])
def test_a_plugin_that_does_not_open_tells_no_secret(deed: str, tmp_path: Path, plugins: Path) -> None:
    toml = write_toml(tmp_path, FaultServer("http://127.0.0.1:1", None, acts.answer(202)), deed)
    for words in (["check", "--live"], ["serve"]):
        ended = subprocess.run(
            postman(plugins, *words, "--config", str(toml)), capture_output=True, text=True, timeout=60, check=False
        )
        said = ended.stdout + ended.stderr
        assert ended.returncode in {1, 2}, said
        assert SECRET not in said
        assert "***" in said
