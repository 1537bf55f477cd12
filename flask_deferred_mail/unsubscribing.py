"""One-click ways out of a list (RFC 8058), and what keeps receivers from showing them.

``List-Unsubscribe-Post: List-Unsubscribe=One-Click`` lets a mail program show a button which
unsubscribes whom the mail went to. That needs a URL of the recipient's own, so one mail to several
people cannot have it, and a DKIM signature over both fields. Without these the mail leaves all the
same, and the button is missing; so it is a warning, and told once for each sender.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from .address import same_mailbox
from .cleaning import clean
from .letter import Letter

log = logging.getLogger("flask_deferred_mail")

UNSUBSCRIBE, POST = "List-Unsubscribe", "List-Unsubscribe-Post"

#: Senders that are remembered, so that the log is not filled.
MAX_SENDERS = 1_000

_ONE_CLICK = re.compile(r"\s*List-Unsubscribe\s*=\s*One-Click\s*", re.IGNORECASE)
_URI = re.compile(r"<\s*([^<>\s]+)\s*>")


def one_click_faults(letter: Letter, signs: Callable[..., bool]) -> Iterator[str]:
    """Why receivers will show no button, one sentence each; nothing if one-click is not used.

    ``signs`` says whether what leaves has a DKIM signature over some fields.
    """
    copies = [letter.headers_of(r) for r in letter.recipients] if letter.private_copies else []
    fields = [dict(_relevant(headers)) for headers in copies or [letter.headers]]
    clicked = [own for own in fields if POST.lower() in own]
    if not clicked:
        return
    if not letter.private_copies and len(letter.recipients) > 1:
        yield "one mail to several recipients cannot say who leaves; use private_copies=True"
    if len(copies) > 1 and len({own.get(UNSUBSCRIBE.lower()) for own in clicked}) < len(clicked):
        yield "several recipients have the same URL; give each its own by merge_headers"
    yield from dict.fromkeys(fault for own in clicked for fault in _faults_of_pair(own))
    yield from _unsigned(signs)


def faults_of_defaults(headers: Mapping[str, str], signs: Callable[..., bool]) -> Iterator[str]:
    """The same of ``DEFERRED_MAIL_DEFAULT_HEADERS`` alone, for ``doctor``."""
    own = dict(_relevant(headers.items()))
    if POST.lower() in own:
        if UNSUBSCRIBE.lower() in own:
            yield f"{UNSUBSCRIBE} is the same for everybody; give each mail its own URL"
            yield from _faults_of_pair(own)
        yield from _unsigned(signs)


def _unsigned(signs: Callable[..., bool]) -> Iterator[str]:
    if not signs("From", UNSUBSCRIBE, POST):
        yield (
            f"no DKIM signature covers {UNSUBSCRIBE} and {POST}; give the transport a 'dkim', "
            "unless the relay signs them"
        )


def _relevant(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((n.lower(), v) for n, v in headers if n.lower() in (UNSUBSCRIBE.lower(), POST.lower()))


def _faults_of_pair(own: Mapping[str, str]) -> Iterator[str]:
    if not _ONE_CLICK.fullmatch(own[POST.lower()]):
        yield f"{POST} can only be List-Unsubscribe=One-Click"
    uris = _URI.findall(own.get(UNSUBSCRIBE.lower(), ""))
    secure = [uri for uri in uris if uri.lower().startswith("https://")]
    if len(secure) != 1:
        yield f"{UNSUBSCRIBE} needs one https: URL in angle brackets, and has {len(secure)}"


class OneClickWatch:
    """Says it once for each sender of an app, in the log."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def look(self, letter: Letter, signs: Callable[..., bool]) -> None:
        """Warn of what is wrong with this letter's way out, if that is not known yet."""
        if not letter.headers and not letter.merge_headers:
            return
        for fault in one_click_faults(letter, signs):
            if self._is_new("@".join(same_mailbox(letter.sender.email)), fault):
                log.warning(
                    "mail from %s will have no unsubscribe button: %s",
                    clean(letter.sender.email, 254),
                    fault,
                )

    def _is_new(self, sender: str, fault: str) -> bool:
        with self._lock:
            if (sender, fault) in self._told or len(self._told) >= MAX_SENDERS:
                return False
            self._told.add((sender, fault))
            return True
