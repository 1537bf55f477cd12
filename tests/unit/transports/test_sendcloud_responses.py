"""Every answer of SendCloud in the fixtures, and its whole table of codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flask_deferred_mail.outcome import Fate, FaultKind, Outcome, ServerNote
from flask_deferred_mail.transports.http_api import Answer
from flask_deferred_mail.transports.sendcloud import SendCloudTransport
from tests.support.transport_calls import a_call, a_letter

FIXTURES = Path(__file__).parents[2] / "fixtures" / "sendcloud"
RESPONSES = sorted(FIXTURES.glob("response_*.json"))
RULES = json.loads((FIXTURES / "errors.json").read_text())["rules"]


def read(status: int, content: Any, *, in_doubt: bool = False, **headers: str) -> Outcome:
    """What an answer means for a mail to Ann and Bob."""
    body = content if isinstance(content, str) else json.dumps(content)
    call = a_call(a_letter("ann@example.net", "bob@example.net"), in_doubt=in_doubt)
    transport = SendCloudTransport("default", "u", "k")
    return transport.read(call, Answer(status, headers, body.encode()), ServerNote())


def refused(code: int) -> dict[str, Any]:
    return {"result": False, "statusCode": code, "message": "x", "info": {}}


def class_of(outcome: Outcome) -> tuple[str, bool]:
    """An outcome in the fixtures' words: the class, and whether it is ambiguous."""
    [fate] = {result.fate for result in outcome.results}
    if outcome.fault:
        assert fate is Fate.DEFERRED
        names = {
            FaultKind.ACCOUNT: "config",
            FaultKind.QUOTA: "quota",
            FaultKind.RATE_LIMITED: "rate_limited",
            FaultKind.UNREACHABLE: "transient",
        }
        return names[outcome.fault.kind], False
    if fate is Fate.FAILED:
        assert outcome.message_config
        return "config", False
    names_of_fates = {
        Fate.ACCEPTED: "accepted",
        Fate.REFUSED: "permanent",
        Fate.DEFERRED: "transient",
        Fate.UNKNOWN: "transient",
    }
    return names_of_fates[fate], fate is Fate.UNKNOWN


@pytest.mark.parametrize("path", RESPONSES, ids=lambda path: path.stem)
def test_every_fixture_is_classified_as_it_expects(path):
    """Class, ambiguity, and for acceptance the ids of the call and of each recipient."""
    fixture = json.loads(path.read_text())
    expect = fixture["expect"]
    duplicate = expect["class"] == "duplicate"
    content = fixture.get("json", fixture.get("text"))
    outcome = read(fixture["status"], content, in_doubt=duplicate, **fixture["headers"])
    expected = "accepted" if duplicate else expect["class"]
    assert class_of(outcome) == (expected, expect.get("ambiguous", False))
    if "message_id" in expect:
        assert outcome.server.queue_id == expect["message_id"]
    ids = {r.address: r.provider_message_id for r in outcome.results if r.provider_message_id}
    assert ids == expect.get("recipients", {})


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(RESPONSES) == 13


@pytest.mark.parametrize("rule", [rule for rule in RULES if "body" not in rule], ids=str)
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """Codes inside a 200, ranges at both ends, and statuses without a code."""
    codes = [*rule.get("code", ()), *rule.get("code_range", ())]
    taken_by_earlier_rules = {
        code for earlier in RULES[: RULES.index(rule)] for code in earlier.get("code", ())
    }
    expected = (rule["class"], rule.get("ambiguous", False))
    for code in set(codes) - taken_by_earlier_rules:
        outcome = read(200, refused(code), in_doubt=True)
        assert class_of(outcome) == (expected[0].replace("duplicate", "accepted"), expected[1])
    for status in rule.get("http", ()):
        # The table calls a bare 503 ambiguous; the fault table (E5) says that it was not sent.
        ambiguous = expected[1] and status != 503
        assert class_of(read(status, "<html>")) == (expected[0], ambiguous)


@pytest.mark.parametrize("code", [40005, 6001, 40301])
def test_codes_of_the_account_rest_the_transport(code):
    """Key, permission, user: the mail does not pay."""
    outcome = read(200, refused(code))
    assert outcome.fault.kind is FaultKind.ACCOUNT
    assert not outcome.costs_attempt


@pytest.mark.parametrize("code", [40820, 40823, 40824, 40825, 40202, 40216, 40908, 40911])
def test_codes_about_a_mails_template_fail_that_mail(code):
    """The others go on; five in a row tell delivery that it was the account."""
    outcome = read(200, refused(code))
    assert {r.fate for r in outcome.results} == {Fate.FAILED}
    assert outcome.message_config
    assert outcome.fault is None


def test_an_unheard_of_code_is_put_off():
    """Not sent for a reason that no table knows: tried again, until the attempts are used up."""
    assert class_of(read(200, refused(77777))) == ("transient", False)


def test_a_code_that_came_as_text_is_understood():
    """SendCloud's codes are numbers; the same as text means the same."""
    body = {"result": False, "statusCode": "40005"}
    assert class_of(read(200, body)) == ("config", False)


def test_the_quota_rests_the_transport():
    """It recovers by itself next day; no mail pays until then."""
    outcome = read(200, refused(40904))
    assert outcome.fault.kind is FaultKind.QUOTA
    assert not outcome.costs_attempt


def test_the_providers_words_are_cleaned():
    """No control characters and no endless text come in by way of a message."""
    body = {"result": False, "statusCode": 40806, "message": "bad\x1b[2J\n" + "y" * 9000}
    detail = read(200, body).detail
    assert "\x1b" not in detail
    assert "\n" not in detail
    assert len(detail) <= 300
