"""Every answer of Mailgun in the fixtures, its whole table, and answers that make no sense."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.outcome import Fate, FaultKind, Outcome, ServerNote
from flask_deferred_mail.transports.mailgun import _pause_in
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

MAILGUN = built("mailgun://key-test@mg.example.com")
RULES = fixture("mailgun", "errors")["rules"]
ANN, BOB = "ann@example.net", "bob@example.net"
PLAIN = a_letter(ANN, BOB)
COPIES = a_letter(ANN, BOB, private_copies=True)
LIMIT = "Domain mg.example.com is not allowed to send: recipient limit exceeded, try again after "


def said(status: int, content: Any, letter: Any = PLAIN, **headers: str) -> Outcome:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(MAILGUN, a_call(letter), an_answer(status, content, names))


def content_of(given_: dict[str, Any]) -> Any:
    return given_["json"] if "json" in given_ else given_["text"].encode()


@pytest.mark.parametrize("name", fixtures("mailgun", "response"))
def test_every_fixture_is_classified_as_it_expects(name):
    """Class and ambiguity, the one id of the call, and the time to stay away."""
    given_ = fixture("mailgun", name)
    expect = given_["expect"]
    outcome = said(given_["status"], content_of(given_), **given_["headers"])
    assert class_of(outcome) == (expect["class"], expect.get("ambiguous", False))
    for result in outcome.results:
        assert result.provider_message_id == expect.get("message_id")
    if "retry_after" in expect:
        assert outcome.fault.retry_after == expect["retry_after"]


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("mailgun", "response")) == 8


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """Words and statuses, but for a bare 503, which was certainly not sent."""
    words = rule.get("text_contains") or f"{rule.get('json_message_prefix', 'hm')}. Thank you."
    body = words.encode() if "text_contains" in rule else {"id": "<1@x>", "message": words}
    for status in rule["http"]:
        expected = (rule["class"], rule.get("ambiguous", False) and status != 503)
        assert class_of(said(status, body)) == expected


@pytest.mark.parametrize("name", ["auth", "domain", "forbidden"])
def test_key_and_domain_are_the_accounts(name):
    """Both stand in the URL, so no mail would pass; none pays for it."""
    given_ = fixture("mailgun", f"response_error_{name}")
    outcome = said(given_["status"], content_of(given_))
    assert outcome.fault.kind is FaultKind.ACCOUNT
    assert not outcome.costs_attempt


def test_a_recipient_whom_a_test_account_may_not_mail_is_this_mails_business():
    """Others go on: the transport does not rest."""
    words = (
        "Free accounts are for test purposes only. Please add the address to authorized recipients"
    )
    outcome = said(403, {"message": f"Domain x is not allowed to send: {words}"})
    assert outcome.message_config
    assert outcome.fault is None


def test_a_recipient_limit_rests_the_transport_until_the_time_in_its_words():
    """HTTP 420, which is in no standard; the time is a date in the text."""
    again = time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(time.time() + 600))
    outcome = said(420, {"message": LIMIT + again})
    assert outcome.fault.kind is FaultKind.RATE_LIMITED
    assert 500 < outcome.fault.retry_after <= 600
    assert said(420, {"message": "slow"}).fault.kind is FaultKind.RATE_LIMITED
    assert said(420, {"message": LIMIT + again}, retry_after="7").fault.retry_after == 7


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("try again after Mon, 25 Aug 2025 07:00:31 UTC", 31),
        ("try again after Mon, 25 Aug 2025 07:00:31 GMT please", 31),
        ("try again after Mon, 25 Aug 2025 09:00:31 UTC", 3600),
        ("try again after Mon, 25 Aug 2025 06:59:59 UTC", None),
        ("try again after Mon, 99 Aug 2025 07:00:31 UTC", None),
        ("try again after Mon, 25 Xyz 2025 07:00:31 UTC", None),
        ("try again after tea", None),
        ("", None),
    ],
)
def test_a_time_in_words_is_believed_within_reason(words, seconds):
    """An hour at most; the past and nonsense count as absent."""
    assert _pause_in(words, 1756105200.0) == seconds


def test_a_call_refused_over_a_named_address_refuses_that_one_only():
    """The rest is tried again at once; without a name the copies are tried in halves."""
    words = "'to' parameter is not a valid address. please check documentation"
    assert fates(said(400, {"message": f"{words}: {BOB}"}, COPIES)) == {
        ANN: "untried",
        BOB: "refused",
    }
    assert said(400, {"message": words}, COPIES).divisible
    assert not said(400, {"message": words}).divisible


@pytest.mark.parametrize(
    ("words", "divisible"),
    [
        ("Only 10 recipients per request is allowed on probation.", True),
        ("Too many recipients; max is 1000", True),
        ("to parameter is not a valid address", True),
        ("from parameter is not a valid address", False),
        ("'from' parameter is missing", False),
        ("Header name must be pure ASCII", False),
    ],
)
def test_only_what_is_about_recipients_is_tried_in_halves(words, divisible):
    """Everything else would be refused for each of a thousand copies again."""
    outcome = said(400, {"message": words}, COPIES)
    assert {r.fate for r in outcome.results} == {Fate.REFUSED}
    assert outcome.divisible is divisible


def test_a_deployment_overrides_statuses_and_our_names_for_words():
    """Mailgun has no codes; the names of the table stand in for them."""
    mailgun = built(
        "mailgun://k@mg.example.com", {"HTTP 404": "transient", "sandbox_recipient": "permanent"}
    )
    answer = an_answer(404, {"message": "Domain not found: mg.example.com"})
    assert class_of(read(mailgun, a_call(PLAIN), answer)) == ("transient", False)
    answer = an_answer(403, {"message": "add the address to authorized recipients"})
    assert class_of(read(mailgun, a_call(PLAIN), answer)) == ("permanent", False)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        "Queued. Thank you.",
        {"id": "<1@x>"},
        {"message": None},
        {"message": ["Queued"]},
    ],
)
def test_a_200_that_queues_nothing_is_unknown(content):
    """Neither "sent" nor "not sent" would be true."""
    assert class_of(said(200, content)) == ("transient", True)


@pytest.mark.parametrize("number", [None, 7, "", ["x"], "\x00"])
def test_an_acceptance_with_an_odd_id_is_one_all_the_same(number):
    """The words decide; unknown fields change nothing."""
    outcome = said(200, {"id": number, "message": "Queued. Thank you.", "new": [1]})
    assert set(fates(outcome).values()) == {"accepted"}


def test_an_endless_id_is_cut():
    """No answer fills a row."""
    outcome = said(200, {"id": "x" * 100_000, "message": "Queued"})
    assert all(len(r.provider_message_id) <= 200 for r in outcome.results)


_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "id": ANY_JSON,
        "message": ANY_JSON
        | st.sampled_from(["Queued", LIMIT, "to parameter is not a valid address"]),
    },
)


@given(
    st.integers(200, 599),
    ANY_JSON | _FIELDS | st.binary(),
    st.sampled_from([PLAIN, COPIES]),
    st.text(st.characters(max_codepoint=255)),
)
def test_no_answer_breaks_it(status, content, letter, header):
    """Any JSON, any status, any header: one result for each recipient, in every case."""
    answer = an_answer(status, content, {"retry-after": header})
    outcome = MAILGUN.read(a_call(letter), answer, ServerNote())
    assert sorted(r.address for r in outcome.results) == [ANN, BOB]
    if status >= 300:
        assert Fate.ACCEPTED not in {r.fate for r in outcome.results}


@pytest.mark.parametrize(
    ("status", "content", "ok", "words"),
    [
        (200, {"domain": {"name": "mg.example.com", "state": "active"}}, True, "active"),
        (200, {"domain": {"state": "unverified"}}, False, "unverified"),
        (200, {"domain": {"state": ["\x1b"]}}, False, "domain"),
        (200, {"items": []}, False, "HTTP 200"),
        (401, b"Forbidden", False, "a sending key"),
        (404, {"message": "Domain not found"}, False, "Domain not found"),
        (502, b"<html>", False, "502"),
    ],
)
def test_what_doctor_says(status, content, ok, words):
    """A domain that Mailgun has not verified is no good, even if the key is."""
    step = MAILGUN.read_probe(an_answer(status, content))
    assert (step.ok, words in step.detail) == (ok, True)
    assert step.detail.isprintable()


def test_doctor_asks_without_mailing():
    """A GET with the key."""
    request = MAILGUN.probe_request()
    assert (request.method, request.auth) == ("GET", ("api", "key-test"))
    assert request.url == "https://api.mailgun.net/v3/domains/mg.example.com"
