"""Which authorities a provider's certificate is held against."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path

import pytest

from flask_deferred_mail.transports.authorities import Authorities
from tests.support.certificates import certificates


def test_they_are_read_once_and_always_asked(tmp_path: Path) -> None:
    """All connections have one context, which verifies certificate and name."""
    authorities = Authorities(certificates().cafile)
    context = authorities.context()
    assert authorities.context() is context
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_without_a_file_the_usual_ones_are_trusted() -> None:
    """Those of requests."""
    context = Authorities().context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) > 10


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """A renewed authority counts from the next connection on."""
    cafile = tmp_path / "ca.pem"
    shutil.copy(certificates().cafile, cafile)
    authorities = Authorities(str(cafile))
    before = authorities.context()
    shutil.copy(certificates().cafile, tmp_path / "new.pem")
    os.replace(tmp_path / "new.pem", cafile)
    assert authorities.context() is not before


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_that_holds_none_is_an_error(tmp_path: Path, content: str | None) -> None:
    """Nobody is trusted then, and it is a failure to connect."""
    cafile = tmp_path / "ca.pem"
    if content is not None:
        cafile.write_text(content)
    with pytest.raises(OSError):
        Authorities(str(cafile)).context()
