"""Every answer of Postmark in the fixtures, its whole table, and answers that make no sense."""

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

POSTMARK = built("postmark://server-token-test@default")
RULES = fixture("postmark", "errors")["rules"]
ANN, BOB = "ann@example.net", "bob@example.net"
ALONE = a_letter(ANN)
PLAIN = a_letter(ANN, BOB)
BATCH = a_letter(ANN, BOB, private_copies=True)
PARTS = {"response_batch_mixed", "response_partial_inactive"}
INACTIVE = (
    "You tried to send to a recipient that has been marked as inactive.\n"
    "Found inactive addresses: {}.\nInactive recipients are ones that have generated a hard "
    "bounce or a spam complaint. "
)


def said(status: int, content: Any, letter: Any = PLAIN, **headers: str) -> Outcome:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(POSTMARK, a_call(letter), an_answer(status, content, names))


def refused(code: Any, letter: Any = PLAIN, status: int = 422) -> Outcome:
    return said(status, {"ErrorCode": code, "Message": "words"}, letter)


def taken(number: str = "m-1", **more: Any) -> dict[str, Any]:
    return {"MessageID": number, "ErrorCode": 0, "Message": "OK", **more}


@pytest.mark.parametrize("name", sorted({*fixtures("postmark", "response")} - PARTS))
def test_every_fixture_is_classified_as_it_expects(name):
    """Class and ambiguity, and the id of acceptance."""
    given_ = fixture("postmark", name)
    expect = given_["expect"]
    outcome = said(given_["status"], given_["json"], ALONE, **given_["headers"])
    assert class_of(outcome) == (expect["class"], expect.get("ambiguous", False))
    [result] = outcome.results
    assert result.provider_message_id == expect.get("message_id")


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("postmark", "response")) == 13


def test_a_batch_is_read_mail_by_mail():
    """A 200, of which one item was taken and the other is on Postmark's list."""
    given_ = fixture("postmark", "response_batch_mixed")
    outcome = said(given_["status"], given_["json"], BATCH)
    assert given_["expect"]["items"] == list(fates(outcome).values()) == ["accepted", "suppressed"]
    ids = [result.provider_message_id for result in outcome.results]
    assert ids == ["b7bc2f4a-e38e-4336-af7d-e6c392c2f817", None]


def test_a_mail_that_was_taken_may_leave_somebody_out():
    """Only the words tell who; the others have the id."""
    given_ = fixture("postmark", "response_partial_inactive")
    outcome = said(given_["status"], given_["json"], PLAIN)
    assert fates(outcome) == given_["expect"]["recipients"]
    ids = {r.address: r.provider_message_id for r in outcome.results}
    assert ids == {ANN: given_["expect"]["message_id"], BOB: None}


def test_the_words_have_addresses_in_small_letters():
    """Ours may have capitals before the @; a longer address that ends alike is somebody else."""
    letter = a_letter("Bob@example.net", "b.bob@example.net")
    body = taken(Message="will not deliver to these inactive addresses: bob@example.net.")
    assert fates(said(200, body, letter)) == {
        "Bob@example.net": "suppressed",
        "b.bob@example.net": "accepted",
    }


def test_a_mail_refused_over_some_of_its_recipients_can_go_to_the_rest_at_once():
    """They are on Postmark's list, nobody else was mailed; without names all are."""
    body = {"ErrorCode": 406, "Message": INACTIVE.format(BOB)}
    assert fates(said(422, body)) == {ANN: "untried", BOB: "suppressed"}
    body = {"ErrorCode": 406, "Message": INACTIVE.format(f"{ANN}, {BOB}")}
    assert set(fates(said(422, body)).values()) == {"suppressed"}
    assert set(fates(refused(406)).values()) == {"suppressed"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("code", rule.get("http"))))
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """All codes, alone and in a batch, and all statuses but a bare 503, which was not sent."""
    expected = (rule["class"], rule.get("ambiguous", False))
    if rule["class"] == "accepted":
        assert class_of(said(200, taken())) == expected
        assert class_of(said(200, {"MessageID": "m", "ErrorCode": None})) == expected
        return
    for code in rule.get("code", ()):
        assert class_of(refused(code)) == expected
        items = [{"ErrorCode": code, "Message": "words"}] * 2
        assert class_of(said(200, items, BATCH)) == expected
    for status in rule.get("http", ()):
        assert class_of(said(status, b"x")) == (expected[0], expected[1] and status != 503)


@pytest.mark.parametrize(
    ("codes", "of_the_account"),
    [((10, 413), True), ((400, 401, 402, 403, 409, 412, 1101, 1235), False)],
)
def test_whether_the_account_or_the_mail_is_to_blame(codes, of_the_account):
    """The token and the account rest the transport; a sender, template or stream fail this mail."""
    for code in codes:
        outcome = refused(code)
        assert (outcome.fault is not None) == of_the_account
        assert outcome.message_config != of_the_account


