"""Every answer of Brevo in the fixtures, its whole table, and answers that make no sense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.letter import Address, Recipient
from flask_deferred_mail.outcome import Fate, FaultKind, Outcome
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

BREVO = built("brevo://hush@default")
RULES = fixture("brevo", "errors")["rules"]
PEOPLE = tuple(f"u{i}@example.net" for i in range(4))
PLAIN = a_letter("ann@example.net", "bob@example.net")
COPIES = a_letter(*PEOPLE, private_copies=True)


def said(status: int, content: Any, letter: Any = PLAIN, *, in_doubt: bool = False) -> Outcome:
    return read(BREVO, a_call(letter, in_doubt=in_doubt), an_answer(status, content))


def refused(code: str, text: str = "x", letter: Any = PLAIN, **how: bool) -> Outcome:
    return said(400, {"code": code, "message": text}, letter, **how)


def ambiguous(status: int) -> bool:
    """What the provider's table says of a status; the fixtures of single answers leave it out."""
    return any(r.get("ambiguous", False) for r in RULES if status in r.get("http", ()))


def ids(outcome: Outcome) -> list[str | None]:
    return [result.provider_message_id for result in outcome.results]


@pytest.mark.parametrize("name", fixtures("brevo", "response"))
def test_every_fixture_is_classified_as_it_expects(name):
    """Class and ambiguity, the ids, and for how long to stay away; a repeat is one of a doubt."""
    answer = fixture("brevo", name)
    expect = answer["expect"]
    people = expect.get("recipients", {})
    letter = a_letter(*people, private_copies=True) if people else PLAIN
    call = a_call(letter, in_doubt=expect["class"] == "duplicate")
    outcome = read(BREVO, call, an_answer(answer["status"], answer["json"], answer["headers"]))
    expected = expect["class"].replace("duplicate", "accepted")
    doubtful = "code" not in answer["json"] and ambiguous(answer["status"])
    assert class_of(outcome) == (expected, expect.get("ambiguous", doubtful))
    for result in outcome.results:
        number = people.get(result.address, expect.get("message_id"))
        assert result.provider_message_id == number
    if "retry_after" in expect:
        assert outcome.fault.retry_after == expect["retry_after"]


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("brevo", "response")) == 11


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("code", rule.get("http"))))
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """All codes, under whatever status; all statuses without one, but a 503 was not sent (E5)."""
    doubtful = rule.get("ambiguous", False)
    for code in rule.get("code", ()):
        duplicate = rule["class"] == "duplicate"
        expected = rule["class"].replace("duplicate", "accepted")
        assert class_of(refused(code, in_doubt=duplicate)) == (expected, doubtful)
        outcome = said(422, {"code": code}, in_doubt=duplicate)
        assert class_of(outcome) == (expected, doubtful)
    for status in rule.get("http", ()):
        outcome = said(status, {"message": "no code"})
        assert class_of(outcome) == (rule["class"], doubtful and status != 503)


@pytest.mark.parametrize("code", ["duplicate_request", "duplicate_parameter"])
def test_a_repeated_key_means_accepted_only_after_a_doubt(code):
    """The first try stayed without an answer, and was taken; otherwise it is no acceptance."""
    assert set(fates(refused(code, in_doubt=True)).values()) == {"accepted"}
    assert "accepted" not in fates(refused(code)).values()
    overridden = built("brevo://hush@default", {code: "unknown"})
    outcome = read(overridden, a_call(in_doubt=True), an_answer(400, {"code": code}))
    assert class_of(outcome) == ("transient", True)


def test_what_takes_a_mail_and_what_does_not():
    """201 and 202; of any other 2xx only one with an id; and nothing that is not Brevo's JSON."""
    assert class_of(said(201, {})) == ("accepted", False)
    assert class_of(said(202, {"batchId": "x"})) == ("accepted", False)
    assert class_of(said(200, {"messageId": "<1@x>"})) == ("accepted", False)
    for status, content in ((200, {}), (201, b""), (201, b"<html>"), (201, []), (204, b"")):
        assert class_of(said(status, content)) == ("transient", True)
    assert "accepted" not in fates(said(201, {"code": "odd", "messageId": "<1@x>"})).values()


def test_ids_go_to_their_versions_or_to_nobody():
    """In the order of the versions; if their number is another, nobody knows whose is whose."""
    four = [f"<{i}@x>" for i in range(4)]
    assert ids(said(201, {"messageIds": four}, COPIES)) == four
    for odd in (four[:3], [*four, "<5@x>"], ["<1@x>", None, 3, {}], None, {}):
        outcome = said(201, {"messageIds": odd}, COPIES)
        assert class_of(outcome) == ("accepted", False)
        assert ids(outcome) == [None] * 4
    assert ids(said(201, {"messageId": "<1@x>"})) == ["<1@x>"] * 2


