"""Certificates for servers on loopback: one that is right, and the usual ways to be wrong."""

from __future__ import annotations

import atexit
import datetime
import functools
import os
import shutil
import ssl
import tempfile
import threading
from pathlib import Path

import trustme


class Certificates:
    """An authority of our own, and server certificates from it (or not).

    ``kind``: ``good`` (for 127.0.0.1 and localhost), ``self-made`` (its own authority),
    ``wrong-host`` (for mail.elsewhere.example), ``expired`` (good until yesterday).
    """

    def __init__(self) -> None:
        self._authority = trustme.CA()
        folder = tempfile.mkdtemp(prefix="certificates-")
        atexit.register(_remove, folder, os.getpid())
        path = Path(folder) / "authority.pem"
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


def _remove(folder: str, pid: int) -> None:
    """At the end of the process that made it, not of one that was forked from it."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


_one_at_a_time = threading.Lock()


def certificates() -> Certificates:
    """The one set of this process; making keys takes a while.

    Two threads that ask first get the same: with an authority each, neither would trust the other.
    """
    with _one_at_a_time:
        return _made()


@functools.cache
def _made() -> Certificates:
    return Certificates()
