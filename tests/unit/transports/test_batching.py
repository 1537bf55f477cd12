"""Different mails in one request to Postmark or Resend: who goes with whom, and what comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from flask_deferred_mail.errors import ConfigurationError, HandoverRefused
from flask_deferred_mail.letter import Letter, Part
from flask_deferred_mail.outcome import FaultKind, Outcome
from flask_deferred_mail.transports import batching
from flask_deferred_mail.transports.base import Call
from flask_deferred_mail.transports.gathering import Gathering
from flask_deferred_mail.transports.provider import ProviderTransport
from tests.support.http_provider import HttpProvider, Recorded, Reply
from tests.support.json_providers import built
from tests.support.together import send_together
from tests.support.transport_calls import a_call, a_letter, fates

FOUR = [f"reader{number}@example.net" for number in range(4)]
LOGINS = {"postmark": "postmark://token@default", "resend": "resend://re_key@default"}
LOST = Reply(drop="after_body")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request goes when it is full, however slow this machine is."""
    monkeypatch.setattr(batching, "WINDOW", 20.0)


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        provider.decide = take
        yield provider


@pytest.fixture(params=["postmark", "resend"])
def make(request: pytest.FixtureRequest, provider: HttpProvider) -> Callable[..., Any]:
    """The transport of each provider, with the options that are given."""

    def make(batch: int | None = 4) -> ProviderTransport:
        options = f"&batch={batch}" if batch else ""
        return built(f"{LOGINS[request.param]}?endpoint={provider.url}{options}")

    return make


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would wait for others fails."""

    def send(*_args: object) -> None:
        raise AssertionError("it waits for company")

    monkeypatch.setattr(Gathering, "send", send)


def take(request: Recorded) -> Reply | None:
    """What both providers answer when they take a mail, or all mails of a batch."""
    if request.path.startswith("/emails"):
        mails = json.loads(request.body)
        ids = [{"id": f"id-{address}"} for address in readers(request)]
        return Reply({"data": ids} if isinstance(mails, list) else ids[0])
    items = [
        {"ErrorCode": 0, "MessageID": f"id-{address}", "Message": "OK"}
        for address in readers(request)
    ]
    single = request.path in ("/email", "/email/withTemplate")
    return Reply(json.dumps(items[0] if single else items))


def mails_of(request: Recorded) -> list[dict[str, Any]]:
    content = json.loads(request.body)
    if isinstance(content, dict):
        content = content.get("Messages", [content])
    return list(content)


def readers(request: Recorded) -> list[str]:
    """Whom the mails of a request are for."""
    found = [mail["To"] if "To" in mail else mail["to"][0] for mail in mails_of(request)]
    return [address.strip("<>") for address in found]


def calls(*addresses: str, **how: Any) -> list[Call]:
    """A call with a mail of its own for each address."""
    return [
        a_call(a_letter(address, subject=f"For {address}"), key=f"{number:032x}", **how)
        for number, address in enumerate(addresses or FOUR)
    ]


def outcomes(found: list[Outcome | BaseException]) -> list[Outcome]:
    assert all(isinstance(outcome, Outcome) for outcome in found), found
    return [outcome for outcome in found if isinstance(outcome, Outcome)]


def fate_of(outcome: Outcome | BaseException) -> str:
    assert isinstance(outcome, Outcome), outcome
    [fate] = fates(outcome).values()
    return fate


# -- one request --------------------------------------------------------------------------------


def test_mails_of_several_threads_share_a_request(make: Any, provider: HttpProvider) -> None:
    """Each has its own subject, and its own id comes back to it."""
    found = outcomes(send_together(make(), calls()))
    [request] = provider.requests
    assert sorted(readers(request)) == FOUR
    subjects = {mail.get("Subject") or mail.get("subject") for mail in mails_of(request)}
    assert subjects == {f"For {address}" for address in FOUR}
    for address, outcome in zip(FOUR, found, strict=True):
        [result] = outcome.results
        assert (result.address, result.fate) == (address, "accepted")
        assert result.provider_message_id == f"id-{address}"


def test_no_key_is_sent_with_different_mails(make: Any, provider: HttpProvider) -> None:
    """No later request will have the same mails, so none could be recognised by it."""
    send_together(make(), calls())
    [request] = provider.requests
    assert "idempotency-key" not in request.headers


def test_every_mail_keeps_its_own_reference(make: Any, provider: HttpProvider) -> None:
    """Reports of the provider find their mails as they do otherwise."""
    numbered = [replace(call, job_id=number) for number, call in enumerate(calls(), 1)]
    send_together(make(), numbered)
    [request] = provider.requests
    for mail in mails_of(request):
        text = json.dumps(mail.get("Metadata") or mail["tags"])
        [expected] = [c for c in numbered if c.recipients[0].email in json.dumps(mail)]
        assert expected.reference in text


def test_without_the_option_nothing_is_batched(make: Any, provider: HttpProvider) -> None:
    """A request for each mail, as ever."""
    transport = make(None)
    assert [fate_of(o) for o in send_together(transport, calls())] == ["accepted"] * 4
    assert [len(mails_of(request)) for request in provider.requests] == [1] * 4


def test_a_mail_that_finds_no_company_goes_alone(
    make: Any, provider: HttpProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the window ends it takes the ordinary way."""
    monkeypatch.setattr(batching, "WINDOW", 0.0)
    [outcome] = send_together(make(), calls(FOUR[0]))
    assert fate_of(outcome) == "accepted"
    assert provider.requests[0].path in ("/email", "/emails")


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    "changed",
    [
        {"in_doubt": True},
        {"seconds": batching.LITTLE_TIME - 1},
        {"letter": a_letter(FOUR[0], FOUR[1], private_copies=True)},
    ],
    ids=["in doubt", "little time", "private copies"],
)
def test_some_calls_never_go_with_others(
    make: Any, provider: HttpProvider, changed: dict[str, Any]
) -> None:
    """They do not wait for company either."""
    call = a_call(**{"letter": a_letter(FOUR[0]), **changed})
    assert set(fates(make().send(call)).values()) == {"accepted"}
    assert len(provider.requests) == 1


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("letter", "send_at"),
    [
        (a_letter(), 2_000_000_000.0),
        (a_letter(parts=(Part(b"x", "text/plain", "a.txt"),)), None),
    ],
    ids=["for later", "with a file"],
)
def test_resend_takes_neither_files_nor_mails_for_later_in_a_batch(
    provider: HttpProvider, letter: Letter, send_at: float | None
) -> None:
    """Both go alone, with what is theirs."""
    call = replace(a_call(letter), send_at=send_at)  # here, since its deadline counts from now
    transport = built(f"{LOGINS['resend']}?endpoint={provider.url}&batch=4&schedule=native")
    assert fate_of(transport.send(call)) == "accepted"
    [request] = provider.requests
    assert request.path == "/emails"
    assert {"scheduled_at", "attachments"} & set(json.loads(request.body))


