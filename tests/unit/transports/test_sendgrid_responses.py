"""Every answer of SendGrid in the fixtures, its whole table, and answers that make no sense."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.outcome import Fate, FaultKind, Outcome
from flask_deferred_mail.transports.http_api import MAX_RETRY_AFTER
from flask_deferred_mail.transports.resets import seconds_until
from tests.support.json_providers import (
    ANY_JSON,
    an_answer,
    built,
    class_of,
    fixture,
    fixtures,
    read,
)
from tests.support.transport_calls import a_call, a_letter, fates

SENDGRID = built("sendgrid://SG.hush@default")
RULES = fixture("sendgrid", "errors")["rules"]
PEOPLE = tuple(f"u{i}@example.net" for i in range(4))
PLAIN = a_letter("ann@example.net", "bob@example.net")
COPIES = a_letter(*PEOPLE, private_copies=True)


def said(status: int, content: Any, letter: Any = PLAIN, **headers: str) -> Outcome:
    given_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(SENDGRID, a_call(letter), an_answer(status, content, given_headers))


def complaint(message: str, field: str | None = None) -> dict[str, Any]:
    return {"errors": [{"message": message, "field": field, "help": None}]}


def ambiguous(status: int) -> bool:
    """What the provider's table says of a status; the fixtures of single answers leave it out."""
    return any(r.get("ambiguous", False) for r in RULES if status in r.get("http", ()))


@pytest.mark.parametrize("name", fixtures("sendgrid", "response"))
def test_every_fixture_is_classified_as_it_expects(name):
    """Class and ambiguity, for acceptance the id, and until when to stay away."""
    given_ = fixture("sendgrid", name)
    expect = given_["expect"]
    content = given_["json"] if "json" in given_ else given_["text"].encode()
    outcome = read(SENDGRID, a_call(PLAIN), an_answer(given_["status"], content, given_["headers"]))
    doubtful = expect.get("ambiguous", ambiguous(given_["status"]))
    assert class_of(outcome) == (expect["class"], doubtful)
    for result in outcome.results:
        assert result.provider_message_id == expect.get("message_id")
    if "message_id" in expect:
        assert outcome.server.queue_id == expect["message_id"]


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("sendgrid", "response")) == 8


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["http"]))
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """All statuses, with the words where a rule has some, but for a 503: it was not sent (E5)."""
    content: Any = b""
    if "text_contains" in rule:
        content = complaint(f"{rule['text_contains']}.")
    for status in rule["http"]:
        expected = (rule["class"], rule.get("ambiguous", False) and status != 503)
        assert class_of(said(status, content)) == expected


def test_a_202_is_accepted_whatever_its_body_says():
    """SendGrid says nothing else; the id is in a header, or unknown."""
    for content in (b"", b"<html>", {"errors": []}, None):
        outcome = said(202, content, X_Message_Id="abc")
        assert {r.provider_message_id for r in outcome.results} == {"abc"}
    assert said(202, b"").results[0].provider_message_id is None


def test_a_200_is_accepted_only_without_words():
    """It is the sandbox's; a page in a 200 is somebody else's, and nobody knows what it means."""
    assert class_of(said(200, b"")) == ("accepted", False)
    assert class_of(said(200, {})) == ("accepted", False)
    assert class_of(said(200, b"<html>welcome")) == ("transient", True)
    assert class_of(said(204, b"")) == ("transient", True)


@pytest.mark.parametrize(
    ("status", "message", "field", "kind"),
    [
        (401, "Maximum credits exceeded", None, FaultKind.QUOTA),
        (401, "The provided authorization grant is invalid", None, FaultKind.ACCOUNT),
        (403, "access forbidden", None, FaultKind.ACCOUNT),
    ],
)
def test_what_is_the_accounts_rests_the_transport(status, message, field, kind):
    """Key, rights, credits: no mail pays."""
    outcome = said(status, complaint(message, field))
    assert outcome.fault is not None
    assert outcome.fault.kind is kind
    assert not outcome.costs_attempt


@pytest.mark.parametrize(
    ("status", "message", "field"),
    [
        (403, "The from address does not match a verified Sender Identity.", "from"),
        (403, "The from address does not match a verified Sender Identity.", None),
        (403, "no", "from"),
        (400, "The Template ID must be a valid template id", "template_id"),
    ],
)
def test_what_is_one_senders_or_templates_fails_that_mail(status, message, field):
    """The others go on; five in a row tell delivery that it was the account."""
    outcome = said(status, complaint(message, field))
    assert {r.fate for r in outcome.results} == {Fate.FAILED}
    assert outcome.message_config
    assert outcome.fault is None


@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limited"), (500, "transient")])
def test_a_field_that_is_named_beside_another_trouble_decides_nothing(status, kind):
    """Only a refusal is about what stands in the request."""
    for field in ("from", "personalizations.1.to"):
        assert class_of(said(status, complaint("x", field), COPIES)) == (kind, status == 500)


def test_private_copies_that_the_answer_counts_are_refused_alone():
    """The others were not tried, and go at once in another call."""
    content = {
        "errors": [
            {"message": "Does not contain a valid address.", "field": f"personalizations.{i}.to"}
            for i in (1, 3, 99)
        ]
    }
    outcome = said(400, content, COPIES)
    assert list(fates(outcome).values()) == ["untried", "refused", "untried", "refused"]
    assert outcome.results[1].detail == (
        "SendGrid: Does not contain a valid address. (personalizations.1.to)"
    )


