"""Every answer of Resend in the fixtures, its whole table, and answers that make no sense."""

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

RESEND = built("resend://re_test@default")
RULES = fixture("resend", "errors")["rules"]
ANN, BOB = "ann@example.net", "bob@example.net"
PLAIN = a_letter(ANN, BOB)
BATCH = a_letter(ANN, BOB, private_copies=True)
IDS = ["4ef9a417-02e9-4d39-ad75-9611e0fcc33c", "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"]


def said(
    status: int, content: Any, letter: Any = PLAIN, in_doubt: bool = False, **headers: str
) -> Outcome:
    call = a_call(letter, in_doubt=in_doubt)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(RESEND, call, an_answer(status, content, names))


def refused(name: str, status: int = 400, letter: Any = PLAIN, in_doubt: bool = False) -> Outcome:
    body = {"statusCode": status, "name": name, "message": "x"}
    return said(status, body, letter, in_doubt)


BATCHES = {"response_batch_ok", "response_batch_permissive"}


@pytest.mark.parametrize("name", sorted({*fixtures("resend", "response")} - BATCHES))
def test_every_fixture_is_classified_as_it_expects(name):
    """Class and ambiguity, the id of acceptance, and the time to stay away."""
    given_ = fixture("resend", name)
    expect = given_["expect"]
    outcome = said(given_["status"], given_["json"], **given_["headers"])
    assert class_of(outcome) == (expect["class"], expect.get("ambiguous", False))
    for result in outcome.results:
        assert result.provider_message_id == expect.get("message_id")
    if "retry_after" in expect:
        assert outcome.fault.retry_after == expect["retry_after"]


def test_there_are_response_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("resend", "response")) == 17


@pytest.mark.parametrize("name", sorted(BATCHES))
def test_a_batch_is_read_mail_by_mail(name):
    """``data`` has the ids of the taken ones, ``errors`` the places of the others."""
    given_ = fixture("resend", name)
    outcome = said(given_["status"], given_["json"], BATCH)
    words = {"accepted": "accepted", "permanent": "refused"}
    assert fates(outcome) == {
        address: words[item]
        for address, item in zip((ANN, BOB), given_["expect"]["items"], strict=True)
    }
    ids = [r.provider_message_id for r in outcome.results]
    assert ids == IDS[: len(given_["json"]["data"])] + [None] * (2 - len(given_["json"]["data"]))


def test_the_first_of_a_batch_may_be_the_one_that_is_refused():
    """The id belongs to the second then, and the words are the first one's."""
    body = {"data": [{"id": IDS[0]}], "errors": [{"index": 0, "message": "bad `to`"}]}
    results = {r.address: r for r in said(200, body, BATCH).results}
    assert (results[ANN].fate, results[ANN].detail) == ("refused", "Resend: bad `to`")
    assert (results[BOB].fate, results[BOB].provider_message_id) == ("accepted", IDS[0])


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"id": IDS[0]}]},
        {"data": [{"id": "a"}, {"id": "b"}, {"id": "c"}]},
        {"data": [], "errors": []},
        {"data": [{"id": "a"}], "errors": [{"index": 7}, {"index": True}, {"index": "0"}, None]},
        {"id": IDS[0]},
        {"data": {}},
        [],
    ],
)
def test_a_batch_answer_whose_numbers_do_not_add_up_is_unknown(body):
    """Nobody can say whose mail was taken; the key makes the repeat harmless."""
    assert class_of(said(200, body, BATCH)) == ("transient", True)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("name", rule.get("http"))))
def test_every_rule_of_the_providers_table_is_ours_too(rule):
    """All names and statuses, but for a bare 503, which was certainly not sent."""
    expected = (rule["class"], rule.get("ambiguous", False))
    for name in rule.get("name", ()):
        for status in rule.get("http", [400]):
            assert class_of(refused(name, status)) == expected
    for status in rule.get("http", ()) if "name" not in rule else ():
        assert class_of(said(status, "x")) == (expected[0], expected[1] and status != 503)


