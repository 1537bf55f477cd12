"""``doctor --dns``: what receivers find in DNS when they judge mail of the sender's domain.

SPF says which servers may send, DKIM holds the public half of our key, DMARC says what is to become
of mail that has neither, MX takes replies and bounces. Only questions are asked, each under a
deadline; whether the addresses in SPF are those of the server in use is not judged.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from .cleaning import clean
from .delivery.runtime import Runtime
from .errors import ConfigurationError
from .finding import Finding, Level
from .settings import Settings
from .transports.combination import leaves_of

#: Seconds that one question may take, and all of them together.
ONE, ALL = 5.0, 40.0

_INSTALL = "pip install flask-deferred-mail[dns]"
_POLICIES = ("none", "quarantine", "reject")


class Key(Protocol):
    """What is known of a key that signs: never the private half."""

    @property
    def domain(self) -> str: ...
    @property
    def selector(self) -> str: ...
    @property
    def algorithm(self) -> str: ...
    @property
    def public_key(self) -> bytes: ...


class NoAnswer(Exception):
    """DNS could not be asked: nothing is known. The text says why."""


class Lookup:
    """Asks DNS, each question under a deadline of its own.

    :param nameserver: ``address`` or ``address:port`` to ask in place of the system's servers.
    :raises NoAnswer: dnspython is missing, or no server is known.
    :raises ValueError: ``nameserver`` is no address.
    """

    def __init__(self, nameserver: str | None = None, seconds: float = ONE) -> None:
        place = None if nameserver is None else _place(nameserver)
        try:
            import dns.resolver
        except ImportError:
            raise NoAnswer(f"it needs dnspython: {_INSTALL}") from None
        try:
            self._resolver = dns.resolver.Resolver(configure=place is None)
        except dns.resolver.NoResolverConfiguration as error:
            raise NoAnswer(clean(str(error))) from None
        if place is not None:
            self._resolver.nameservers, self._resolver.port = [place[0]], place[1]
        self._resolver.lifetime = seconds
        self._left = ALL

    def texts(self, name: str) -> list[str] | None:
        """The TXT records of a name, each in one piece; ``None``: there is no such name.

        :raises NoAnswer: nobody knows.
        """
        found = self._ask(name, "TXT")
        return found and [b"".join(r.strings).decode("utf-8", "replace") for r in found]

    def exchanges(self, name: str) -> list[str] | None:
        """The mail servers of a domain, the preferred first; ``.`` says that there are none.

        :raises NoAnswer: nobody knows.
        """
        found = self._ask(name, "MX")
        ordered = sorted(found or (), key=lambda record: record.preference)
        return found and [str(r.exchange).rstrip(".") or "." for r in ordered]

    def has_address(self, name: str) -> bool:
        """Whether the name has an address itself."""
        return bool(self._ask(name, "A") or self._ask(name, "AAAA"))

    def _ask(self, name: str, kind: str) -> list | None:  # type: ignore[type-arg]  # dnspython's own
        import dns.exception
        import dns.resolver

        if self._left <= 0:
            raise NoAnswer("DNS is too slow: the time for all questions is over")
        try:
            answer = self._resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return None
        except dns.resolver.LifetimeTimeout:
            self._left -= self._resolver.lifetime
            raise NoAnswer(f"no answer for {clean(name)} {kind} in time") from None
        except (dns.exception.DNSException, OSError) as error:
            raise NoAnswer(clean(f"{name} {kind}: {error}", 200)) from None
        return list(answer.rrset or ())


def _place(nameserver: str) -> tuple[str, int]:
    """Address and port; an IPv6 address with a port is in brackets."""
    parts = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([0-9.]+):(\d{1,5})", nameserver)
    host, port = (parts[1] or parts[3], parts[2] or parts[4]) if parts else (nameserver, None)
    return str(ipaddress.ip_address(host)), int(port or 53)


def keys_of(runtime: Runtime) -> list[Key]:
    """The keys that sign here; a transport that cannot be made has been told of already."""
    found: dict[tuple[str, str], Key] = {}
    for name in runtime.settings.transports:
        with suppress(ConfigurationError):
            for member in leaves_of(runtime.transport(name)):
                signer: Key | None = getattr(member, "signer", None)
                if signer is not None:
                    found.setdefault((signer.domain, signer.selector), signer)
    return list(found.values())


def examine_dns(settings: Settings, keys: Sequence[Key], lookup: Lookup) -> Iterator[Finding]:
    """What there is for the domains that mail is sent from, and signed for."""
    sender = settings.default_sender
    if sender is None:
        yield Finding(
            Level.WARN,
            "dns",
            "no default sender, so there is no domain to ask for",
            "set MAIL_DEFAULT_SENDER",
        )
    else:
        domain = sender.email.rpartition("@")[2]
        bounces = (settings.envelope_sender or sender.email).rpartition("@")[2]
        yield from _told(f"dns {domain}", _mx(lookup, bounces))
        yield from _told(f"dns {domain}", _spf(lookup, bounces))
        yield from _told(f"dns {domain}", _dmarc(lookup, domain))
    for key in keys:
        yield from _told(f"dns {key.domain}", _dkim(lookup, key))
        if sender is not None and not aligned(key.domain, sender.email.rpartition("@")[2]):
            yield Finding(
                Level.WARN,
                f"dns {key.domain}",
                f"DKIM: mail from {clean(sender.email)} is signed for another domain, which DMARC "
                "does not count",
                "sign for the domain of the sender",
            )


def aligned(one: str, other: str) -> bool:
    """Whether a signature for one domain counts for mail of the other: one lies in the other.

    Coarser than DMARC's relaxed rule, which knows the list of public suffixes.
    """
    a, b = one.lower(), other.lower()
    return a == b or a.endswith(f".{b}") or b.endswith(f".{a}")


_Told = tuple[Level, str, str]


def _told(topic: str, told: Iterator[_Told]) -> Iterator[Finding]:
    try:
        for level, text, advice in told:
            yield Finding(level, clean(topic), clean(text, 400), advice)
    except NoAnswer as trouble:
        yield Finding(Level.WARN, clean(topic), f"could not be asked: {trouble}", "try again later")


def _mx(lookup: Lookup, domain: str) -> Iterator[_Told]:
    servers = lookup.exchanges(domain)
    if servers is None:
        yield Level.FAIL, f"MX: there is no domain {domain}", "register it, or correct the sender"
    elif servers == ["."]:
        yield (
            Level.WARN,
            f"MX: {domain} takes no mail, so that bounces are lost, and receivers may refuse mail "
            "from it",
            "set DEFERRED_MAIL_ENVELOPE_SENDER to an address that takes mail",
        )
    elif servers:
        yield Level.OK, f"MX: {', '.join(servers[:4])}", ""
    elif lookup.has_address(domain):
        yield (
            Level.WARN,
            f"MX: {domain} has none; its address is taken for its mail server",
            "publish an MX record, so that bounces arrive where they are read",
        )
    else:
        yield (
            Level.FAIL,
            f"MX: {domain} has neither a mail server nor an address: bounces are lost, and "
            "receivers refuse mail from it",
            "publish an MX record",
        )


def _spf(lookup: Lookup, domain: str) -> Iterator[_Told]:
    found = [t for t in lookup.texts(domain) or () if t.lower().split(" ")[0] == "v=spf1"]
    if not found:
        yield (
            Level.WARN,
            f"SPF: {domain} has no v=spf1 record, so no server is known to send for it",
            "publish one that names your mail server or your provider",
        )
    elif len(found) > 1:
        yield (
            Level.FAIL,
            f"SPF: {domain} has {len(found)} records, which makes all of them void",
            "join them into one (RFC 7208 section 3.2)",
        )
    elif {"+all", "all"} & set(found[0].lower().split()):
        yield Level.WARN, f"SPF: {found[0]}: everybody may send for it", "end it with ~all or -all"
    else:
        yield Level.OK, f"SPF: {found[0]}", ""


def _dmarc(lookup: Lookup, domain: str) -> Iterator[_Told]:
    name, found = domain, _dmarc_of(lookup, domain)
    if not found and domain.count(".") > 1:
        # Receivers fall back on the organizational domain, which is nearly always two labels.
        name = ".".join(domain.split(".")[-2:])
        found = _dmarc_of(lookup, name)
    if not found:
        yield (
            Level.WARN,
            f"DMARC: there is no record at _dmarc.{domain}; large receivers ask for one",
            'publish "v=DMARC1; p=none; rua=mailto:..." to begin with',
        )
        return
    policy = tags(found[0]).get("p", "").lower()
    if len(found) > 1:
        yield Level.FAIL, f"DMARC: _dmarc.{name} has {len(found)} records: none counts", "keep one"
    elif policy not in _POLICIES:
        yield (
            Level.FAIL,
            f"DMARC: {found[0]}: p= should be one of {', '.join(_POLICIES)}",
            "correct it",
        )
    else:
        yield Level.OK, f"DMARC: _dmarc.{name}: {found[0]}", ""


def _dmarc_of(lookup: Lookup, domain: str) -> list[str]:
    found = lookup.texts(f"_dmarc.{domain}") or ()
    return [text for text in found if re.match(r"v\s*=\s*DMARC1\s*(;|$)", text)]


def _dkim(lookup: Lookup, key: Key) -> Iterator[_Told]:
    name = f"{key.selector}._domainkey.{key.domain}"
    found = [text for text in lookup.texts(name) or () if "p" in tags(text)]
    if not found:
        yield (
            Level.FAIL,
            f"DKIM: there is no key at {name}: signatures cannot be verified",
            f"publish the public key: {record_of(key)}",
        )
        return
    record = tags(found[0])
    if len(found) > 1:
        yield (
            Level.FAIL,
            f"DKIM: {name} has {len(found)} keys; which one counts is open",
            "keep one",
        )
    elif not record["p"]:
        yield (
            Level.FAIL,
            f"DKIM: the key at {name} is revoked (p= is empty)",
            "use another selector",
        )
    elif not _same_key(record, key):
        yield (
            Level.FAIL,
            f"DKIM: {name} holds another key than the one that signs here",
            f"publish this one under a new selector: {record_of(key)}",
        )
    elif "y" in record.get("t", "").split(":"):
        yield (
            Level.WARN,
            f"DKIM: the key at {name} is marked as a test (t=y), so it may be ignored",
            "take t=y out of it",
        )
    else:
        yield Level.OK, f"DKIM: {name} holds our key", ""


def record_of(key: Key) -> str:
    """The record to publish for a key."""
    kind = key.algorithm.partition("-")[0]
    return f"v=DKIM1; k={kind}; p={base64.b64encode(published(key)).decode()}"


# rsaEncryption, which stands before the key in a SubjectPublicKeyInfo (RFC 8017 appendix A.1).
_RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")


def published(key: Key) -> bytes:
    """The key as it stands in ``p=``: RSA as SubjectPublicKeyInfo, Ed25519 as it is."""
    if not key.algorithm.startswith("rsa"):
        return key.public_key
    bits = b"\0" + key.public_key
    inner = _RSA_ENCRYPTION + b"\x03" + _length(len(bits)) + bits
    return b"\x30" + _length(len(inner)) + inner


def _length(number: int) -> bytes:
    if number < 0x80:
        return bytes([number])
    data = number.to_bytes((number.bit_length() + 7) // 8)
    return bytes([0x80 | len(data)]) + data


def _same_key(record: dict[str, str], key: Key) -> bool:
    try:
        given = base64.b64decode("".join(record["p"].split()), validate=True)
    except binascii.Error:
        return False
    if record.get("k", "rsa").lower() != key.algorithm.partition("-")[0]:
        return False
    # Both forms of an RSA key are in use.
    return given in (published(key), key.public_key)


def tags(text: str) -> dict[str, str]:
    """``a=b; c=d`` as a mapping (RFC 6376 section 3.2)."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip(): value.strip() for name, mark, value in pairs if mark}
