"""Where the keys for AWS come from: the URL, or AWS's own chain of places.

The chain (environment, shared files, container, instance role, web identity, SSO) is botocore's,
which is asked for nothing else. What it gives may be temporary; it renews that by itself before
the end, and here once more if AWS says that it has ended all the same.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any, Protocol

from ..cleaning import clean
from ..errors import ConfigurationError
from .aws_signing import Credentials

logger = logging.getLogger(__name__)

_INSTALL = (
    "ses://REGION without keys asks AWS's own credential chain, which needs botocore: "
    "pip install 'flask-deferred-mail[ses]', or write ses://ACCESS:SECRET@REGION"
)


class KeysMissing(Exception):
    """There are no keys at the moment. The text says why and holds no secret."""


class Keys(Protocol):
    """Something that has keys."""

    def current(self) -> Credentials:
        """The keys to sign with now.

        :raises KeysMissing: there are none.
        """

    def renew(self, expired: Credentials) -> bool:
        """Look for other keys than these; whether there are any.

        :raises KeysMissing: there are none at all.
        """

    def secrets(self) -> tuple[str, ...]:
        """What must never be shown. Asks nobody."""


class GivenKeys:
    """The keys that stand in the URL."""

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._credentials = Credentials(access_key, secret_key)

    def current(self) -> Credentials:
        return self._credentials

    def renew(self, expired: Credentials) -> bool:  # noqa: ARG002  # there are no others
        return False

    def secrets(self) -> tuple[str, ...]:
        return (self._credentials.secret_key,)


class ChainKeys:
    """The keys that AWS's chain finds, looked for at the first use."""

    def __init__(self) -> None:
        if find_spec("botocore") is None:
            raise ConfigurationError(_INSTALL)
        self._source: Any = None
        self._last: Credentials | None = None

    def current(self) -> Credentials:
        # Two threads may both look for them at the first use; either result will do.
        try:
            self._source = self._source or _found()
            if self._source is None:
                raise KeysMissing("AWS's credential chain has no keys here")
            frozen = self._source.get_frozen_credentials()
        except KeysMissing:
            raise
        except Exception as error:
            # Files, metadata services and STS are asked here, and each fails in its own way.
            logger.warning("AWS's credential chain failed", exc_info=True)
            detail = clean(f"{type(error).__name__}: {error}", 200)
            raise KeysMissing(f"AWS's credential chain failed: {detail}") from None
        self._last = Credentials(frozen.access_key, frozen.secret_key, frozen.token)
        return self._last

    def renew(self, expired: Credentials) -> bool:
        self._source = None
        return self.current() != expired

    def secrets(self) -> tuple[str, ...]:
        last = self._last
        return (last.secret_key, *filter(None, (last.token,))) if last else ()


def _found() -> Any:
    """The chain's first hit, from a new session: an old one remembers what it found."""
    import botocore.session

    return botocore.session.Session().get_credentials()