def test_recipients_of_bcc_alone_have_ids_of_their_own():
    """They were versions, so that none of them sees another."""
    letter = a_letter(
        recipients=tuple(Recipient(Address(email), "bcc") for email in PEOPLE[:2]),
    )
    assert ids(said(201, {"messageIds": ["<1@x>", "<2@x>"]}, letter)) == ["<1@x>", "<2@x>"]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthorized", FaultKind.ACCOUNT),
        (403, "permission_denied", FaultKind.ACCOUNT),
        (400, "account_under_validation", FaultKind.ACCOUNT),
        (405, "method_not_allowed", FaultKind.ACCOUNT),
        (402, "not_enough_credits", FaultKind.QUOTA),
    ],
)
def test_what_is_the_accounts_rests_the_transport(status, code, kind):
    """Key, rights, credits: no mail pays."""
    outcome = said(status, {"code": code, "message": "x"})
    assert outcome.fault is not None
    assert outcome.fault.kind is kind
    assert not outcome.costs_attempt


def test_a_refusal_over_an_address_is_divided_or_blames_whom_it_names():
    """Private copies only; what all of them share is no recipient's fault."""
    assert refused("invalid_parameter", "email is not valid in to", COPIES).divisible
    assert not refused("invalid_parameter", "email is not valid in to").divisible
    for shared in ("sender is not valid", "templateId is invalid", "Invalid attachment"):
        assert not refused("invalid_parameter", shared, COPIES).divisible
    for address in ("sender@example.net", "a-tag@html.example"):
        assert refused("invalid_parameter", f"{address} is not valid", COPIES).divisible
    outcome = refused("invalid_parameter", "u2@example.net is not valid", COPIES)
    assert list(fates(outcome).values()) == ["untried", "untried", "refused", "untried"]


def test_an_unheard_of_code_is_told_by_its_status():
    """What Brevo adds one day is neither an acceptance nor a crash."""
    for status, expected in ((400, "permanent"), (429, "rate_limited"), (500, "transient")):
        assert class_of(said(status, {"code": "brand_new"}))[0] == expected


def test_what_a_deployment_says_goes_first():
    """By code or by status."""
    transport = built("brevo://hush@default", {"document_not_found": "config"})
    outcome = read(transport, a_call(), an_answer(404, {"code": "document_not_found"}))
    assert {r.fate for r in outcome.results} == {Fate.FAILED}


def test_the_providers_words_are_cleaned():
    """No control characters and no endless text come in by way of a message."""
    detail = refused("invalid_parameter", "bad\x1b[2J\n" + "y" * 9000).detail
    assert detail.startswith("Brevo invalid_parameter: bad")
    assert "\x1b" not in detail
    assert "\n" not in detail
    assert len(detail) <= 300


def test_the_probe_asks_for_the_account():
    """It needs the key, and mails nothing."""
    request = BREVO.probe_request()
    assert (request.method, request.url) == ("GET", "https://api.brevo.com/v3/account")
    assert request.headers == {"api-key": "hush"}
    assert BREVO.read_probe(an_answer(200, {"email": "a@example.com"})).ok
    assert not BREVO.read_probe(an_answer(200, [])).ok
    step = BREVO.read_probe(an_answer(401, {"code": "unauthorized", "message": "Key not found"}))
    assert (step.ok, step.detail) == (False, "Brevo unauthorized: Key not found")


def test_the_key_is_shown_nowhere():
    """Neither in the transport nor in what is blotted out of answers too late."""
    assert "hush" not in repr(BREVO)
    assert BREVO.secrets() == ("hush",)


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "code": ANY_JSON | st.sampled_from(["invalid_parameter", "duplicate_request"]),
        "message": ANY_JSON,
        "messageId": ANY_JSON,
        "messageIds": ANY_JSON | st.lists(ANY_JSON, max_size=5),
    },
)


@given(
    st.integers(100, 599), ANY_JSON | FIELDS | st.binary(max_size=40), st.booleans(), st.booleans()
)
def test_no_answer_is_too_odd_to_be_read(status, content, private, in_doubt):
    """Any JSON, any bytes, any status: one result for each recipient."""
    letter = COPIES if private else PLAIN
    outcome = said(status, content, letter, in_doubt=in_doubt)
    assert [r.address for r in outcome.results] == [r.email for r in letter.recipients]
    if not 200 <= status < 300 and not in_doubt:
        assert "accepted" not in fates(outcome).values()
    assert BREVO.read_probe(an_answer(status, content)).detail


@given(st.sampled_from([201, 400, 401, 500]), ANY_JSON)
def test_unknown_fields_change_nothing(status, value):
    """What Brevo adds one day is passed over."""
    body = {"messageId": "<1@x>"} if status == 201 else {"message": "no"}
    assert said(status, {**body, "new": value}) == said(status, body)
