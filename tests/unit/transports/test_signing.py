"""DKIM: what is signed is what leaves, anybody can verify it, and the key stays where it is."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import dkim
import pytest

from flask_deferred_mail.errors import ConfigurationError
from flask_deferred_mail.letter import Address, Part, Recipient
from flask_deferred_mail.mime import render
from flask_deferred_mail.transport_spec import transport_spec
from flask_deferred_mail.transports import registry, signing
from flask_deferred_mail.transports.signing import Signer, faults_of
from tests.support.dkim_keys import ed25519_key, locked_form_of, old_form_of, rsa_key
from tests.support.smtp_server import SmtpServer
from tests.support.transport_calls import a_call, a_letter, send

ANN, BOB = "ann@example.net", "bob@example.net"
KEYS = [rsa_key(), ed25519_key()]
ONE_CLICK = (
    ("List-Unsubscribe", "<https://example.com/leave?u=1>"),
    ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
)


def config(key=None, **changes):
    """What stands beside a URL; with another key or other entries on request."""
    base = {"domain": "example.com", "selector": "s1", "key": (key or rsa_key()).pem}
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def is_valid(mail, key=None, name=b"s1._domainkey.example.com."):
    """Whether dkimpy's own verifier agrees, given this record and no other DNS."""

    def record(asked, timeout=5):
        return (key or rsa_key()).record.encode() if asked == name else None

    return dkim.verify(mail, dnsfunc=record)


def signed_fields(mail):
    """The names in ``h=``."""
    field = re.sub(rb"\r\n[ \t]", b" ", mail).split(b"\r\n")[0].decode()
    return re.search(r"h=([^;]*);", field)[1].replace(" ", "").split(":")


LETTERS = {
    "plain": a_letter(text="Hi Ann\n"),
    "blanks": a_letter(text="two  blanks, some at the end \t \n\n\n \n\n"),
    "empty": a_letter(text=""),
    "html": a_letter(html="<p>Grüße</p>", text="Grüße ✓", subject="Grüße " * 20),
    "file": a_letter(parts=(Part(bytes(range(256)) * 99, "image/png", "ö.png"),)),
    "lists": a_letter(headers=ONE_CLICK, reply_to=(Address("r@example.com", "Ré"),)),
    "twice": a_letter(headers=(("X-A", "1"), ("X-A", "2"), ("List-Id", "a.example.com"))),
    "wide": a_letter(
        *[f"a-long-name-{number}@example.net" for number in range(60)], sender=Address("ü@é.com")
    ),
}


@pytest.mark.parametrize("key", KEYS, ids=["rsa", "ed25519"])
@pytest.mark.parametrize("letter", LETTERS.values(), ids=LETTERS)
def test_another_program_finds_the_signature_valid_and_the_mail_untouched(letter, key):
    """In front of the very bytes that were rendered; one changed byte of the text spoils it."""
    mail = render(letter)
    signed = Signer(config(key)).signed(mail)
    assert signed.startswith(b"DKIM-Signature: v=1;")
    assert signed.endswith(b"\r\n" + mail)
    assert is_valid(signed, key)
    assert not is_valid(signed + b"more\r\n", key)
    assert not is_valid(signed.replace(b"\r\nDate: ", b"\r\nDate: X"), key)


def test_both_forms_are_relaxed_and_from_is_signed_once_more():
    """Every field that a reader is shown is under it, and a second From spoils it."""
    letter = a_letter(
        recipients=(Recipient(Address(ANN)), Recipient(Address(BOB), "cc")),
        headers=(*ONE_CLICK, ("X-Other", "not signed")),
        reply_to=(Address("reply@example.com"),),
    )
    signed = Signer(config()).signed(render(letter))
    assert b"c=relaxed/relaxed" in signed
    fields = signed_fields(signed)
    assert sorted(fields) == sorted(
        [
            *("from", "from", "to", "cc", "reply-to", "subject", "date", "message-id"),
            *("mime-version", "content-type", "content-transfer-encoding"),
            *("list-unsubscribe", "list-unsubscribe-post"),
        ]
    )
    assert not is_valid(b"From: other@example.org\r\n" + signed)


