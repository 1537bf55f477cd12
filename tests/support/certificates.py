"""Certificates for servers on loopback: one that is right, and the usual ways to be wrong."""

from __future__ import annotations

import atexit
import datetime
import functools
import ssl
import tempfile
from pathlib import Path

import trustme


class Certificates:
    """An authority of our own, and server certificates from it (or not).

    ``kind``: ``good`` (for 127.0.0.1 and localhost), ``self-made`` (its own authority),
    ``wrong-host`` (for mail.elsewhere.example), ``expired`` (good until yesterday).
    """

    def __init__(self) -> None:
        self._authority = trustme.CA()
        self._folder = tempfile.TemporaryDirectory(prefix="certificates-")
        atexit.register(self._folder.cleanup)
        path = Path(self._folder.name) / "authority.pem"
        self._authority.cert_pem.write_to_path(str(path))
        #: What a client has to trust: the path of a PEM file.
        self.cafile = str(path)

    def server_context(self, kind: str = "good") -> ssl.SSLContext:
        """A context for the server's side with a certificate of that kind."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate(kind).configure_cert(context)
        return context

    def _certificate(self, kind: str) -> trustme.LeafCert:
        if kind == "good":
            return self._authority.issue_cert("127.0.0.1", "localhost")
        if kind == "wrong-host":
            return self._authority.issue_cert("mail.elsewhere.example")
        if kind == "expired":
            now = datetime.datetime.now(datetime.UTC)
            return self._authority.issue_cert(
                "127.0.0.1",
                "localhost",
                not_before=now - datetime.timedelta(days=30),
                not_after=now - datetime.timedelta(days=1),
            )
        assert kind == "self-made", f"no such certificate: {kind}"
        return trustme.CA().issue_cert("127.0.0.1", "localhost")


@functools.cache
def certificates() -> Certificates:
    """The one set of this process; making keys takes a while."""
    return Certificates()
