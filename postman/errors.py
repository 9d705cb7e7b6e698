"""Every error that crosses a seam of Postman.

PostmanError
 +- ConfigError                     postman.toml, a plugin or a secret is wrong; nothing was opened
 +- StoreError                      ledger or queue
 |   +- StoreUnavailable            not now: nothing was changed, or it is not known (`may_have_happened`)
 |   |   +- StoreBroken             never again in this process; only a restart can help
 |   +- StoreFull                   `queue.max-length` is reached, or the disk is full; nothing was changed
 |   +- StoreRefused                this store may not be used (corrupt, locked by another process, newer schema)
 |   +- KeyReused                   the idempotency key came before with another body; nothing was changed
 |   +- IdTaken                     an id exists already; nothing was changed, mint new ones
 |   +- NewerRow                    a newer Postman wrote this letter; it is left alone
 |   +- DamagedRow                  what is stored of this letter is damaged; it is left alone
 |   +- LeaseLost                   the note's lease is over; somebody else may have it
 +- TooLate                         the claim's lease is over: the call must not begin
 +- BreakerOpen                     (breaker.py) the call was not begun
 +- ProviderError                   how a provider call ended, when not with a Receipt
     +- NotAccepted                 SURELY not accepted
     |   +- ProviderUnavailable     the provider's fault or limit; another provider may be asked now
     |   +- ProviderMisconfigured   our account or settings; another provider may be asked now
     |   +- MailRefused             this provider refuses this mail; another provider may be asked now
     |   |   +- PluginBug           the plugin broke before anything was handed over
     |   +- MailRejected            the mail is wrong anywhere, or must not be sent; nobody is asked
     +- OutcomeUnknown              PERHAPS accepted; nobody else is ever asked by itself
"""

from __future__ import annotations


class PostmanError(Exception):
    """Base of all errors of Postman; `str()` is a sentence for a person."""


class ConfigError(PostmanError):
    """A mistake in postman.toml, in a plugin or in a secret. The text names the place and the cure."""


class StoreError(PostmanError):
    """Base of what ledgers and queues raise."""


class StoreUnavailable(StoreError):
    """The store does not answer.

    Attributes:
        may_have_happened: False: surely nothing was changed. True: the fate of the write is not known; read before
            telling anyone.
    """

    def __init__(self, reason: str, *, may_have_happened: bool = False) -> None:
        super().__init__(reason)
        self.may_have_happened = may_have_happened


class StoreBroken(StoreUnavailable):
    """The store cannot be written any more, and another try would lie; a restart finds what it really holds."""


class StoreFull(StoreError):
    """No room for more letters; nothing was changed. Consuming goes on."""


class StoreRefused(StoreError):
    """The store must not be used; the text says why and what to do."""


class KeyReused(StoreError):
    """The idempotency key was used before with another body."""


class IdTaken(StoreError):
    """A letter with one of these ids exists; nothing was changed."""


class NewerRow(StoreError):
    """A newer Postman wrote this letter, in words that this one does not know. It is left as it is."""


class DamagedRow(StoreError):
    """What the ledger has of this letter is damaged, so nobody can tell what became of it. It is left as it is."""


class LeaseLost(StoreError):
    """The lease of a note ended before the answer came. Harmless: the ledger holds the truth."""


class TooLate(PostmanError):
    """The lease of the claim is over, so somebody else may own the letter. Raised before the first byte."""


class ProviderError(PostmanError):
    """How a provider call ended when the provider gave no receipt. Plugins raise only its five leaves.

    Args:
        reason: one sentence for the history; without secrets, addresses and bodies of answers.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotAccepted(ProviderError):
    """The provider surely did not take the letter."""


class ProviderUnavailable(NotAccepted):
    """Surely not accepted, and the provider's fault: DNS, connect, TLS, 429, 503, an error before the last byte.

    Args:
        reason: one sentence for the history.
        retry_after: seconds that the provider asked us to wait; clamped to 1 s .. 1 h by who uses it.
        throttled: True for a limit (429): the provider cools down, its breaker counts no fault.
        mail_only: True when this mail alone has to wait, as for a mailbox that is full: the provider works, and its
            breaker counts a success.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, throttled: bool = False, mail_only: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.throttled = throttled
        self.mail_only = mail_only


class ProviderMisconfigured(NotAccepted):
    """Surely not accepted, because of our account or settings: a wrong key, a suspended account, a redirect."""


class MailRefused(NotAccepted):
    """Surely not accepted: this provider refuses this mail, another may take it."""


class PluginBug(MailRefused):
    """A bug in a plugin, before anything was handed over. Plugins do not raise it; the wall around them does."""


class MailRejected(NotAccepted):
    """Surely not accepted: the mail is wrong anywhere, or must not be sent.

    Args:
        reason: one sentence for the history.
        suppressed: True when a recipient unsubscribed, complained or bounced. Going round that breaks terms and law, so
            nobody else is asked, unless the provider's table says `suppressed = "fail-over"`.
    """

    def __init__(self, reason: str, *, suppressed: bool = False) -> None:
        super().__init__(reason)
        self.suppressed = suppressed


class OutcomeUnknown(ProviderError):
    """Perhaps accepted. Never leads to a second provider while the doubt lasts."""


def leaf(error: BaseException) -> BaseException:
    """The one exception in nested groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