def test_fields_can_be_chosen_and_from_is_always_among_them():
    """As a list, or as text with commas."""
    for headers in (["Subject", "X-A"], "subject, x-a"):
        signer = Signer(config(headers=headers))
        signed = signer.signed(render(LETTERS["twice"]))
        assert sorted(signed_fields(signed)) == ["from", "from", "subject", "x-a", "x-a"]
        assert is_valid(signed)
        assert signer.covers("From", "X-A")
        assert not signer.covers("List-Unsubscribe")


@pytest.mark.parametrize(
    "write",
    [
        lambda key: key.pem,
        old_form_of,
        lambda key: key.pem.replace("\n", "\r\n"),
        lambda key: key.pem.replace("\n", "\\n"),
        lambda key: key.pem.encode(),
        lambda key: f"  {key.pem}  ",
    ],
    ids=["pkcs8", "pkcs1", "crlf", "environment", "bytes", "blanks"],
)
def test_a_key_may_be_written_as_programs_and_environments_write_it(write):
    """All are the same key."""
    signer = Signer(config(key=None) | {"key": write(rsa_key())})
    assert is_valid(signer.signed(render(a_letter())))


def test_a_key_may_lie_in_a_file(tmp_path):
    """And is read when the transport is made."""
    path = tmp_path / "s1.pem"
    path.write_text(ed25519_key().pem)
    found = {"domain": "example.com", "selector": "s1", "key_file": str(path)}
    signed = Signer(found).signed(render(a_letter()))
    assert is_valid(signed, ed25519_key())


@pytest.mark.parametrize("key", KEYS, ids=["rsa", "ed25519"])
def test_the_public_half_is_what_the_record_holds(key):
    """So that doctor can compare the two."""
    published = base64.b64decode(key.record.partition("p=")[2])
    assert published.endswith(Signer(config(key)).public_key)


