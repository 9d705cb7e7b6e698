"""The provider `smtp`: one account at one submission server (RFC 6409).

settings.py     what stands in postman.toml
provider.py     one letter, one transaction: the phases and what each reply means for the letter
reply.py        a reply, and the outcome that it stands for
message.py      letter -> bytes; header.py: one header -> bytes. Pure
connection.py   commands and replies on one connection; session.py opens one: connect, TLS, EHLO, AUTH
pool.py         connections between letters
"""

from __future__ import annotations

from postman.hookspecs import hookimpl
from postman.kind import FEATURES, Kind
from postman_plugin_smtp.provider import SmtpProvider, open_smtp
from postman_plugin_smtp.settings import SmtpSettings, account

__all__ = ["SmtpProvider", "SmtpSettings", "open_smtp"]


@hookimpl
def postman_register() -> Kind[SmtpSettings, SmtpProvider]:
    """See `postman.hookspecs`."""
    features = frozenset(FEATURES) - {"tags", "metadata"}
    return Kind("smtp", SmtpSettings, open_smtp, account=account, marks=True, features=features)
