"""Every answer of Tencent SES in the fixtures, its whole table, and answers that make no sense."""

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

TENCENT = built("tencentses://AKIDtest:secretkeytest@ap-guangzhou")
RULES = fixture("tencent_ses", "errors")["rules"]
ANN, BOB = "ann@example.net", "bob@example.net"
ONE = a_letter(ANN, text=None, template_id="7")
TWO = a_letter(ANN, BOB, text=None, template_id="7")
ONE_ADDRESS = "FailedOperation.FrequencyLimit"


def said(status: int, content: Any, letter: Any = ONE, **headers: str) -> Outcome:
    return read(TENCENT, a_call(letter), an_answer(status, content, headers))


def error(code: Any) -> dict[str, Any]:
    return {"Response": {"Error": {"Code": code, "Message": "x"}, "RequestId": "r-1"}}


def verdict_of(content: Any) -> tuple[str, bool]:
    verdict = TENCENT.verdict(an_answer(200, content), content)
    return verdict.outcome_class.value, verdict.ambiguous


@pytest.mark.parametrize("name", fixtures("tencent_ses", "response"))
def test_every_fixture_is_classified_as_it_expects(name):
    """Class, ambiguity and id."""
    given_ = fixture("tencent_ses", name)
    expect = given_["expect"]
    outcome = said(given_["status"], given_["json"])
    if expect["class"] == "accepted":
        assert class_of(outcome) == ("accepted", False)
    else:
        assert verdict_of(given_["json"]) == (expect["class"], expect.get("ambiguous", False))
        assert outcome.results[0].fate is not Fate.ACCEPTED
    assert outcome.results[0].provider_message_id == expect.get("message_id")


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("tencent_ses", "response")) == 10


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """All codes, and families with a member and without."""
    if rule.get("absent"):
        assert class_of(said(200, {"Response": {"RequestId": "r"}})) == (rule["class"], False)
    for code in rule.get("code", ()):
        assert verdict_of(error(code)) == (rule["class"], False)
    for family in rule.get("code_prefix", ()):
        assert verdict_of(error(family)) == (rule["class"], False)
        assert verdict_of(error(f"{family}.Whatever")) == (rule["class"], False)


@pytest.mark.parametrize(
    ("code", "of_the_account"),
    [
        ("AuthFailure.SignatureExpire", True),
        ("UnauthorizedOperation", True),
        ("FailedOperation.ProtocolCheckErr", True),
        ("UnsupportedRegion", True),
        ("FailedOperation.InvalidTemplateID", False),
        ("FailedOperation.NotAuthenticatedSender", False),
        ("FailedOperation.WithOutPermission", False),
        ("OperationDenied.DomainNotVerified", False),
    ],
)
def test_whether_the_account_or_the_mail_is_to_blame(code, of_the_account):
    """Keys and regions rest the transport; a sender or a template fails this mail."""
    outcome = said(200, error(code))
    assert (outcome.fault is not None) == of_the_account
    assert outcome.message_config != of_the_account


def test_too_many_mails_to_one_address_do_not_rest_the_transport():
    """Else whoever asks for ten passwords would hold up everybody's mail."""
    outcome = said(200, error(ONE_ADDRESS))
    assert outcome.fault is None
    assert outcome.results[0].fate is Fate.DEFERRED
    tencent = built("tencentses://k:s@ap-guangzhou", {ONE_ADDRESS: "rate_limited"})
    outcome = read(tencent, a_call(ONE), an_answer(200, error(ONE_ADDRESS)))
    assert outcome.fault.kind is FaultKind.RATE_LIMITED


@pytest.mark.parametrize(
    ("code", "headers", "pause"),
    [
        ("FailedOperation.TemporaryBlocked", {}, 600),
        ("FailedOperation.TemporaryBlocked", {"retry-after": "5"}, 5),
        ("RequestLimitExceeded.UinLimitExceeded", {}, None),
    ],
)
def test_how_long_the_transport_rests(code, headers, pause):
    """A block passes after ten minutes; the others do not say."""
    outcome = said(200, error(code), **headers)
    assert outcome.fault.kind is FaultKind.RATE_LIMITED
    assert outcome.fault.retry_after == pause


def test_an_unknown_error_says_that_nothing_was_sent():
    """By whatever code: the mail is tried again, and is in no doubt."""
    assert class_of(said(200, error("ResourceUnavailable"))) == ("transient", False)


def test_one_id_is_everybodys():
    """Tencent gives one for each call."""
    outcome = said(200, {"Response": {"MessageId": "m", "RequestId": "r"}}, TWO)
    assert {r.provider_message_id for r in outcome.results} == {"m"}


def test_an_address_that_tencent_blocks_is_suppressed_alone():
    """Of a list one does not know whose it is: all are refused, and none is called dead."""
    body = error("FailedOperation.EmailAddrInBlacklist")
    assert fates(said(200, body)) == {ANN: "suppressed"}
    assert fates(said(200, body, TWO)) == {ANN: "refused", BOB: "refused"}


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        "ok",
        b"",
        {"Response": None},
        {"Response": {}},
        {"Response": []},
        {"Response": {"Error": None, "MessageId": "m"}},
        {"Response": {"Error": [], "RequestId": "r"}},
    ],
)
def test_a_200_that_says_neither_is_unknown(content):
    """Neither "sent" nor "not sent" would be true."""
    assert class_of(said(200, content)) == ("transient", True)


def test_unknown_fields_change_nothing():
    """An answer may grow."""
    body = {"Response": {"MessageId": "m", "RequestId": 3, "More": {}}, "Error": 1}
    assert said(200, body).results[0].provider_message_id == "m"


def test_the_probe_tells_a_good_key_from_a_bad_one():
    """By an answer that mails nothing."""
    request = TENCENT.probe_request()
    assert request.headers["X-TC-Action"] == "ListEmailIdentities"
    assert request.data == b"{}"
    good = {"Response": {"EmailIdentities": [], "RequestId": "r"}}
    assert TENCENT.read_probe(an_answer(200, good)).ok
    bad = TENCENT.read_probe(an_answer(200, error("AuthFailure.SecretIdNotFound")))
    assert not bad.ok
    assert "AuthFailure.SecretIdNotFound" in bad.detail
    assert not TENCENT.read_probe(an_answer(502, b"<html>")).ok


_ERROR = st.fixed_dictionaries({}, optional={"Code": ANY_JSON, "Message": ANY_JSON})
_RESPONSE = st.fixed_dictionaries(
    {}, optional={"MessageId": ANY_JSON, "RequestId": ANY_JSON, "Error": ANY_JSON | _ERROR}
)


@given(
    st.integers(200, 599),
    ANY_JSON | st.fixed_dictionaries({"Response": ANY_JSON | _RESPONSE}),
    st.sampled_from([ONE, TWO]),
)
def test_no_answer_breaks_it(status, content, letter):
    """Any JSON, any status: one result for each recipient, in every case."""
    answer = an_answer(status, content)
    outcome = TENCENT.read(a_call(letter), answer, ServerNote())
    assert [r.address for r in outcome.results] == [r.email for r in letter.recipients]
    if status >= 300:
        assert all(r.fate is not Fate.ACCEPTED for r in outcome.results)
    TENCENT.read_probe(answer)
