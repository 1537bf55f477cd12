"""``doctor --dns`` against a DNS server on 127.0.0.1: nothing here asks anybody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail import doctor_dns
from flask_deferred_mail.doctor_dns import Lookup, NoAnswer, aligned, record_of
from flask_deferred_mail.transports.signing import Signer
from tests.support.dkim_keys import DkimKey, ed25519_key, rsa_key
from tests.support.dns_server import DnsServer, txt
from tests.support.mail_app import MailApp

MakeApp = Callable[..., MailApp]
SELECTOR = "s1._domainkey.example.com"
GOOD: dict[tuple[str, str], list[str]] = {
    ("example.com", "MX"): ["20 backup.example.com.", "10 mx.example.com."],
    ("example.com", "TXT"): [txt("v=spf1 mx -all"), txt("another=record")],
    ("_dmarc.example.com", "TXT"): [txt("v=DMARC1; p=reject; rua=mailto:d@example.com")],
    (SELECTOR, "TXT"): [txt(rsa_key().record)],
}


def signing(key: DkimKey | None = None, domain: str = "example.com") -> dict[str, Any]:
    """A transport that signs, and connects to nothing."""
    found = {"domain": domain, "selector": "s1", "key": (key or rsa_key()).pem}
    return {"url": "memory:", "dkim": found}


def findings(app: MailApp, server: DnsServer) -> dict[str, tuple[str, str]]:
    """First word -> level and text, of what was found in DNS."""
    arguments = ["mail", "doctor", "--json", "--dns", "--nameserver", server.place]
    ran = app.app.test_cli_runner().invoke(args=arguments)
    found = [f for f in json.loads(ran.stdout) if f["topic"].startswith("dns")]
    return {f["text"].split(":")[0]: (f["level"], f["text"]) for f in found}


@pytest.mark.parametrize("key", [rsa_key(), ed25519_key()], ids=["rsa", "ed25519"])
def test_all_is_well(make_app: MakeApp, key: DkimKey) -> None:
    """One line each, without a warning."""
    with DnsServer({**GOOD, (SELECTOR, "TXT"): [txt(key.record)]}) as server:
        found = findings(make_app(signing(key)), server)
    assert {name: level for name, (level, _) in found.items()} == {
        **dict.fromkeys(("MX", "SPF", "DMARC", "DKIM"), "ok")
    }
    assert "mx.example.com, backup.example.com" in found["MX"][1]


BAD: dict[str, tuple[dict[tuple[str, str], list[str]], str, str, str]] = {
    "no such domain": ({("example.com", "MX"): [], ("example.com", "TXT"): []}, "MX", "FAIL", "no"),
    "takes no mail": ({("example.com", "MX"): ["0 ."]}, "MX", "warn", "takes no mail"),
    "nowhere": ({("example.com", "MX"): []}, "MX", "FAIL", "neither a mail server nor"),
    "address": (
        {("example.com", "MX"): [], ("example.com", "A"): ["127.0.0.9"]},
        "MX",
        "warn",
        "its address",
    ),
    "no spf": ({("example.com", "TXT"): [txt("v=spf10 x")]}, "SPF", "warn", "no v=spf1 record"),
    "two spf": (
        {("example.com", "TXT"): [txt("v=spf1 -all"), txt("V=SPF1 mx ~all")]},
        "SPF",
        "FAIL",
        "2 records",
    ),
    "open spf": ({("example.com", "TXT"): [txt("v=spf1 mx +all")]}, "SPF", "warn", "everybody"),
    "no dmarc": ({("_dmarc.example.com", "TXT"): []}, "DMARC", "warn", "no record"),
    "two dmarc": (
        {("_dmarc.example.com", "TXT"): [txt("v=DMARC1; p=none"), txt("v=DMARC1; p=reject")]},
        "DMARC",
        "FAIL",
        "2 records",
    ),
    "odd dmarc": (
        {("_dmarc.example.com", "TXT"): [txt("v=DMARC1; p=block")]},
        "DMARC",
        "FAIL",
        "p= should",
    ),
    "no key": ({(SELECTOR, "TXT"): []}, "DKIM", "FAIL", "there is no key"),
    "revoked": ({(SELECTOR, "TXT"): [txt("v=DKIM1; p=")]}, "DKIM", "FAIL", "revoked"),
    "other key": (
        {(SELECTOR, "TXT"): [txt(rsa_key(1024).record)]},
        "DKIM",
        "FAIL",
        "holds another key",
    ),
    "other kind": (
        {(SELECTOR, "TXT"): [txt(rsa_key().record.replace("k=rsa", "k=ed25519"))]},
        "DKIM",
        "FAIL",
        "holds another key",
    ),
    "damaged": ({(SELECTOR, "TXT"): [txt("p=!")]}, "DKIM", "FAIL", "holds another key"),
    "two keys": (
        {(SELECTOR, "TXT"): [txt(rsa_key().record), txt(ed25519_key().record)]},
        "DKIM",
        "FAIL",
        "2 keys",
    ),
    "test": ({(SELECTOR, "TXT"): [txt(f"t=y:s; {rsa_key().record}")]}, "DKIM", "warn", "t=y"),
}


@pytest.mark.parametrize(("changes", "which", "level", "words"), BAD.values(), ids=BAD)
def test_each_fault_is_found_and_the_others_are_judged_all_the_same(
    make_app: MakeApp,
    changes: dict[tuple[str, str], list[str]],
    which: str,
    level: str,
    words: str,
) -> None:
    """With its own level and words."""
    zone = {key: lines for key, lines in {**GOOD, **changes}.items() if lines}
    with DnsServer(zone) as server:
        found = findings(make_app(signing()), server)
    assert set(found) == {"MX", "SPF", "DMARC", "DKIM"}
    assert found[which][0] == level
    assert words in found[which][1]


def test_a_subdomain_inherits_dmarc_and_bounces_have_their_own_domain(make_app: MakeApp) -> None:
    """SPF and MX are those of the envelope's sender, DMARC is that of From."""
    zone = {
        ("bounces.example.org", "MX"): ["5 mx.example.org."],
        ("bounces.example.org", "TXT"): [txt("v=spf1 a -all")],
        **{key: GOOD[key] for key in GOOD if key[0].startswith("_dmarc")},
    }
    with DnsServer(zone) as server:
        app = make_app(
            "memory:",
            MAIL_DEFAULT_SENDER="news@mail.example.com",
            DEFERRED_MAIL_ENVELOPE_SENDER="b@bounces.example.org",
        )
        found = findings(app, server)
    assert {level for level, _ in found.values()} == {"ok"}
    assert "_dmarc.example.com" in found["DMARC"][1]


