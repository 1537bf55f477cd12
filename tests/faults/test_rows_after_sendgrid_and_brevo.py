"""What the row says after troubles of SendGrid and Brevo: the next attempt, its key, who is left.

What the adapters make of each answer is tested beside them; here it is the row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any

import pytest

from flask_deferred_mail.errors import HandoverRefused, UnsupportedFeature
from flask_deferred_mail.outcome import FaultKind
from flask_deferred_mail.transports.base import Transport
from tests.support.http_provider import HttpProvider, Reply, unused_port
from tests.support.json_providers import built
from tests.support.mail_app import MailApp
from tests.support.row_facts import (
    ACCOUNT,
    IN_DOUBT,
    MAIL_PAYS,
    MISCONFIGURED,
    QUOTA,
    RATE_LIMITED,
    REJECTED,
    SENT,
    UNREACHABLE,
    Row,
    assert_row,
    assert_sent_later,
)
from tests.support.transport_calls import a_letter, fates, send

Make = Callable[..., MailApp]
ANN, BOB = "ann@example.com", "bob@example.com"
SHORT = {"DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 0.7}
SCHEMES = ["sendgrid", "brevo"]
TAKEN = {
    "sendgrid": Reply(b"", 202, {"X-Message-Id": "m-1"}),
    "brevo": Reply({"messageId": "m-1"}, 201),
}
KEY = "some-hushed-key"


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture
def make(make_paced: Make, provider: HttpProvider) -> Callable[[str], MailApp]:
    def make_for(scheme: str) -> MailApp:
        provider.default = TAKEN[scheme]
        return make_paced(f"{scheme}://{KEY}@default?endpoint={provider.url}", **SHORT)

    return make_for


@pytest.fixture
def brevo(make: Callable[[str], MailApp]) -> MailApp:
    return make("brevo")


@pytest.fixture
def sendgrid(make: Callable[[str], MailApp]) -> MailApp:
    return make("sendgrid")


def by_sendgrid(status: int, message: str = "words", field: str | None = None) -> Reply:
    return Reply({"errors": [{"message": message, "field": field, "help": None}]}, status)


def by_brevo(code: str, status: int = 400, message: str = "words") -> Reply:
    return Reply({"code": code, "message": message}, status)


def keys(provider: HttpProvider) -> list[str]:
    """Brevo's idempotency keys of all requests, in order."""
    return [json.loads(r.body)["headers"]["idempotencyKey"] for r in provider.requests]


def people(provider: HttpProvider) -> list[list[str]]:
    """Whom each request is for, whatever the field."""
    found = []
    for request in provider.requests:
        content = json.loads(request.body)
        mails = content.get("personalizations") or content.get("messageVersions") or [content]
        fields = [mail.get(kind, []) for mail in mails for kind in ("to", "cc", "bcc")]
        found.append([person["email"] for field in fields for person in field])
    return found


