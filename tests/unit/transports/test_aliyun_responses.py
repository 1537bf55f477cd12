"""Every answer of Aliyun in the fixtures, its whole table, and answers that make no sense."""

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

ALIYUN = built("aliyun://LTAItest:testsecret@cn-hangzhou")
RULES = fixture("aliyun", "errors")["rules"]
ANN, BOB = "ann@example.net", "bob@example.net"
ONE, TWO = a_letter(ANN), a_letter(ANN, BOB)


def said(status: int, content: Any, letter: Any = ONE, **headers: str) -> Outcome:
    return read(ALIYUN, a_call(letter), an_answer(status, content, headers))


def refused(code: str, status: int = 400, letter: Any = ONE) -> Outcome:
    return said(status, {"Code": code, "Message": "x", "RequestId": "1"}, letter)


@pytest.mark.parametrize("name", fixtures("aliyun", "response"))
def test_every_fixture_is_classified_as_it_expects(name):
    """Class, ambiguity and id. That a used nonce is ambiguous stands in the table only."""
    given_ = fixture("aliyun", name)
    expect = given_["expect"]
    ambiguous = expect.get("ambiguous", name == "response_error_nonce")
    outcome = said(given_["status"], given_["json"])
    assert class_of(outcome) == (expect["class"], ambiguous)
    assert outcome.results[0].provider_message_id == expect.get("message_id")


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("aliyun", "response")) == 15


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """All codes, families with a member and without, and all statuses but a bare 503."""
    expected = (rule["class"], rule.get("ambiguous", False))
    for code in rule.get("code", ()):
        assert class_of(refused(code)) == expected
    for family in rule.get("code_prefix", ()):
        assert class_of(refused(family)) == expected
        assert class_of(refused(f"{family}.Whatever")) == expected
    for status in rule.get("http", ()):
        # A 503 was certainly not sent.
        assert class_of(said(status, "x")) == (expected[0], expected[1] and status != 503)


@pytest.mark.parametrize(
    ("code", "of_the_account"),
    [
        ("InvalidAccessKeyId.NotFound", True),
        ("SignatureDoesNotMatch", True),
        ("Forbidden.RAM", True),
        ("InvalidTimeStamp.Expired", True),
        ("InvalidMailAddress.NotFound", False),
        ("InvalidMailAddressStatus.Malformed", False),
        ("InvalidTemplate.NotFound", False),
    ],
)
def test_whether_the_account_or_the_mail_is_to_blame(code, of_the_account):
    """Keys and the clock rest the transport; the sender's address or a template fails this mail."""
    outcome = refused(code, 404)
    assert (outcome.fault is not None) == of_the_account
    assert outcome.message_config != of_the_account


def test_an_unknown_code_goes_by_its_status():
    """Aliyun may bring new ones."""
    assert class_of(refused("InvalidTagName.Malformed", 400)) == ("permanent", False)
    assert class_of(refused("Brandnew", 500)) == ("transient", True)


def test_one_id_is_everybodys():
    """Aliyun gives one for each call."""
    outcome = said(200, {"EnvId": "600000012345678901", "RequestId": "1"}, TWO)
    assert {r.provider_message_id for r in outcome.results} == {"600000012345678901"}


def test_an_address_that_aliyun_blocks_is_suppressed_alone():
    """Of a list one does not know whose it is: all are refused, and none is called dead."""
    assert fates(refused("InvalidToAddress.Spam")) == {ANN: "suppressed"}
    assert fates(refused("InvalidToAddress.Spam", letter=TWO)) == {ANN: "refused", BOB: "refused"}


def test_what_aliyun_repeats_of_a_request_is_not_kept():
    """A wrong signature is answered with the string to sign, and in it the whole mail."""
    text = "Specified signature is not matched. Server string to sign is:POST&%2F&secret-body"
    outcome = said(400, {"Code": "SignatureDoesNotMatch", "Message": text})
    assert outcome.detail == "Aliyun SignatureDoesNotMatch: Specified signature is not matched."
    assert "secret-body" not in repr(outcome)


def test_throttling_rests_the_transport_as_long_as_it_is_told():
    """By Retry-After, if there is one."""
    body = {"Code": "Throttling.User", "Message": "slow"}
    outcome = said(400, body, **{"retry-after": "9"})
    assert outcome.fault.kind is FaultKind.RATE_LIMITED
    assert outcome.fault.retry_after == 9
    assert said(400, body).fault.retry_after is None


def test_a_deployment_overrides_codes():
    """Before families: for example for those who know that Spam means spam for them."""
    aliyun = built("aliyun://k:s@cn-hangzhou", {"InvalidSendMail.Spam": "permanent"})
    outcome = read(aliyun, a_call(ONE), an_answer(400, {"Code": "InvalidSendMail.Spam"}))
    assert class_of(outcome) == ("permanent", False)


@pytest.mark.parametrize(
    "content", [{}, [], None, "ok", {"EnvId": ""}, {"EnvId": True}, {"EnvId": []}, b""]
)
def test_a_200_without_an_id_is_unknown(content):
    """Neither "sent" nor "not sent" would be true."""
    assert class_of(said(200, content)) == ("transient", True)


def test_unknown_fields_change_nothing():
    """An answer may grow, and an id may become a number."""
    outcome = said(200, {"EnvId": 7, "RequestId": None, "Message": {}, "Data": [1]})
    assert outcome.results[0].provider_message_id == "7"


def test_the_probe_tells_a_good_key_from_a_bad_one():
    """By an answer that mails nothing."""
    request = ALIYUN.probe_request()
    assert dict(request.data)["Action"] == "DescAccountSummary"
    assert "ToAddress" not in dict(request.data)
    assert ALIYUN.read_probe(an_answer(200, {"RequestId": "1", "DailyQuota": 2000})).ok
    bad = ALIYUN.read_probe(an_answer(404, {"Code": "InvalidAccessKeyId.NotFound"}))
    assert not bad.ok
    assert "InvalidAccessKeyId.NotFound" in bad.detail
    assert not ALIYUN.read_probe(an_answer(502, b"<html>")).ok


_FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("EnvId", "Code", "Message", "RequestId"), ANY_JSON)
)


@given(st.integers(200, 599), ANY_JSON | _FIELDS, st.sampled_from([ONE, TWO]))
def test_no_answer_breaks_it(status, content, letter):
    """Any JSON, any status: one result for each recipient, in every case."""
    answer = an_answer(status, content)
    outcome = ALIYUN.read(a_call(letter), answer, ServerNote())
    assert [r.address for r in outcome.results] == [r.email for r in letter.recipients]
    if status >= 300:
        assert all(r.fate is not Fate.ACCEPTED for r in outcome.results)
    ALIYUN.read_probe(answer)