def test_postmark_has_another_path_for_templates(provider: HttpProvider) -> None:
    """Two with a template and two without make two requests."""
    transport = built(f"{LOGINS['postmark']}?endpoint={provider.url}&batch=2")
    plain = calls(*FOUR[:2])
    filled = [
        a_call(a_letter(address, template_id="hello", subject="", text=None))
        for address in FOUR[2:]
    ]
    assert [fate_of(o) for o in send_together(transport, plain + filled)] == ["accepted"] * 4
    by_path = {request.path: sorted(readers(request)) for request in provider.requests}
    assert by_path == {"/email/batch": FOUR[:2], "/email/batchWithTemplates": FOUR[2:]}


@pytest.mark.usefixtures("no_waiting")
def test_large_mails_go_alone(
    make: Any, provider: HttpProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would fill a request by itself does not wait for others."""
    transport = make()
    monkeypatch.setattr(type(transport), "max_batch_size", 4000)
    assert fate_of(transport.send(calls(FOUR[0])[0])) == "accepted"
    assert len(provider.requests) == 1


# -- what the answer says -----------------------------------------------------------------------


def refusing(victim: str) -> Callable[[Recorded], Reply | None]:
    """A provider that takes all mails but one."""

    def decide(request: Recorded) -> Reply | None:
        if request.path.startswith("/emails"):
            taken = [{"id": f"id-{a}"} for a in readers(request) if a != victim]
            errors = [{"index": readers(request).index(victim), "message": "bad `to`"}]
            return Reply({"data": taken, "errors": errors})
        return Reply(
            json.dumps(
                [
                    {"ErrorCode": 300, "Message": "bad `To`"}
                    if address == victim
                    else {"ErrorCode": 0, "MessageID": f"id-{address}", "Message": "OK"}
                    for address in readers(request)
                ]
            )
        )

    return decide


@pytest.mark.parametrize("victim", FOUR)
def test_one_that_is_refused_does_not_touch_the_others(
    make: Any, provider: HttpProvider, victim: str
) -> None:
    """The ids of the others are their own, wherever the refused one stood."""
    provider.decide = refusing(victim)
    found = outcomes(send_together(make(), calls()))
    assert len(provider.requests) == 1
    for address, outcome in zip(FOUR, found, strict=True):
        [result] = outcome.results
        if address == victim:
            assert result.fate == "refused"
            assert "bad `" in result.detail
        else:
            assert (result.fate, result.provider_message_id) == ("accepted", f"id-{address}")


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"id": "a"}]},
        {"data": [{"id": c} for c in "abcde"]},
        {"id": "a", "MessageID": "a", "ErrorCode": 0},
        b'[{"MessageID": "a", "ErrorCode": 0}]',
        b"[]",
        b"<html>",
        b"",
    ],
)
def test_an_answer_that_does_not_fit_the_mails_leaves_all_in_doubt(
    make: Any, provider: HttpProvider, body: Any
) -> None:
    """Nobody can say which of them were taken."""
    provider.decide = lambda _: Reply(body)
    found = outcomes(send_together(make(), calls()))
    assert [fate_of(outcome) for outcome in found] == ["unknown"] * 4
    assert len(provider.requests) == 1


def test_a_lost_answer_leaves_all_in_doubt_and_says_so(make: Any, provider: HttpProvider) -> None:
    """The words name the company, for whoever has to look."""
    provider.decide = lambda _: LOST
    found = outcomes(send_together(make(), calls()))
    for outcome in found:
        assert fate_of(outcome) == "unknown"
        assert outcome.detail.startswith("in one request with 3 other mails: ")
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply("", 401), FaultKind.ACCOUNT),
        (Reply("", 429, {"Retry-After": "7"}), FaultKind.RATE_LIMITED),
    ],
)
def test_a_refusal_of_the_account_is_everybodys(
    make: Any, provider: HttpProvider, reply: Reply, kind: FaultKind
) -> None:
    """Nobody is sent alone after it: the transport rests."""
    provider.decide = lambda _: reply
    found = outcomes(send_together(make(), calls()))
    assert [outcome.fault and outcome.fault.kind for outcome in found] == [kind] * 4
    assert len(provider.requests) == 1


def test_a_whole_request_that_is_refused_is_sent_mail_by_mail(
    make: Any, provider: HttpProvider
) -> None:
    """The refusal was about some mail in it; the others only had bad company."""

    def decide(request: Recorded) -> Reply | None:
        guilty = FOUR[2] in readers(request)
        body = {"name": "validation_error", "message": "x", "ErrorCode": 402, "Message": "x"}
        return Reply(body, 422) if guilty else take(request)

    provider.decide = decide
    found = outcomes(send_together(make(), calls()))
    expected = ["accepted", "accepted", fate_of(found[2]), "accepted"]
    assert [fate_of(outcome) for outcome in found] == expected
    assert fate_of(found[2]) in ("refused", "failed")
    assert sorted(len(mails_of(request)) for request in provider.requests) == [1, 1, 1, 1, 4]


def test_a_server_that_cannot_be_reached_has_nobodys_mail(make: Any, provider: HttpProvider):
    """The transport is to blame, for each of them."""
    transport = make()
    provider.close()
    found = outcomes(send_together(transport, calls()))
    kinds = [outcome.fault and outcome.fault.kind for outcome in found]
    assert kinds == [FaultKind.UNREACHABLE] * 4


# -- leave to hand over -------------------------------------------------------------------------


def refuse() -> None:
    raise HandoverRefused("somebody else has it")


def test_a_mail_without_leave_is_not_in_the_request(make: Any, provider: HttpProvider) -> None:
    """The request that had it was broken off, and what is delivered does not have it."""
    waiting = calls()
    waiting[1] = replace(waiting[1], hand_over=refuse)
    found = send_together(make(), waiting)
    assert isinstance(found[1], HandoverRefused)
    assert [fate_of(found[n]) for n in (0, 2, 3)] == ["accepted"] * 3
    [request] = provider.requests
    assert sorted(readers(request)) == [FOUR[0], FOUR[2], FOUR[3]]


def test_nothing_goes_out_if_nobody_has_leave(make: Any, provider: HttpProvider) -> None:
    """Everybody hears of it in its own thread."""
    found = send_together(make(), calls(hand_over=refuse))
    assert [type(error) for error in found] == [HandoverRefused] * 4
    assert provider.requests == []


def test_one_that_is_left_alone_goes_alone(make: Any, provider: HttpProvider) -> None:
    """With its own key, as any single mail."""
    waiting = calls(hand_over=refuse)
    waiting[3] = replace(waiting[3], hand_over=lambda: None)
    found = send_together(make(), waiting)
    assert fate_of(found[3]) == "accepted"
    [request] = provider.requests
    assert request.path in ("/email", "/emails")


def test_leave_is_asked_for_before_the_end_of_the_request(
    make: Any, provider: HttpProvider
) -> None:
    """Whoever gives it finds the server without a whole request."""
    complete: list[int] = []
    found = send_together(make(), calls(hand_over=lambda: complete.append(len(provider.requests))))
    assert [fate_of(outcome) for outcome in found] == ["accepted"] * 4
    assert complete == [0] * 4


def test_a_leave_that_ends_before_the_second_request_puts_the_mail_off(
    make: Any, provider: HttpProvider
) -> None:
    """Its row was told that the mail may be out, so this is an outcome and no exception."""
    asked = threading.Event()

    def only_once() -> None:
        if asked.is_set():
            raise HandoverRefused("the lease could not be renewed in time")
        asked.set()

    waiting = calls(hand_over=lambda: None)
    waiting[0] = replace(waiting[0], hand_over=only_once)
    waiting[1] = replace(waiting[1], hand_over=refuse)
    found = send_together(make(), waiting)
    assert fate_of(found[0]) == "deferred"
    assert isinstance(found[1], HandoverRefused)
    [request] = provider.requests
    assert sorted(readers(request)) == FOUR[2:]


# -- threads and processes ----------------------------------------------------------------------


def test_a_leader_that_is_torn_away_after_the_end_leaves_all_in_doubt(
    make: Any, provider: HttpProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is sent a second time over it; its own thread ends as it should."""

    def torn(*_args: object) -> None:
        raise SystemExit

    transport = make()
    monkeypatch.setattr(transport, "read_batch", torn)
    found = send_together(transport, calls())
    ends = [outcome for outcome in found if isinstance(outcome, SystemExit)]
    assert len(ends) == 1
    assert [fate_of(o) for o in found if o is not ends[0]] == ["unknown"] * 3
    assert len(provider.requests) == 1


def test_a_mail_that_cannot_be_put_into_a_request_spoils_its_own_only(
    make: Any, provider: HttpProvider
) -> None:
    """Each goes alone, and the mistake is seen where it belongs."""
    waiting = calls()
    waiting[2] = replace(waiting[2], letter=replace(waiting[2].letter, subject=object()))
    found = send_together(make(), waiting)
    assert isinstance(found[2], TypeError)
    assert [fate_of(found[n]) for n in (0, 1, 3)] == ["accepted"] * 3
    assert [len(mails_of(request)) for request in provider.requests] == [1] * 3


def test_a_child_does_not_wait_for_threads_of_its_parent(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that was open at the fork has no leader there."""
    transport = make()
    call = calls(FOUR[0])[0]
    monkeypatch.setattr(Gathering, "_lead", lambda *_args: None)
    transport._gatherings().send(call, transport._lane(call), 1)
    assert transport._gathering._open
    monkeypatch.undo()
    monkeypatch.setattr(batching, "WINDOW", 0.0)
    monkeypatch.setattr(transport, "_gathering_of", -1)
    [outcome] = send_together(transport, [call])
    assert fate_of(outcome) == "accepted"


# -- the option ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postmark://token@default?batch=501", "'batch' should be a whole number from 2 to 500"),
        ("postmark://token@default?batch=1", "'batch' should be a whole number from 2 to 500"),
        ("resend://key@default?batch=101", "'batch' should be a whole number from 2 to 100"),
        ("resend://key@default?batch=many", "'batch' should be a whole number from 2 to 100"),
        ("brevo://key@default?batch=10", "brevo: has no option 'batch'"),
        ("mailgun://key@mg.example.com?batch=10", "mailgun: has no option 'batch'"),
        ("smtp://mail.example.com?batch=10", "smtp: has no option 'batch'"),
    ],
)
def test_a_batch_that_the_provider_does_not_take_is_a_fault(url: str, words: str) -> None:
    """Said when the transport is made, with what would be right."""
    with pytest.raises(ConfigurationError) as caught:
        built(url)
    assert words in str(caught.value)