COMMON = [
    (Reply(hang="after_body"), IN_DOUBT),
    (Reply(reset="after_body"), IN_DOUBT),
    (Reply(drop="after_body"), IN_DOUBT),
    (Reply(reset="before_body"), IN_DOUBT),
    (Reply('{"messageId":', 201, trickle="headers"), IN_DOUBT),
    (Reply("<html>busy</html>"), IN_DOUBT),
    (Reply("<h1>\x1b[31moh</h1>", 500), IN_DOUBT),
    (Reply("", 502), IN_DOUBT),
    (Reply("", 504), IN_DOUBT),
    (Reply("", 503), MAIL_PAYS),
    (Reply("", 503, {"Retry-After": "30"}), replace(UNREACHABLE, due=30)),
    (Reply("", 408), MAIL_PAYS),
    (Reply("", 425), MAIL_PAYS),
    (Reply("", 429), RATE_LIMITED),
    (Reply("", 429, {"Retry-After": "soon"}), RATE_LIMITED),
    (Reply("", 429, {"Retry-After": "-5"}), RATE_LIMITED),
    (Reply("", 429, {"Retry-After": "120"}), replace(RATE_LIMITED, due=120)),
    (Reply("", 429, {"Retry-After": "31536000"}), replace(RATE_LIMITED, due=3600)),
    (Reply("", 400), REJECTED),
    (Reply("", 413), REJECTED),
    (Reply("", 422), REJECTED),
    (Reply("", 401), ACCOUNT),
    (Reply("", 403), ACCOUNT),
    (Reply("", 404), ACCOUNT),
    (Reply("", 402), QUOTA),
    (Reply("", 302, {"Location": "http://127.0.0.1:9/"}), ACCOUNT),
]
OF_SENDGRID = [
    (Reply(b"", 202, {"X-Message-Id": "m"}), SENT),
    (Reply("x", 202, content_length=500), SENT),
    (by_sendgrid(400, "bad", "personalizations.0.to.0.email"), REJECTED),
    (by_sendgrid(400, "no such template", "template_id"), MISCONFIGURED),
    (by_sendgrid(403, "does not match a verified Sender Identity", "from"), MISCONFIGURED),
    (by_sendgrid(401, "Maximum credits exceeded"), QUOTA),
    (by_sendgrid(403, "access forbidden"), ACCOUNT),
    (Reply("", 429, {"X-RateLimit-Reset": "9999999999"}), replace(RATE_LIMITED, due=3600)),
]
OF_BREVO = [
    (Reply({"messageId": "m-1"}, 201), SENT),
    (Reply({"batchId": "b"}, 202), SENT),
    (Reply("", 201), IN_DOUBT),
    (Reply('{"messageId":"', 201, content_length=500), IN_DOUBT),
    (Reply(TAKEN["brevo"].body, 201, trickle="body"), IN_DOUBT),
    (Reply(b"x" * 3_000_000, 201), IN_DOUBT),
    (by_brevo("invalid_parameter"), REJECTED),
    (by_brevo("duplicate_parameter"), REJECTED),
    (by_brevo("duplicate_request"), MAIL_PAYS),
    (by_brevo("permission_denied", 403), ACCOUNT),
    (by_brevo("account_under_validation"), ACCOUNT),
    (by_brevo("not_enough_credits", 402), QUOTA),
    (Reply({"code": "x"}, 429, {"x-sib-ratelimit-reset": "90"}), replace(RATE_LIMITED, due=90)),
]


def _shown(value: Any) -> str:
    if not isinstance(value, Reply):
        return value if isinstance(value, str) else ""
    trouble = value.hang or value.reset or value.drop or value.trickle
    return f"{value.status}-{trouble or '-'.join(value.headers.values()) or str(value.body)[:30]}"