FAULTY = {
    "no domain": ({"domain": None}, "'domain'"),
    "an address": ({"domain": "ann@example.com"}, "'domain'"),
    "not in A-labels": ({"domain": "é.com"}, "'domain'"),
    "no selector": ({"selector": None}, "'selector'"),
    "selector with a break": ({"selector": "s1\r\nX: y"}, "'selector'"),
    "no key": ({"key": None}, "either 'key'"),
    "both": ({"key_file": "/x"}, "either 'key'"),
    "no PEM": ({"key": "s3cret"}, "no private key in PEM form"),
    "no text": ({"key": 5}, "as PEM text"),
    "locked": ({"key": locked_form_of(rsa_key())}, "password"),
    "public": ({"key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}, "is no priv"),
    "damaged": (
        {"key": "-----BEGIN PRIVATE KEY-----\n!s3cret\n-----END PRIVATE KEY-----"},
        "base64",
    ),
    "other": ({"key": "-----BEGIN PRIVATE KEY-----\nMAAA\n-----END PRIVATE KEY-----"}, "neither"),
    "no file": ({"key": None, "key_file": "/nowhere/s1.pem"}, "cannot be read"),
    "no path": ({"key": None, "key_file": {}}, "cannot be read"),
    "no list": ({"headers": {"from": 1}}, "list of field names"),
    "no name": ({"headers": ["Sub ject"]}, "header fields"),
    "unsignable": ({"headers": ["Received"]}, "cannot hold received"),
    "mistyped": ({"s3cret": "x"}, "1 unknown entry"),
}


@pytest.mark.parametrize(("changes", "words"), FAULTY.values(), ids=FAULTY)
def test_each_fault_of_the_dict_is_told_and_the_key_is_not(changes, words):
    """When the app starts, in words that hold nothing of the key."""
    given = {n: value for n, value in {**config(), **changes}.items() if value is not None}
    [fault] = faults_of(given)
    assert words in fault
    assert "s3cret" not in fault
    assert "MII" not in fault


def test_a_key_that_receivers_find_too_short_is_refused(monkeypatch):
    """RSA below 1024 bits; a longer one takes its place here, being quicker to come by."""
    assert faults_of(config(rsa_key(1024))) == []
    monkeypatch.setattr(signing, "LEAST_BITS", 2048)
    [fault] = faults_of(config(rsa_key(1024)))
    assert "of 1024 bits" in fault


def test_all_faults_are_told_together():
    """One error, at the start, with the transport's name."""
    spec = transport_spec({"url": "smtp://host", "dkim": {"selector": "", "key": "x"}})
    with pytest.raises(ConfigurationError) as caught:
        registry.build("news", spec)
    assert len(caught.value.faults) == 3
    assert all(fault.startswith("transport 'news': dkim: ") for fault in caught.value.faults)
    assert registry.faults_of(spec) == [f.partition(": ")[2] for f in caught.value.faults]


@pytest.mark.parametrize("library", ["dkim", "nacl"])
def test_a_missing_library_is_named_when_the_app_starts(monkeypatch, library):
    """With the command that installs it."""
    find = signing.importlib.util.find_spec
    monkeypatch.setattr(
        signing.importlib.util, "find_spec", lambda name: None if name == library else find(name)
    )
    [fault] = faults_of(config(ed25519_key()))
    assert "pip install flask-deferred-mail[dkim]" in fault


@pytest.mark.parametrize("url", ["smtp://host", "smtps://host", "file:///x", "console:", "memory:"])
def test_whatever_renders_mail_signs_it(url):
    """And nothing of the key is in any repr."""
    spec = transport_spec(json.dumps({"url": url, "dkim": config()}))
    transport = registry.build("default", spec)
    assert transport.signer.domain == "example.com"
    shown = f"{transport!r} {transport.signer!r} {spec!r} {vars(transport)!r}"
    assert "PRIVATE" not in shown
    assert rsa_key().pem.split("\n")[1] not in shown


@pytest.mark.parametrize("url", ["null:", "sendcloud://u:k@default", "gmail://u:p@default"])
def test_who_does_not_render_it_has_no_use_for_a_key(url):
    """Unsigned mail that was to be signed would be found out too late."""
    spec = transport_spec({"url": url, "dkim": config()})
    assert any("has no use for 'dkim'" in fault for fault in registry.faults_of(spec))


def test_files_kept_mails_and_the_console_show_the_signature(tmp_path, capsys):
    """Each private copy has its own."""
    letter = a_letter(ANN, BOB, private_copies=True)
    built = {
        url: registry.build("default", transport_spec({"url": url, "dkim": config()}))
        for url in (f"file://{tmp_path}", "memory:", "console:")
    }
    for transport in built.values():
        send(transport, letter)
    mails = [path.read_bytes() for path in tmp_path.iterdir()]
    mails += [kept.as_bytes() for kept in built["memory:"].mails]
    assert len(mails) == 4
    assert all(map(is_valid, mails))
    assert capsys.readouterr().out.count("(DKIM): example.com, selector s1") == 2


def test_a_mail_that_was_prepared_ahead_is_signed_as_well():
    """Its envelope goes out with the end of the mail before it, over one connection."""
    first, second = a_letter(ANN, subject="first"), a_letter(BOB, subject="second")
    with SmtpServer(strict=True) as server:
        spec = transport_spec({"url": f"smtp://127.0.0.1:{server.port}?tls=none", "dkim": config()})
        transport = registry.build("default", spec)
        transport.send(replace(a_call(first), upcoming=lambda: (second, second.recipients)))
        transport.send(a_call(second))
        transport.close()
        assert server.connections == 1
        assert server.violations == []
        mails = server.messages
    assert [str(mail.parsed["Subject"]) for mail in mails] == ["first", "second"]
    assert all(is_valid(mail.data) for mail in mails)


def test_mail_over_smtp_is_signed_copy_by_copy_with_fields_of_its_own():
    """Each copy has its own way out of the list."""
    letter = a_letter(
        ANN,
        BOB,
        private_copies=True,
        headers=(ONE_CLICK[1], ("List-Unsubscribe", "<https://example.com/all>")),
        merge_headers={ANN: {"list-unsubscribe": "<https://example.com/leave?u=ann>"}},
    )
    with SmtpServer(strict=True) as server:
        spec = transport_spec({"url": f"smtp://127.0.0.1:{server.port}?tls=none", "dkim": config()})
        transport = registry.build("default", spec)
        transport.check(letter)
        for recipient in letter.recipients:
            send(transport, letter, recipients=[recipient])
        transport.close()
        assert server.violations == []
        mails = server.messages
    assert [is_valid(mail.data) for mail in mails] == [True, True]
    assert [mail.parsed.get_all("List-Unsubscribe") for mail in mails] == [
        ["<https://example.com/leave?u=ann>"],
        ["<https://example.com/all>"],
    ]
    for mail in mails:
        assert {"list-unsubscribe", "list-unsubscribe-post"} <= set(signed_fields(mail.data))
