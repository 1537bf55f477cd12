"""One-click unsubscription (RFC 8058): carried unchanged, and warned of where no button will be."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import dkim
import pytest

from tests.support.dkim_keys import rsa_key
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer

MakeApp = Callable[..., MailApp]
ANN, BOB = "ann@example.com", "bob@example.com"
CLICK = {"List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
URL = {"List-Unsubscribe": "<https://example.com/leave?u=1>"}


def signed(url: str, **changes: Any) -> dict[str, Any]:
    """A transport with a key."""
    key = {"domain": "example.com", "selector": "s1", "key": rsa_key().pem, **changes}
    return {"url": url, "dkim": key}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said, after the sender."""
    return [message.split("button: ")[1] for message in caplog.messages if "button" in message]


@pytest.mark.parametrize("door", ["send_after_response", "send_many", "send_now"])
def test_each_copy_has_a_url_of_its_own_under_a_valid_signature(
    make_app: MakeApp, smtp: SmtpServer, caplog: pytest.LogCaptureFixture, door: str
) -> None:
    """From the view to the wire, without a warning."""
    app = make_app(signed(smtp.url()))
    fields: dict[str, Any] = {
        "subject": "News",
        "body": "Hi\n",
        "recipients": [ANN, BOB],
        "private_copies": True,
        "extra_headers": CLICK,
        "merge_headers": {
            who: {"List-Unsubscribe": f"<https://example.com/leave?u={who}>"} for who in (ANN, BOB)
        },
    }
    with app.app.app_context():
        if door == "send_many":
            app.mail.send_many([fields])
        else:
            getattr(app.mail, door)(**fields)
    app.sweep()
    assert warnings(caplog) == []
    assert len(smtp.messages) == 2
    record = rsa_key().record.encode()
    for mail in smtp.messages:
        assert (
            mail.parsed["List-Unsubscribe"] == f"<https://example.com/leave?u={mail.recipients[0]}>"
        )
        assert mail.parsed["List-Unsubscribe-Post"] == CLICK["List-Unsubscribe-Post"]
        assert dkim.verify(mail.data, dnsfunc=lambda name, timeout=5: record)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "to all": ({"recipients": [ANN, BOB], "extra_headers": {**URL, **CLICK}}, "several recipients"),
    "same": (
        {"recipients": [ANN, BOB], "private_copies": True, "extra_headers": {**URL, **CLICK}},
        "the same URL",
    ),
    "no url": ({"extra_headers": CLICK}, "has 0"),
    "mailto": ({"extra_headers": {"List-Unsubscribe": "<mailto:a@b.c>", **CLICK}}, "has 0"),
    "http": ({"extra_headers": {"List-Unsubscribe": "<http://example.com/>", **CLICK}}, "has 0"),
    "two": (
        {"extra_headers": {"List-Unsubscribe": "<https://a.com/>, <https://b.com/>", **CLICK}},
        "has 2",
    ),
    "words": ({"extra_headers": {**URL, "List-Unsubscribe-Post": "yes"}}, "can only be"),
}


@pytest.mark.parametrize(("fields", "words"), WRONG.values(), ids=WRONG)
def test_what_keeps_the_button_away_is_said_once_a_sender(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], words: str
) -> None:
    """And the mail is recorded all the same."""
    app = make_app(signed("memory:"))
    given = {"recipients": [ANN], **fields}
    for _ in range(3):
        assert app.send(
            *given["recipients"], **{k: v for k, v in given.items() if k != "recipients"}
        )
    assert len(warnings(caplog)) == 1
    assert words in warnings(caplog)[0]
    app.send(ANN, sender="other@example.com", extra_headers=CLICK)
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize(
    ("transport", "warned"),
    [
        ("smtp://127.0.0.1:9?tls=none", True),
        (signed("smtp://127.0.0.1:9?tls=none"), False),
        (signed("smtp://127.0.0.1:9?tls=none", headers=["From", "List-Unsubscribe"]), True),
        ("failover(memory: smtp://127.0.0.1:9?tls=none)", True),
        ("gmail://u:p@default", False),
        ("postmark://token@default", False),
        ("memory:", False),
    ],
)
def test_a_signature_over_both_fields_is_asked_for_where_we_are_the_ones_to_sign(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, transport: Any, warned: bool
) -> None:
    """Providers sign what they send; a relay may, which the warning grants."""
    make_app(transport).send(ANN, extra_headers={**URL, **CLICK})
    assert [text.startswith("no DKIM signature") for text in warnings(caplog)] == [True] * warned


def test_a_plain_way_out_needs_nothing(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    """List-Unsubscribe alone asks for no signature, nor does any other field."""
    app = make_app("smtp://127.0.0.1:9?tls=none")
    with caplog.at_level(logging.DEBUG, "flask_deferred_mail"):
        app.send(ANN, BOB, extra_headers={**URL, "X-A": "1"})
    assert warnings(caplog) == []


def test_doctor_tells_it_of_fields_that_every_mail_gets(make_app: MakeApp) -> None:
    """Before the first mail, and nothing where all is well."""
    headers = {"DEFERRED_MAIL_DEFAULT_HEADERS": {**URL, **CLICK}}
    told = make_app("memory:", **headers).app.test_cli_runner().invoke(args=["mail", "doctor"])
    assert "the same for everybody" in " ".join(told.output.split())
    bare = make_app("memory:", DEFERRED_MAIL_DEFAULT_HEADERS=CLICK)
    assert (
        "List-Unsubscribe-Post"
        not in bare.app.test_cli_runner().invoke(args=["mail", "doctor"]).output
    )
