"""Every answer of Amazon SES in the fixtures, its whole table, and answers that make no sense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.outcome import Fate, FaultKind, Outcome, ServerNote
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

SES = built("ses://AKID:hush@us-east-1")
RULES = fixture("ses", "errors")["rules"]
STATUSES = fixture("ses", "bulk_status_classes")["map"]
PEOPLE = tuple(f"u{i}@example.net" for i in range(4))
PLAIN = a_letter("ann@example.net", "bob@example.net")
BULK = a_letter(*PEOPLE, text=None, template_id="receipt", private_copies=True)


def said(status: int, content: Any, letter: Any = PLAIN, **headers: str) -> Outcome:
    return read(SES, a_call(letter), an_answer(status, content, headers))


def refused(kind: str, text: str = "x", status: int = 400, letter: Any = PLAIN) -> Outcome:
    return said(status, {"message": text}, letter, **{"x-amzn-ErrorType": kind})


@pytest.mark.parametrize("name", sorted({*fixtures("ses", "response")} - {"response_bulk_mixed"}))
def test_every_fixture_is_classified_as_it_expects(name):
    """Class and ambiguity, and for acceptance the id."""
    given_ = fixture("ses", name)
    expect = given_["expect"]
    outcome = said(given_["status"], given_["json"], **given_["headers"])
    assert class_of(outcome) == (expect["class"], expect.get("ambiguous", False))
    for result in outcome.results:
        assert result.provider_message_id == expect.get("message_id")
    assert outcome.server.queue_id == expect.get("message_id")


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("ses", "response")) == 16


def test_a_mixed_bulk_answer_is_read_entry_by_entry():
    """Each recipient has its own fate and id; the quota rests the transport all the same."""
    content = fixture("ses", "response_bulk_mixed")["json"]
    outcome = said(200, content, BULK)
    assert list(fates(outcome).values()) == ["accepted", "deferred", "deferred", "refused"]
    assert outcome.results[0].provider_message_id.startswith("0100018f")
    assert outcome.fault.kind is FaultKind.QUOTA
    assert outcome.results[3].detail == "SES MESSAGE_REJECTED: virus"


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_of_a_bulk_entry_is_in_our_table(status):
    """The enumeration of the service model, with the class that the fixtures give it."""
    entries = [{"Status": status, "MessageId": "m"}] * len(PEOPLE)
    outcome = said(200, {"BulkEmailEntryResults": entries}, BULK)
    assert class_of(outcome) == (STATUSES[status], False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("type", rule.get("http"))))
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """All types and statuses, but for what was certainly not sent (408, 503)."""
    expected = (rule["class"], rule.get("ambiguous", False))
    not_sent = {"RequestTimeout", "RequestTimeoutException", "ServiceUnavailable"}
    for kind in rule.get("type", ()):
        outcome = refused(kind, rule.get("text_contains", "x"))
        assert class_of(outcome) == (expected[0], expected[1] and kind not in not_sent)
    for status in rule.get("http", ()):
        assert class_of(said(status, "x")) == (expected[0], expected[1] and status != 503)


@pytest.mark.parametrize(
    ("kind", "text", "of_the_account"),
    [
        ("AccountSuspendedException", "x", True),
        ("SendingPausedException", "x", True),
        ("SignatureDoesNotMatch", "x", True),
        ("UnrecognizedClientException", "x", True),
        ("AccessDeniedException", "no identity-based policy allows ses:SendEmail", True),
        (
            "AccessDeniedException",
            "not authorized to perform ses:SendEmail on resource "
            "arn:aws:ses:us-east-1:123456789012:identity/example.com",
            False,
        ),
        ("MailFromDomainNotVerifiedException", "x", False),
        ("NotFoundException", "Template x does not exist", False),
        ("MessageRejected", "Email address is not verified.", False),
    ],
)
def test_whether_the_account_or_the_mail_is_to_blame(kind, text, of_the_account):
    """Keys and suspension rest the transport; sender, template and sandbox fail this mail."""
    outcome = refused(kind, text)
    assert (outcome.fault is not None) == of_the_account
    assert outcome.message_config != of_the_account


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/doc/"}, {}),
        ({}, {"__type": "com.amazonaws.ses#ThrottlingException"}),
        ({}, {"code": "ThrottlingException", "Message": "slow"}),
    ],
)
def test_the_type_is_found_wherever_aws_puts_it(headers, body):
    """Header or body, with a namespace before it or a URL behind it."""
    assert class_of(said(400, body, **headers)) == ("rate_limited", False)


def test_a_deployment_overrides_types_and_entry_statuses():
    """Its word goes before the rules that look at the text, too."""
    ses = built("ses://a:b@us-east-1", {"MessageRejected": "account", "FAILED": "permanent"})
    answer = an_answer(400, {"message": "not verified"}, {"x-amzn-ErrorType": "MessageRejected"})
    assert read(ses, a_call(PLAIN), answer).fault.kind is FaultKind.ACCOUNT
    entries = {"BulkEmailEntryResults": [{"Status": "FAILED"}] * len(PEOPLE)}
    outcome = read(ses, a_call(BULK), an_answer(200, entries))
    assert set(fates(outcome).values()) == {"refused"}


def test_a_bulk_call_refused_as_a_whole_is_tried_in_halves():
    """One bad address fails the call; a visible list is not divided."""
    assert refused("BadRequestException", letter=BULK).divisible
    assert not refused("BadRequestException").divisible


def test_entries_that_are_missing_or_unreadable_are_unknown():
    """They may have been sent; a status unheard of is at least no acceptance."""
    entries = [{"Status": "SUCCESS"}, None, {"Status": "NEW_TROUBLE"}]
    outcome = said(200, {"BulkEmailEntryResults": entries}, BULK)
    assert list(fates(outcome).values()) == ["accepted", "unknown", "deferred", "unknown"]
    assert outcome.results[0].provider_message_id is None


def test_wrong_configuration_of_some_entries_is_not_the_accounts():
    """Five such mails in a row rest the transport; where some were taken it cannot be that."""
    bad = {"Status": "TEMPLATE_NOT_FOUND"}
    good = {"Status": "SUCCESS", "MessageId": "m"}
    assert said(200, {"BulkEmailEntryResults": [bad] * 4}, BULK).message_config
    assert not said(200, {"BulkEmailEntryResults": [bad, bad, bad, good]}, BULK).message_config


@pytest.mark.parametrize("content", [{}, [], None, "ok", {"MessageId": 3}, {"MessageId": ""}, b""])
@pytest.mark.parametrize("letter", [PLAIN, BULK])
def test_a_200_without_an_id_is_unknown(content, letter):
    """Neither "sent" nor "not sent" would be true."""
    assert class_of(said(200, content, letter)) == ("transient", True)


def test_unknown_fields_change_nothing():
    """An answer may grow."""
    outcome = said(200, {"MessageId": "m", "New": [1], "BulkEmailEntryResults": {}})
    assert {r.provider_message_id for r in outcome.results} == {"m"}


_FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("MessageId", "BulkEmailEntryResults", "__type", "message", "Message", "code"), ANY_JSON
    )
    | {
        "BulkEmailEntryResults": st.lists(
            st.fixed_dictionaries(
                {}, optional=dict.fromkeys(("Status", "Error", "MessageId"), ANY_JSON)
            )
            | ANY_JSON
        )
    },
)


@given(st.integers(200, 599), ANY_JSON | _FIELDS, st.sampled_from([PLAIN, BULK]), st.text())
def test_no_answer_breaks_it(status, content, letter, kind):
    """Any JSON, any status, any header: one result for each recipient, in every case."""
    answer = an_answer(status, content, {"x-amzn-ErrorType": kind})
    outcome = SES.read(a_call(letter), answer, ServerNote())
    assert [r.address for r in outcome.results] == [r.email for r in letter.recipients]
    if status >= 300:
        assert Fate.ACCEPTED not in {r.fate for r in outcome.results}


@pytest.mark.parametrize(
    ("status", "content", "kind", "ok", "words"),
    [
        (200, {"SendingEnabled": True, "ProductionAccessEnabled": True}, "", True, "is enabled"),
        (200, {"SendingEnabled": True, "ProductionAccessEnabled": False}, "", True, "sandbox"),
        (200, {"SendingEnabled": False}, "", False, "disabled"),
        (403, {"message": "no"}, "AccessDeniedException", True, "ses:GetAccount"),
        (403, {"message": "no"}, "SignatureDoesNotMatch", False, "SignatureDoesNotMatch"),
        (200, [], "", False, "200"),
    ],
)
def test_what_doctor_says(status, content, kind, ok, words):
    """The key, the sandbox, and sending that AWS has switched off."""
    step = SES.read_probe(an_answer(status, content, {"x-amzn-ErrorType": kind} if kind else {}))
    assert (step.ok, words in step.detail) == (ok, True)
