"""The keys of an AWS account, as botocore's chain finds them: environment, files, SSO, roles of machines.

The chain blocks, so it runs in a thread. What it found is kept, and looked at again before it ends: botocore renews
temporary keys from a quarter of an hour before their end.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
import trio
from botocore.credentials import ReadOnlyCredentials
from botocore.session import Session

from postman.errors import StoreUnavailable
from postman.secret import hide

LOOK: Final = 60.0
"""Seconds between two looks at the keys; far less than botocore renews them ahead."""
TRUST: Final = 10.0
"""Seconds for which keys that AWS refuses are not looked for again."""

_CURE: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine or the container a role"
)
_log = structlog.get_logger()


class Credentials:
    """See the module."""

    def __init__(self) -> None:
        self._session: Any = None
        self._keys: ReadOnlyCredentials | None = None
        self._read_at = 0.0
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)

    async def keys(self) -> ReadOnlyCredentials:
        """The keys of now; looked for when there are none.

        Raises:
            StoreUnavailable: there are none, and how to give some.
        """
        if self._keys is None:
            async with self._lock:
                if self._keys is None:
                    await self._look()
        assert self._keys is not None  # noqa: S101  # a look that finds none raises
        return self._keys

    def distrust(self, keys: ReadOnlyCredentials) -> bool:
        """AWS refuses these keys: read all files anew, unless there are others. False: that was done just now."""
        if keys != self._keys:
            return True
        if trio.current_time() - self._read_at < TRUST:
            return False
        self._keys = self._session = None
        return True

    async def keep(self) -> None:
        """Renew the keys ahead of their end, until cancelled."""
        while True:
            await trio.sleep(LOOK)
            try:
                async with self._lock:
                    await self._look()
            except StoreUnavailable as error:
                _log.warning("the AWS credentials could not be renewed; those of before are used", reason=str(error))

    async def _look(self) -> None:
        if self._session is None:
            self._read_at = trio.current_time()
        self._session, self._keys = await trio.to_thread.run_sync(
            _find, self._session, limiter=self._limiter, abandon_on_cancel=True
        )


def _find(session: Any) -> tuple[Any, ReadOnlyCredentials]:  # noqa: ANN401  # botocore has no types
    session = session or Session()
    try:
        found = session.get_credentials()
        keys = found and found.get_frozen_credentials()
    except Exception as error:  # files, programs and servers are asked, and each fails in its own way
        raise StoreUnavailable(f"the AWS credentials cannot be had: {hide(str(error))}") from error
    if keys is None:
        raise StoreUnavailable(f"there are no AWS credentials; {_CURE}")
    return session, keys