def test_a_signature_for_a_strange_domain_is_told(make_app: MakeApp) -> None:
    """DMARC wants the signature to be the sender's."""
    zone = {**GOOD, ("s1._domainkey.example.org", "TXT"): [txt(rsa_key().record)]}
    with DnsServer(zone) as server:
        app = make_app(signing(domain="example.org"))
        arguments = ["mail", "doctor", "--dns", "--nameserver", server.place]
        ran = app.app.test_cli_runner().invoke(args=arguments)
    assert "signed for another domain" in " ".join(ran.output.split())
    assert aligned("example.com", "mail.example.com")
    assert not aligned("example.com", "notexample.com")


def test_silence_and_failure_of_dns_are_warnings_and_end_in_time(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say that something is missing when nobody has answered."""
    monkeypatch.setattr(Lookup.__init__, "__defaults__", (None, 0.2))
    with DnsServer(GOOD, silent=[SELECTOR], failing=["_dmarc.example.com"]) as server:
        found = findings(make_app(signing()), server)
        asked = server.asked
    assert found["MX"][0] == found["SPF"][0] == "ok"
    assert found["could not be asked"][0] == "warn"
    assert (SELECTOR, "TXT") in asked


def test_all_questions_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """After it nobody is asked any more."""
    monkeypatch.setattr(doctor_dns, "ALL", 0.3)
    with DnsServer({}, silent=["a.example.com"]) as server:
        lookup = Lookup(server.place, 0.2)
        for _ in range(2):
            with pytest.raises(NoAnswer, match="no answer for"):
                lookup.texts("a.example.com")
        before = len(server.asked)
        with pytest.raises(NoAnswer, match="too slow"):
            lookup.texts("a.example.com")
        assert len(server.asked) == before


def test_the_record_to_publish_is_the_one_that_is_looked_for() -> None:
    """Whoever copies it from the advice has done what is needed."""
    for key in (rsa_key(), ed25519_key()):
        signer = Signer({"domain": "example.com", "selector": "s1", "key": key.pem})
        assert record_of(signer) == key.record


def test_without_a_sender_or_the_library_it_says_so(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback."""
    with DnsServer(GOOD) as server:
        app = make_app("memory:", MAIL_DEFAULT_SENDER=None)
        assert any("no default sender" in text for _, text in findings(app, server).values())
        monkeypatch.setitem(__import__("sys").modules, "dns.resolver", None)
        found = findings(app, server)
    [(level, text)] = found.values()
    assert level == "warn"
    assert "flask-deferred-mail[dns]" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dns", "--nameserver", "ns.example.com"], "no IP address"),
        (["--nameserver", "127.0.0.1"], "is for --dns"),
    ],
)
def test_a_misplaced_option_is_a_usage_error(
    make_app: MakeApp, options: list[str], words: str
) -> None:
    """With exit code 2."""
    ran = make_app("memory:").app.test_cli_runner().invoke(args=["mail", "doctor", *options])
    assert ran.exit_code == 2
    assert words in ran.output


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_a_nameserver_may_have_a_port(text: str, place: tuple[str, int]) -> None:
    """In either family of addresses."""
    assert doctor_dns._place(text) == place