def test_a_refusal_that_counts_all_copies_or_none_is_divided():
    """Delivery tries the halves; of a list that all see, everybody is refused."""
    everybody = {
        "errors": [{"message": "bad", "field": f"personalizations.{i}.to"} for i in range(4)]
    }
    for content in (everybody, complaint("bad", "personalizations")):
        assert said(400, content, COPIES).divisible
        outcome = said(400, content)
        assert not outcome.divisible
        assert class_of(outcome) == ("permanent", False)


def test_an_address_that_the_words_name_is_refused_alone():
    """SendGrid names the one that stands twice."""
    words = "You have included [u2@example.net] more than once."
    outcome = said(400, complaint(words, "personalizations"), COPIES)
    assert list(fates(outcome).values()) == ["untried", "untried", "refused", "untried"]


def test_a_refusal_of_what_all_copies_share_is_not_divided():
    """Halves of it would fare no better."""
    assert not said(400, complaint("too long", "subject"), COPIES).divisible


def test_what_a_deployment_says_goes_first():
    """By phrase, by field, or by status."""
    table = {
        "verified sender identity": "unavailable",
        "personalizations": "permanent",
        "HTTP 429": "quota",
    }
    transport = built("sendgrid://SG.hush@default", table)
    sender = complaint("does not match a verified Sender Identity")
    outcome = read(transport, a_call(), an_answer(403, sender))
    assert outcome.fault is not None
    assert outcome.fault.kind is FaultKind.UNREACHABLE
    blamed = complaint("bad", "personalizations.1.to")
    outcome = read(transport, a_call(COPIES), an_answer(400, blamed))
    assert set(fates(outcome).values()) == {"refused"}
    outcome = read(transport, a_call(), an_answer(429, b""))
    assert outcome.fault is not None
    assert outcome.fault.kind is FaultKind.QUOTA


def test_a_429_says_when_its_window_ends():
    """X-RateLimit-Reset is a moment; Retry-After goes before it."""
    moment = str(int(time.time()) + 40)
    outcome = said(429, {}, X_RateLimit_Reset=moment)
    assert 30 < outcome.fault.retry_after <= 40
    outcome = said(429, {}, X_RateLimit_Reset=moment, Retry_After="7")
    assert outcome.fault.retry_after == 7


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30),
        ("1795262445", 45),
        ("1795262400", None),
        ("999999999999", MAX_RETRY_AFTER),
        ("99999", MAX_RETRY_AFTER),
        ("0", None),
        ("-5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("9" * 40, None),
    ],
)
def test_when_a_window_ends_is_read_from_seconds_and_from_moments(value, seconds):
    """Absurd values are no reason to stay away, or for an hour at the most."""
    assert seconds_until(value, 1795262400.0) == seconds


def test_the_providers_words_are_cleaned():
    """No control characters and no endless text come in by way of a message."""
    detail = said(400, complaint("bad\x1b[2J\n" + "y" * 9000)).detail
    assert "\x1b" not in detail
    assert "\n" not in detail
    assert len(detail) <= 300


def test_the_probe_asks_what_the_key_may_do():
    """A key without mail.send is told from one that SendGrid does not know."""
    request = SENDGRID.probe_request()
    assert (request.method, request.url) == ("GET", "https://api.sendgrid.com/v3/scopes")
    assert request.headers == {"Authorization": "Bearer SG.hush"}
    assert SENDGRID.read_probe(an_answer(200, {"scopes": ["mail.send"]})).ok
    assert "lacks" in SENDGRID.read_probe(an_answer(200, {"scopes": ["stats.read"]})).detail
    assert not SENDGRID.read_probe(an_answer(200, [])).ok
    step = SENDGRID.read_probe(an_answer(401, complaint("authorization required")))
    assert (step.ok, step.detail) == (False, "SendGrid: authorization required")


def test_the_key_is_shown_nowhere():
    """Neither in the transport nor in what is blotted out of answers too late."""
    assert "SG.hush" not in repr(SENDGRID)
    assert SENDGRID.secrets() == ("SG.hush",)


ERRORS = st.builds(
    lambda listed: {"errors": listed},
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"message": ANY_JSON, "field": ANY_JSON | st.just("personalizations.0")}
        )
        | ANY_JSON,
        max_size=4,
    )
    | ANY_JSON,
)


@given(st.integers(100, 599), ANY_JSON | ERRORS | st.binary(max_size=40), st.booleans())
def test_no_answer_is_too_odd_to_be_read(status, content, private):
    """Any JSON, any bytes, any status: one result for each recipient, and accepted only by 2xx."""
    outcome = said(status, content, COPIES if private else PLAIN, X_RateLimit_Reset="{}")
    expected = COPIES if private else PLAIN
    assert [r.address for r in outcome.results] == [r.email for r in expected.recipients]
    if not 200 <= status < 300:
        assert "accepted" not in fates(outcome).values()
    assert SENDGRID.read_probe(an_answer(status, content)).detail


@given(ANY_JSON, ANY_JSON)
def test_unknown_fields_change_nothing(value, other):
    """What SendGrid adds one day is passed over."""
    error = {"message": "x", "field": "personalizations.1.to", "new": value}
    plain = {"errors": [{"message": "x", "field": "personalizations.1.to"}]}
    with_more = {"errors": [error], "id": other}
    assert said(400, with_more, COPIES).results == said(400, plain, COPIES).results
