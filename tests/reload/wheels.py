"""A plugin in several versions, as distributions to be installed."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

SOURCE = """
import json
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from postman.hookspecs import hookimpl
from postman.kind import Kind, ProviderSettings
from postman.provider import Receipt
from postman.secret import Secret

VERSION = "{version}"


class Settings(ProviderSettings, frozen=True):
    file: Path
    key: Secret


class Tiny:
    def __init__(self, settings):
        self.settings = settings

    async def send(self, letter, attempt):
        attempt.starting()
        attempt.handed_over()
        if letter.mail.subject == "slow":
            self.settings.file.with_name("slow-begun").touch()
            while not self.settings.file.with_name("slow-may-end").exists():
                await trio.sleep(0.01)
        entry = {{"id": letter.id, "version": VERSION, "key": self.settings.key.reveal()}}
        with self.settings.file.open("a") as file:
            file.write(json.dumps(entry) + "\\n")
        return Receipt("tiny " + VERSION)


@asynccontextmanager
async def open_tiny(settings, surroundings):
    await trio.sleep({opens})
    yield Tiny(settings)


@hookimpl
def postman_register():
    return Kind("tiny", Settings, open_tiny, marks=True)
"""


def wheel(directory: Path, name: str, version: str, source: str) -> Path:
    """Build a distribution with one plugin `name`."""
    module, info = f"load_plugin_{name}", f"load_plugin_{name}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"from {module}.provider import postman_register\n",
        f"{module}/provider.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: load-plugin-{name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[postman.providers]\n{name} = {module}\n",
    }
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    record = [f"{path},sha256={digests[path].decode().rstrip('=')},{len(files[path])}\n" for path in files]
    path = directory / f"load_plugin_{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": "".join([*record, f"{info}/RECORD,,\n"])}.items():
            archive.writestr(file, text)
    return path
