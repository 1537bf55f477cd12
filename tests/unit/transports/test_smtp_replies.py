"""What replies mean, and who pays for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flask_deferred_mail.outcome import Fate, FaultKind
from flask_deferred_mail.transports.smtp_replies import (
    RULES,
    Judgement,
    Reply,
    Stage,
    classify,
    judge,
    queue_id,
    speaks_for_server,
    too_many_recipients,
)

FIXTURE = Path(__file__).parents[2] / "fixtures" / "smtp" / "errors.json"


def reply(text: str) -> Reply:
    """``"550 5.1.1 no"`` as a reply."""
    code, _, words = text.partition(" ")
    return Reply(int(code), words)


def test_the_table_is_the_fixture() -> None:
    """Every rule of the fixture stands in the table, in the same order, with nothing added."""
    wanted = [
        (
            tuple(rule["code"]),
            rule["cls"],
            rule.get("scope"),
            rule.get("stage", ""),
            rule.get("enhanced", ""),
            rule.get("text", ""),
        )
        for rule in json.loads(FIXTURE.read_text("utf-8"))["rules"]
    ]
    assert [tuple(rule) for rule in RULES] == wanted


@pytest.mark.parametrize(
    ("stage", "text", "wanted"),
    [
        ("auth", "454 4.7.0 Throttling failure: too fast", ("rate_limited", None)),
        ("auth", "454 4.7.0 come back", ("transient", None)),
        ("auth", "535 5.7.8 no", ("config", "account")),
        ("rcpt", "530 5.7.0 log in first", ("config", "account")),
        ("mail", "550 5.7.57 not logged in", ("config", "account")),
        ("connect", "554 5.7.1 not you", ("config", "account")),
        ("dot", "550 5.4.5 daily limit", ("quota", None)),
        ("dot", "550 5.2.252 too many errors", ("rate_limited", None)),
        ("rcpt", "550 5.1.8 bad sender", ("quota", None)),
        ("rcpt", "550 5.1.90 over quota", ("quota", None)),
        ("dot", "550 5.7.26 unauthenticated", ("config", "message")),
        ("rcpt", "550 5.7.1 Greylisted, please try again later", ("transient", None)),
        ("rcpt", "550 5.1.1 the late Mr Templar", ("permanent", None)),
        ("rcpt", "552 5.2.2 full", ("transient", None)),
        ("rcpt", "552 5.3.4 big", ("permanent", None)),
        ("rcpt", "552 too many", ("transient", None)),
        ("dot", "552 5.7.0 content", ("permanent", None)),
        ("mail", "553 5.7.1 not your sender", ("config", "message")),
        ("rcpt", "556 no mail here", ("permanent", None)),
        ("dot", "432 4.3.2 three connections", ("rate_limited", None)),
        ("rcpt", "450 4.7.1 greylisted", ("transient", None)),
        ("data", "503 order", ("permanent", None)),
        ("dot", "472 what is this", ("transient", None)),
        ("dot", "599 what is this", ("permanent", None)),
    ],
)
def test_classes(stage: str, text: str, wanted: tuple[str, str | None]) -> None:
    """Stage, enhanced code and text pick the class; what no rule names goes by its digit."""
    assert classify(Stage(stage), reply(text)) == wanted


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("code", [530, 534, 535, 538])
def test_a_refused_login_is_never_the_mails_fault(stage: Stage, code: int) -> None:
    """530, 534, 535 and 538 are faults of the account wherever they come, as is 5.7.57."""
    account = Judgement(Fate.DEFERRED, FaultKind.ACCOUNT)
    assert judge(stage, Reply(code, "no")) == account
    assert judge(stage, Reply(550, "5.7.57 not logged in")) == account


@pytest.mark.parametrize("stage", [Stage.CONNECT, Stage.EHLO, Stage.AUTH])
@pytest.mark.parametrize("text", ["500 what", "550 5.4.5 limit", "554 5.7.1 try again later"])
def test_any_5xx_before_mail_is_the_accounts(stage: Stage, text: str) -> None:
    """A 5xx at banner, EHLO or AUTH lets the transport rest until somebody has looked."""
    assert judge(stage, reply(text)).fault is FaultKind.ACCOUNT


@pytest.mark.parametrize("stage", [Stage.CONNECT, Stage.EHLO, Stage.STARTTLS, Stage.AUTH])
def test_a_4xx_before_mail_is_the_transports(stage: Stage) -> None:
    """Before MAIL nobody has spoken of a mail yet, so none pays."""
    assert judge(stage, reply("451 4.7.1 later")).fault is FaultKind.UNREACHABLE


@pytest.mark.parametrize("text", ["421 4.7.0 closing", "421 closing", "451 4.3.0 trouble"])
def test_a_server_in_trouble(text: str) -> None:
    """421 and 4.3.x are the transport's at MAIL; later the mail pays, and the words are told."""
    assert judge(Stage.MAIL, reply(text)) == Judgement(
        Fate.DEFERRED, FaultKind.UNREACHABLE, whole_server=True
    )
    for stage in (Stage.RCPT, Stage.DATA, Stage.DOT):
        assert judge(stage, reply(text)) == Judgement(Fate.DEFERRED, whole_server=True)