@pytest.mark.parametrize(
    ("scheme", "reply", "expected"),
    [
        *((scheme, reply, expected) for scheme in SCHEMES for reply, expected in COMMON),
        *(("sendgrid", reply, expected) for reply, expected in OF_SENDGRID),
        *(("brevo", reply, expected) for reply, expected in OF_BREVO),
    ],
    ids=_shown,
)
def test_e2_to_e11_what_the_row_says(
    make: Callable[[str], MailApp],
    provider: HttpProvider,
    scheme: str,
    reply: Reply,
    expected: Row,
) -> None:
    """Who pays, what is in doubt, when it is tried again; one request, and never a raw page."""
    app = make(scheme)
    provider.script(reply)
    job = app.send(html="<p>Hi</p>")
    after = assert_row(app, job, expected)
    assert len(provider.requests) == 1
    assert (after.last_error or "").isprintable()
    assert "<" not in (after.last_error or "")
    assert KEY not in repr(after)
    if expected.status == "pending":
        assert_sent_later(app, job, expected.attempts + 1)
    assert len(provider.requests) == 1 + (expected.status == "pending")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_e1_a_provider_that_cannot_be_reached_costs_no_mail_anything(
    make_paced: Make, scheme: str
) -> None:
    """The transport rests, the mail waits, unburned."""
    app = make_paced(f"{scheme}://{KEY}@default?endpoint=http://127.0.0.1:{unused_port()}")
    assert_row(app, app.send(), UNREACHABLE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_e4_a_date_in_retry_after_is_honoured(
    make: Callable[[str], MailApp], provider: HttpProvider, scheme: str
) -> None:
    """The whole transport waits, other mail with it."""
    app = make(scheme)
    date = formatdate(time.time() + 300, usegmt=True)
    provider.script(Reply("", 429, {"Retry-After": date}))
    app.send()
    app.send()
    app.sweep(concurrency=1)
    assert len(provider.requests) == 1
    assert 280 <= app.runtime.states.all()["default"].rests_for <= 380


@pytest.mark.parametrize("scheme", SCHEMES)
def test_e12_a_connection_that_was_closed_meanwhile_costs_nothing(
    make: Callable[[str], MailApp], provider: HttpProvider, scheme: str
) -> None:
    """Not a byte went out on it, so the mail goes out on a fresh one in the same attempt."""
    app = make(scheme)
    provider.script(replace(TAKEN[scheme], close="fin"))
    app.send()
    assert app.sweep().sent == 1
    job = app.send()
    assert app.sweep().sent == 1
    assert app.job(job).attempts == 1
    assert provider.connections == 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_leave_to_hand_over_is_asked_for_before_the_last_byte(
    provider: HttpProvider, scheme: str
) -> None:
    """Refused, the request stays incomplete: nothing can have been sent."""
    transport = built(f"{scheme}://{KEY}@default?endpoint={provider.url}")

    def refuse() -> None:
        raise HandoverRefused("no")

    with pytest.raises(HandoverRefused):
        send(transport, hand_over=refuse)
    assert provider.requests == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_key_that_the_provider_repeats_is_blotted_out(
    provider: HttpProvider, scheme: str
) -> None:
    """In outcomes and in what doctor shows."""
    transport: Transport = built(f"{scheme}://{KEY}@default?endpoint={provider.url}")
    provider.default = by_sendgrid(401, KEY) if scheme == "sendgrid" else by_brevo("x", 401, KEY)
    outcome = send(transport)
    assert outcome.fault is not None
    assert outcome.fault.kind is FaultKind.ACCOUNT
    steps = list(transport.probe())
    assert [(step.name, step.ok) for step in steps] == [("connect", True), ("key", False)]
    assert KEY not in repr((outcome, steps, transport))
    assert KEY in str(provider.requests[0].headers)
    assert [request.method for request in provider.requests] == ["POST", "GET"]
    transport.close()


def test_private_copies_that_sendgrid_counts_are_refused_alone(
    sendgrid: MailApp, provider: HttpProvider
) -> None:
    """The others go at once, in a second call; nobody gets two."""
    everybody = [f"r{i}@example.com" for i in range(4)]
    provider.script(by_sendgrid(400, "not valid", "personalizations.2.to.0.email"))
    job = sendgrid.send(*everybody, private_copies=True)
    assert sendgrid.sweep().partial == 1
    guilty = everybody[2]
    statuses = {who: "rejected" if who == guilty else "sent" for who in everybody}
    assert sendgrid.statuses(job) == statuses
    assert people(provider) == [everybody, [who for who in everybody if who != guilty]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_refusal_over_an_unnamed_copy_is_divided_until_it_is_found(
    make: Callable[[str], MailApp], provider: HttpProvider, scheme: str
) -> None:
    """Halves are tried; everybody else gets one mail."""
    app = make(scheme)
    everybody = [f"r{i}@example.com" for i in range(8)]
    refusal = {
        "sendgrid": by_sendgrid(400, "bad", "personalizations"),
        "brevo": by_brevo("invalid_parameter", message="email is not valid in to"),
    }[scheme]
    provider.decide = lambda request: refusal if b"r5@" in request.body else None
    job = app.send(*everybody, private_copies=True)
    assert app.sweep().partial == 1
    assert app.statuses(job) == {
        who: "rejected" if who == "r5@example.com" else "sent" for who in everybody
    }
    taken = [who for call in people(provider) if "r5@example.com" not in call for who in call]
    assert sorted(taken) == sorted(set(everybody) - {"r5@example.com"})


@pytest.mark.parametrize("code", ["duplicate_parameter", "duplicate_request"])
def test_brevo_recognises_the_repeat_of_a_mail_in_doubt(
    brevo: MailApp, provider: HttpProvider, code: str
) -> None:
    """Same key, "I know this": the first try was taken, and nobody is mailed twice."""
    provider.script(Reply(drop="after_body"), by_brevo(code))
    job = brevo.send(ANN, BOB, private_copies=True)
    brevo.sweep()
    assert set(brevo.statuses(job).values()) == {"unknown"}
    brevo.make_due()
    assert brevo.sweep().sent == 1
    assert len(provider.requests) == 2
    assert keys(provider)[0] == keys(provider)[1]
    assert provider.requests[0].body == provider.requests[1].body


def test_an_answer_that_says_not_sent_ends_brevos_key(
    brevo: MailApp, provider: HttpProvider
) -> None:
    """Else the next, rightful try would be taken for a repeat."""
    provider.script(Reply("", 503))
    job = brevo.send()
    brevo.sweep()
    assert_sent_later(brevo, job, 2)
    assert keys(provider)[0] != keys(provider)[1]


def test_sendgrid_repeats_a_mail_in_doubt_once_and_then_leaves_it_to_a_person(
    sendgrid: MailApp, provider: HttpProvider
) -> None:
    """It has no key by which it could tell; the second silence holds the mail."""
    provider.script(Reply(drop="after_body"), Reply(drop="after_body"))
    job = sendgrid.send()
    assert_row(sendgrid, job, IN_DOUBT)
    sendgrid.make_due()
    assert_row(sendgrid, job, Row("held", 2, "unknown", "unknown"))
    assert len(provider.requests) == 2


def test_each_copy_of_brevo_has_its_own_id(brevo: MailApp, provider: HttpProvider) -> None:
    """In the order of the versions; by them reports are told apart."""
    provider.script(Reply({"messageIds": ["<1@x>", "<2@x>"]}, 201))
    job = brevo.send(ANN, BOB, merge_data={ANN: {"n": 1}}, html="Hi {{params.n}}")
    assert brevo.sweep().sent == 1
    assert [r.provider_message_id for r in brevo.job(job).recipients] == ["<1@x>", "<2@x>"]
    [request] = provider.requests
    assert "params" not in json.loads(request.body)["messageVersions"][1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheduled_mail_is_left_to_the_provider_if_it_is_asked_to_keep_it(
    make_paced: Make, provider: HttpProvider, scheme: str
) -> None:
    """At once, with its time; further ahead than the provider allows, it waits in our table."""
    provider.default = TAKEN[scheme]
    url = f"{scheme}://{KEY}@default?schedule=native&endpoint={provider.url}"
    app = make_paced(url)
    later = datetime.now(UTC) + timedelta(hours=2)
    job = app.send(send_at=later)
    app.send(send_at=later + timedelta(days=3))
    assert app.sweep().sent == 1
    assert app.job(job).status == "sent"
    content = json.loads(provider.requests[0].body)
    if scheme == "sendgrid":
        moment = datetime.fromtimestamp(content["send_at"], UTC)
    else:
        moment = datetime.fromisoformat(content["scheduledAt"])
    assert abs((moment - later).total_seconds()) < 1.1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_provider_cannot_carry_raises_in_the_view_or_is_dropped(
    make_paced: Make, provider: HttpProvider, scheme: str
) -> None:
    """Nothing is recorded; or, if the settings say so, the rest is."""
    provider.default = TAKEN[scheme]
    url = f"{scheme}://{KEY}@default?endpoint={provider.url}"
    wish: dict[str, Any] = {"metadata": {"event": "größer", "n": "1"}}
    with pytest.raises(UnsupportedFeature, match="metadata"):
        make_paced(url).send(**wish)
    app = make_paced(url, DEFERRED_MAIL_ON_UNSUPPORTED="drop")
    app.send(**wish)
    assert app.sweep().sent == 1
    assert b"gr\xc3\xb6\xc3\x9fer" not in provider.requests[0].body


def test_fates_of_a_visible_list_are_the_same_for_all(provider: HttpProvider) -> None:
    """It is not split: each of them would see another list."""
    transport = built(f"sendgrid://{KEY}@default?endpoint={provider.url}")
    provider.default = by_sendgrid(400, "bad", "personalizations.0.to.1.email")
    outcome = send(transport, a_letter(ANN, BOB))
    assert fates(outcome) == {ANN: "refused", BOB: "refused"}
    transport.close()
