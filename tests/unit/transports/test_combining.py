"""Combined transports: their URLs, the names of their members, and what they can carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from flask_deferred_mail.errors import ConfigurationError, UnsupportedFeature
from flask_deferred_mail.outcome import Fate, FaultKind, Outcome
from flask_deferred_mail.transports.base import Call, Transport
from flask_deferred_mail.transports.combination import Combination, Share, may_go_on
from flask_deferred_mail.transports.combining import member_names
from flask_deferred_mail.transports.registry import build, faults, faults_of
from flask_deferred_mail.transports.url import mask
from tests.support.transport_calls import a_letter, send

SECRET = "hunter2"


@dataclass
class Spec:
    url: str
    token: Any = None
    dkim: Any = None
    classify: Any = None


def made(url: str, name: str = "default", **beside: Any) -> Combination:
    transport = build(name, Spec(url, **beside))
    assert isinstance(transport, Combination)
    return transport


def names(transport: Combination) -> list[str]:
    return [leaf.name for leaf in transport.leaves()]


def test_members_may_be_combinations_and_stand_on_several_lines() -> None:
    """Blanks of any kind stand between them."""
    found = made("failover(\n  smtp://a\n  roundrobin(null: smtp://b?weight=3)\n)")
    assert names(found) == ["default/a", "default/null", "default/b"]
    inner = found.shares[1].transport
    assert isinstance(inner, Combination)
    assert [share.weight for share in inner.shares] == [1, 3]


def test_a_combination_inside_has_a_weight_behind_its_parenthesis() -> None:
    """As a URL has it among its options."""
    found = made("roundrobin(failover(null: memory:)?weight=4 smtp://b)")
    assert [share.weight for share in found.shares] == [4, 1]


def test_limits_and_caps_are_the_members_own() -> None:
    """From the options that every scheme has."""
    a, b = made("failover(smtp://a?rate=14/s&connections=2 null:)").leaves()
    assert [str(limit) for limit in a.limits] == ["14/s"]
    assert (a.connections, b.limits, b.connections) == (2, (), None)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("failover()", "no URLs"),
        ("failover(  )", "no URLs"),
        ("failover(smtp://a", "not closed"),
        (f"failover(smtp://u:{SECRET}(x)@a null:)", "parenthesis in member 1"),
        (f"failover(smtp://u:{SECRET})x@a null:)", "something after failover"),
        ("failover(smtp://a?weight=2 null:)", "only roundrobin"),
        ("failover(null:)?weight=2", "something after failover"),
        ("roundrobin(null:?weight=0 null:)", "number from 1 to 999"),
        ("roundrobin(failover(null:)?x=1 null:)", "no ?weight=N"),
        ("failover(" * 5 + "null:" + ")" * 5, "4 deep"),
        (f"failover({'null: ' * 33})", "more than 32"),
        ("smtp://a?weight=2", "members of roundrobin"),
        ("smtp://a?rate=often", "14/s"),
        ("smtp://a?connections=0", "1 to 999"),
    ],
)
def test_what_is_wrong_with_it_is_said_without_a_secret(url: str, words: str) -> None:
    """In one sentence, and nothing is made."""
    found = faults(url)
    assert len(found) == 1
    assert words in found[0]
    with pytest.raises(ConfigurationError) as raised:
        build("default", Spec(url))
    assert SECRET not in str(raised.value) + mask(url)


def test_the_faults_of_every_member_are_listed_by_its_place() -> None:
    """All at once, also those of members further in."""
    found = faults(f"failover(stmp://u:{SECRET}@a roundrobin(smtp://u@b smtp://c?tls=x))")
    assert [fault.partition(":")[0] for fault in found] == ["member 1", "member 2.1", "member 2.2"]
    assert SECRET not in " ".join(found)


def test_what_stands_beside_the_url_goes_to_the_members_that_have_a_use_for_it() -> None:
    """It is a fault only if none has."""
    classify = {"40005": "permanent"}
    assert faults_of(Spec("failover(sendcloud://u:k@default null:)", classify=classify)) == []
    [fault] = faults_of(Spec("failover(null: memory:)", classify=classify))
    assert "no use for 'classify'" in fault


def test_a_members_name_says_where_it_leads_and_does_not_depend_on_the_order() -> None:
    """Two that lead to the same place are told apart; no user or key is in it."""
    urls = [f"smtp://u:{SECRET}@a:25", "ses://eu-west-1", f"sendcloud://u:{SECRET}@default"]
    found = member_names("bulk", urls)
    assert found == ["bulk/a:25", "bulk/ses-eu-west-1", "bulk/sendcloud"]
    assert member_names("bulk", urls[::-1]) == found[::-1]
    assert member_names("bulk", ["null:", "null:"]) == ["bulk/null", "bulk/null+2"]


def test_a_long_name_fits_into_its_column_and_stays_unlike_others() -> None:
    """By a digest of what was cut off."""
    urls = [f"smtp://{'x' * 60}{n}.example.com" for n in range(3)]
    found = member_names("b" * 64, urls)
    assert len(set(found)) == 3
    assert all(len(name) <= 64 for name in found)


class Plain(Transport):
    """Carries plain mail, and answers what it is told."""

    def __init__(self, name: str, outcome: Any = None) -> None:
        super().__init__(name)
        self.outcome = outcome
        self.asked: list[Call] = []

    def send(self, call: Call) -> Outcome:
        self.asked.append(call)
        if self.outcome is not None:
            return Outcome.not_sent(call.recipients, self.outcome, "gone")
        return Outcome.for_all(call.recipients, Fate.ACCEPTED, "250 ok")


def test_a_message_must_suit_every_member() -> None:
    """Whichever it will go by; or what one cannot carry is dropped for all."""
    combined = made("failover(sendcloud://u:k@default smtp://a)")
    letter = a_letter(tags=("news",))
    with pytest.raises(UnsupportedFeature, match="tags"):
        combined.check(letter)
    fitted = combined.fit(letter)
    combined.check(fitted)
    assert fitted.tags == ()


def test_the_smallest_limit_of_all_members_holds() -> None:
    """Copies travel together only if every member sends them so."""
    combined = made("failover(sendcloud://u:k@default smtp://a)")
    assert combined.private_copies_in_one_call is False
    alone = made("failover(sendcloud://u:k@default)")
    assert alone.private_copies_in_one_call is True


def test_send_goes_on_only_where_nothing_can_have_been_handed_over() -> None:
    """Under another key at each member."""
    a, b = Plain("default/a", FaultKind.UNREACHABLE), Plain("default/b")
    outcome = send(Combination("default", "failover", [Share(a), Share(b)]), a_letter())
    assert [result.fate for result in outcome.results] == [Fate.ACCEPTED]
    assert a.asked[0].idempotency_key != b.asked[0].idempotency_key


@pytest.mark.parametrize("fate", sorted(Fate))
def test_only_a_fault_that_reached_nobody_lets_another_member_try(fate: Fate) -> None:
    """Whatever the other side may have, or has said of the mail, stays there."""
    recipients = a_letter().recipients
    outcome = Outcome.for_all(recipients, fate, "x")
    assert may_go_on(outcome) is False
    faulty = Outcome.not_sent(recipients, FaultKind.UNREACHABLE, "gone").fault
    assert may_go_on(Outcome(outcome.results, fault=faulty)) is (
        fate in (Fate.DEFERRED, Fate.UNTRIED)
    )


def test_closing_it_closes_every_member() -> None:
    """Connections of members further in as well."""
    closed = []

    class Closing(Plain):
        def close(self) -> None:
            closed.append(self.name)

    inner = Combination("default", "roundrobin", [Share(Closing("b"))])
    Combination("default", "failover", [Share(Closing("a")), Share(inner)]).close()
    assert closed == ["a", "b"]