@pytest.mark.parametrize(
    ("name", "status", "of_the_account"),
    [
        ("missing_api_key", 401, True),
        ("restricted_api_key", 401, True),
        ("invalid_api_key", 403, True),
        ("suspended_api_key", 403, True),
        ("invalid_permission", 403, True),
        ("method_not_allowed", 405, True),
        ("validation_error", 403, False),
        ("not_found", 404, False),
    ],
)
def test_whether_the_account_or_the_mail_is_to_blame(name, status, of_the_account):
    """Keys rest the transport; a sender's domain or a template fails this mail."""
    outcome = refused(name, status)
    assert (outcome.fault is not None) == of_the_account
    assert outcome.message_config != of_the_account


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry_after": "7", "ratelimit_reset": "1"}, 7),
        ({"ratelimit_reset": "3"}, 3),
        ({"ratelimit_reset": "99999999"}, 3600),
        ({"ratelimit_reset": "soon"}, None),
        ({"ratelimit_reset": "0"}, None),
        ({}, None),
    ],
)
def test_a_429_rests_the_transport_until_its_window_ends(headers, pause):
    """Retry-After first; else the end of the window; nonsense counts as absent."""
    body = {"name": "rate_limit_exceeded", "message": "slow"}
    outcome = said(429, body, **headers)
    assert outcome.fault.kind is FaultKind.RATE_LIMITED
    assert outcome.fault.retry_after == pause


@pytest.mark.parametrize("name", ["invalid_idempotent_request", "concurrent_idempotent_requests"])
def test_a_key_that_resend_has_seen_leaves_the_doubt(name):
    """It has the earlier try, and does not say what came of it; a person decides in the end."""
    assert class_of(refused(name, 409, in_doubt=True)) == ("transient", True)
    assert class_of(refused(name, 409))[1] is False


def test_a_deployment_overrides_names():
    """For example to count an application error as one after which the mail may be there."""
    resend = built(
        "resend://k@default", {"application_error": "unknown", "validation_error": "account"}
    )
    answer = an_answer(500, {"name": "application_error"})
    assert class_of(read(resend, a_call(PLAIN), answer)) == ("transient", True)
    answer = an_answer(403, {"name": "validation_error"})
    assert read(resend, a_call(PLAIN), answer).fault.kind is FaultKind.ACCOUNT


def test_a_batch_refused_over_a_named_address_refuses_that_one_only():
    """The rest is tried again at once; without a name the batch is tried in halves."""
    body = {"name": "validation_error", "message": f"Invalid `to` field: {BOB}"}
    assert fates(said(422, body, BATCH)) == {ANN: "untried", BOB: "refused"}
    assert refused("validation_error", 422, BATCH).divisible
    assert not refused("validation_error", 422).divisible


@pytest.mark.parametrize("content", [{}, [], None, "ok", {"id": 3}, {"id": ""}, b""])
def test_a_200_without_an_id_is_unknown(content):
    """Neither "sent" nor "not sent" would be true."""
    assert class_of(said(200, content)) == ("transient", True)


def test_unknown_fields_change_nothing():
    """An answer may grow."""
    outcome = said(200, {"id": "m", "object": "email", "data": [], "errors": [{"index": 0}]})
    assert {r.provider_message_id for r in outcome.results} == {"m"}


_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("id", "name", "message", "statusCode"), ANY_JSON),
        "data": st.lists(st.fixed_dictionaries({}, optional={"id": ANY_JSON}) | ANY_JSON)
        | ANY_JSON,
        "errors": st.lists(
            st.fixed_dictionaries(
                {"index": ANY_JSON | st.integers(-2, 3)}, optional={"message": ANY_JSON}
            )
        )
        | ANY_JSON,
    },
)


@given(
    st.integers(200, 599),
    ANY_JSON | _FIELDS,
    st.sampled_from([PLAIN, BATCH]),
    st.booleans(),
    st.text(st.characters(max_codepoint=255)),
)
def test_no_answer_breaks_it(status, content, letter, in_doubt, header):
    """Any JSON, any status, any header: one result for each recipient, in every case."""
    answer = an_answer(status, content, {"retry-after": header, "ratelimit-reset": header})
    outcome = RESEND.read(a_call(letter, in_doubt=in_doubt), answer, ServerNote())
    assert sorted(r.address for r in outcome.results) == [ANN, BOB]
    if status >= 300:
        assert Fate.ACCEPTED not in {r.fate for r in outcome.results}


@pytest.mark.parametrize(
    ("status", "content", "ok", "words"),
    [
        (200, {"data": []}, True, "knows this key"),
        (401, {"name": "restricted_api_key", "message": "x"}, True, "nothing else"),
        (403, {"name": "invalid_api_key", "message": "no"}, False, "invalid_api_key: no"),
        (502, "<html>", False, "502"),
    ],
)
def test_what_doctor_says(status, content, ok, words):
    """A key that may only send is a good one."""
    step = RESEND.read_probe(an_answer(status, content))
    assert (step.ok, words in step.detail) == (ok, True)