def test_a_5xx_never_speaks_for_the_server() -> None:
    """5.3.x in a permanent refusal is about the mail (5.3.4: too big)."""
    assert not speaks_for_server(reply("552 5.3.4 too big"))


@pytest.mark.parametrize(
    ("stage", "text", "wanted"),
    [
        ("mail", "450 4.1.8 cannot look you up", Judgement(Fate.DEFERRED)),
        ("mail", "501 5.1.7 syntax", Judgement(Fate.REFUSED)),
        ("mail", "550 5.1.0 not your sender", Judgement(Fate.FAILED, message_config=True)),
        ("dot", "550 5.7.26 no DKIM", Judgement(Fate.FAILED, message_config=True)),
        ("rcpt", "550 5.1.1 nobody", Judgement(Fate.REFUSED)),
        ("rcpt", "450 4.2.1 slowly", Judgement(Fate.DEFERRED)),
        ("rcpt", "454 throttling failure", Judgement(Fate.DEFERRED, FaultKind.RATE_LIMITED)),
        ("dot", "550 5.4.5 limit", Judgement(Fate.DEFERRED, FaultKind.QUOTA)),
        ("data", "554 5.5.1 none of them", Judgement(Fate.REFUSED)),
        ("dot", "554 5.7.1 spam", Judgement(Fate.REFUSED)),
    ],
)
def test_from_mail_on_the_mail_pays(stage: str, text: str, wanted: Judgement) -> None:
    """4xx puts off, 5xx refuses, a sender that may not be used fails the mail."""
    assert judge(Stage(stage), reply(text)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("452 4.5.3 too many", True),
        ("452 too many", True),
        ("552 too many", True),
        ("552 5.5.3 too many", True),
        ("452 4.2.2 mailbox full", False),
        ("452 4.3.1 disk full", False),
        ("552 5.2.2 mailbox full", False),
        ("450 too many", False),
    ],
)
def test_which_refusals_mean_a_full_envelope(text: str, wanted: bool) -> None:
    """452 and 552 split the envelope, unless their enhanced code says something else."""
    assert too_many_recipients(reply(text)) is wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("250 2.0.0 Ok: queued as 4F2D1A", "4F2D1A"),
        ("250 2.0.0 Ok 0 bytes queued as <20AB-33>.", "20AB-33"),
        ("250 OK id=1rXyZ2-000abc-1A", "1rXyZ2-000abc-1A"),
        ("250 2.6.0 <a@b> [InternalId=8823, Hostname=x] Queued mail for delivery", "8823"),
        ("250 2.0.0 4AM8Fe0x012 Message accepted for delivery", "4AM8Fe0x012"),
        ("250 Ok 0100018c2f-7b1e-000000", "0100018c2f-7b1e-000000"),
        ("250 2.0.0 accepted <abc.1@mx>", "abc.1@mx"),
        ("250 2.0.0 thanks", None),
        ("250 queued as " + "x" * 400, "x" * 120),
    ],
)
def test_the_servers_name_for_a_mail(text: str, wanted: str | None) -> None:
    """The queue id is read from the usual forms of a final reply, and capped."""
    answer = queue_id(reply(text))
    assert answer == wanted


def test_enhanced_codes() -> None:
    """An enhanced code opens the text or is none; the reply reads as it came."""
    assert reply("550 5.1.1 nobody").enhanced == "5.1.1"
    assert reply("550 5.1.1").enhanced == "5.1.1"
    assert reply("550 see 5.1.1").enhanced is None
    assert reply("550 5.1.1234 odd").enhanced is None
    assert str(reply("550 5.1.1 nobody")) == "550 5.1.1 nobody"
    assert str(Reply(250, "")) == "250"
