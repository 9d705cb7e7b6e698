"""What stands in postman.toml under `settings` of a provider `smtp`."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from postman.errors import ConfigError
from postman.host import is_loopback
from postman.kind import ProviderSettings
from postman.secret import Secret

_PORTS = {"starttls": 587, "tls": 465, "none": 25}

Host = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")]
HeloName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.:\[\]-]{1,253}$")]
Username = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,255}$")]


class SmtpSettings(ProviderSettings, frozen=True, kw_only=True):
    """Settings of one account.

    Attributes:
        host: name or address of the server; a name of another script as A-label (`xn--...`).
        port: default 587 for `starttls`, 465 for `tls`, 25 for `none`.
        security: `starttls` upgrades before anything else and never falls back; `tls` from the first byte; `none` sends
            in clear text, and a password then only to this very machine.
        username: with `password`; without both no AUTH is made.
        password: for AUTH PLAIN or LOGIN.
        ca_file: PEM file of the authorities to trust instead of the system's.
        helo_name: what we call ourselves; default this machine's name if it has a dot, else our address.
    """

    host: Host
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: Username | None = None
    password: Secret | None = None
    ca_file: Path | None = None
    helo_name: HeloName | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work, or would give the password away."""
        if (self.username is None) != (self.password is None):
            raise ValueError("`username` and `password` go together: set both or none")
        if self.password is not None and self.security == "none" and not is_loopback(self.host):
            raise ValueError(
                '`security = "none"` would send the password in clear text: use `starttls` or `tls`, or no `username`'
            )
        if self.security == "none" and self.ca_file is not None:
            raise ValueError("`ca-file` needs `security` `starttls` or `tls`")

    @property
    def service(self) -> int:
        """The port to connect to."""
        return self.port or _PORTS[self.security]


def account(settings: SmtpSettings) -> str:
    """Server and user: `smtp.example.com:587/user`."""
    return f"{settings.host.lower()}:{settings.service}/{settings.username or ''}"


def trust(settings: SmtpSettings) -> ssl.SSLContext:
    """Whom to believe: certificates and names are verified, TLS 1.2 or later. Reads files.

    Raises:
        ConfigError: `ca-file` cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # SSLError is one
        raise ConfigError(f"ca-file {settings.ca_file} holds no certificates that can be read: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
