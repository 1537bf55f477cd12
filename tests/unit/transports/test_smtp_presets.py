"""The SMTP servers that have a word of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Letter, Part
from flask_deferred_mail.transports.registry import build
from tests.support.transport_calls import a_letter


@dataclass
class Spec:
    url: str
    token: Any = None
    dkim: Any = None
    classify: Any = None


ALIYUN = "aliyun+smtp://orders%40example.com:p%2Fw@default"


@pytest.mark.parametrize(
    ("url", "token", "place"),
    [
        ("gmail://a%40b.c@default", True, "smtp.gmail.com:587, tls=required"),
        ("gmail://a%40b.c:app@default", False, "smtp.gmail.com:587, tls=required"),
        ("m365://a%40b.c@default", True, "smtp.office365.com:587, tls=required"),
        (ALIYUN, False, "smtpdm.aliyun.com:465, tls=implicit"),
        (
            f"{ALIYUN}?region=ap-southeast-1",
            False,
            "smtpdm-ap-southeast-1.aliyun.com:465, tls=implicit",
        ),
    ],
)
def test_where_each_of_them_leads(url, token, place):
    """Host, port and TLS; the login is the URL's."""
    smtp = build("default", Spec(url, (lambda: "t") if token else None))
    assert f": {place} with a login>" in repr(smtp)


def test_microsofts_limits_are_kept_unless_others_are_given():
    """Three connections, thirty mails a minute."""
    smtp = build("default", Spec("m365://a@default", lambda: "t"))
    assert smtp.connections == 3
    assert [(limit.number, limit.seconds) for limit in smtp.limits] == [(30, 60)]
    smtp = build("default", Spec("m365://a@default?rate=5/s&connections=1", lambda: "t"))
    assert smtp.connections == 1
    assert [(limit.number, limit.seconds) for limit in smtp.limits] == [(5, 1)]


@pytest.mark.parametrize(
    ("error", "field", "letter"),
    [
        (UnsupportedFeature, "sender", a_letter(sender=Address("shop@example.com"))),
        (UnsupportedFeature, "envelope_sender", a_letter(envelope_sender="b@example.com")),
        (MessageTooLarge, "recipients", a_letter(*(f"u{i}@example.net" for i in range(101)))),
        (MessageTooLarge, "attachments", a_letter(parts=(Part(b"1", "a/b", "a"),) * 101)),
        (MessageTooLarge, "attachments", a_letter(parts=(Part(bytes(12_000_000), "a/b", "a"),))),
    ],
    ids=["sender", "envelope", "recipients", "files", "size"],
)
def test_what_aliyun_would_refuse_is_refused_in_the_caller(error, field, letter: Letter):
    """Only the address that logs in may send; the limits are Aliyun's."""
    smtp = build("default", Spec(ALIYUN))
    smtp.check(a_letter(sender=Address("Orders@example.com", "Shop")))
    with pytest.raises(error) as caught:
        smtp.check(letter)
    assert caught.value.field == field