def test_maintenance_is_the_services():
    """No mail pays for it."""
    outcome = refused(100, status=503)
    assert outcome.fault.kind is FaultKind.UNREACHABLE
    assert not outcome.costs_attempt


def test_a_fault_of_the_account_in_one_mail_of_a_batch_rests_the_transport():
    """The credit ended in the middle: who was taken is taken."""
    items = [taken(), {"ErrorCode": 405, "Message": "no credits"}]
    outcome = said(200, items, BATCH)
    assert fates(outcome) == {ANN: "accepted", BOB: "deferred"}
    assert outcome.fault.kind is FaultKind.QUOTA


def test_a_code_that_nobody_has_heard_of_is_put_off_in_a_200():
    """It says "not sent": later, rather than never; with a status of refusal it is refused."""
    assert class_of(refused(987654, status=200)) == ("transient", False)
    assert class_of(said(200, [{"ErrorCode": 7}] * 2, BATCH)) == ("transient", False)
    assert class_of(refused(987654)) == ("permanent", False)


def test_a_code_that_came_as_text_is_understood():
    """The same number means the same."""
    assert class_of(refused("405")) == ("quota", False)


@pytest.mark.parametrize(
    "body",
    [[taken()], [taken()] * 3, [], taken(), {}, None, "ok", [None, 7], [[], {"ErrorCode": 0}]],
)
def test_a_batch_answer_that_does_not_add_up_is_unknown(body):
    """Nobody can say whose mail was taken."""
    assert class_of(said(200, body, BATCH)) == ("transient", True)


@pytest.mark.parametrize(
    "body",
    [
        {},
        [taken()],
        None,
        "OK",
        {"ErrorCode": 0},
        taken(""),
        {"MessageID": 7, "ErrorCode": 0},
        taken(ErrorCode=False),
        taken(ErrorCode=[0]),
        taken(ErrorCode=0.0),
    ],
)
def test_a_200_that_takes_nothing_is_unknown(body):
    """Neither "sent" nor "not sent" would be true."""
    assert class_of(said(200, body)) == ("transient", True)


def test_unknown_fields_change_nothing_and_an_endless_id_is_cut():
    """An answer may grow."""
    outcome = said(200, taken("x" * 9000, New={"a": [1]}, To=None))
    assert {len(r.provider_message_id) for r in outcome.results} == {200}


def test_a_deployment_overrides_codes():
    """Also that of inactive recipients, and inside a batch."""
    postmark = built("postmark://k@default", {"406": "transient", "300": "account"})
    body = {"ErrorCode": 406, "Message": INACTIVE.format(BOB)}
    assert class_of(read(postmark, a_call(PLAIN), an_answer(422, body))) == ("transient", False)
    items = [{"ErrorCode": 300}, {"ErrorCode": 300}]
    outcome = read(postmark, a_call(BATCH), an_answer(200, items))
    assert outcome.fault.kind is FaultKind.ACCOUNT


_CODE = ANY_JSON | st.sampled_from([0, 10, 300, 405, 406, 429, 1101, "406"])
_ITEM = st.fixed_dictionaries(
    {},
    optional={
        "ErrorCode": _CODE,
        "MessageID": ANY_JSON | st.just("m-1"),
        "Message": ANY_JSON | st.just(INACTIVE.format(BOB)),
    },
)


@given(
    st.integers(200, 599),
    ANY_JSON | _ITEM | st.lists(_ITEM | ANY_JSON, max_size=3) | st.binary(),
    st.sampled_from([PLAIN, BATCH]),
    st.text(st.characters(max_codepoint=255)),
)
def test_no_answer_breaks_it(status, content, letter, header):
    """Any JSON, any status, any header: one result for each recipient, in every case."""
    answer = an_answer(status, content, {"retry-after": header})
    outcome = POSTMARK.read(a_call(letter), answer, ServerNote())
    assert sorted(r.address for r in outcome.results) == [ANN, BOB]
    if status >= 300:
        assert Fate.ACCEPTED not in {r.fate for r in outcome.results}


@pytest.mark.parametrize(
    ("status", "content", "ok", "words"),
    [
        (200, {"ID": 1, "Name": "Shop\x1b"}, True, "of the server Shop"),
        (200, [], False, "HTTP 200"),
        (401, {"ErrorCode": 10, "Message": "no"}, False, "Postmark 10: no"),
        (502, b"<html>", False, "502"),
    ],
)
def test_what_doctor_says(status, content, ok, words):
    """The token is good if Postmark tells the name of its server."""
    step = POSTMARK.read_probe(an_answer(status, content))
    assert (step.ok, words in step.detail) == (ok, True)
    assert step.detail.isprintable()


def test_doctor_asks_without_mailing():
    """A GET with the token."""
    request = POSTMARK.probe_request()
    assert (request.method, request.url) == ("GET", "https://api.postmarkapp.com/server")
    assert request.headers["X-Postmark-Server-Token"] == "server-token-test"
