"""Who may vouch for a provider's server: those whom requests trusts, or a file of ours."""

from __future__ import annotations

import os
import ssl

from requests.utils import DEFAULT_CA_BUNDLE_PATH


class Authorities:
    """What certificates are verified with; they always are.

    Read once and not for each connection: the usual file holds more than a hundred certificates,
    which take ten milliseconds and most of a megabyte each time. A file that was replaced is read
    again.
    """

    def __init__(self, cafile: str | None = None) -> None:
        self._file = cafile or DEFAULT_CA_BUNDLE_PATH
        self._read: tuple[tuple[int, ...], ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """To connect with; not to be changed, since threads share it.

        :raises OSError: the file is not there, or holds no certificates.
        """
        found = os.stat(self._file)
        version = (found.st_mtime_ns, found.st_size, found.st_dev, found.st_ino)
        if self._read is None or self._read[0] != version:
            context = ssl.create_default_context(cafile=self._file)
            context.set_alpn_protocols(["http/1.1"])
            self._read = version, context
        return self._read[1]
