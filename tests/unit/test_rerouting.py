"""Who is really mailed from a staging server."""

from __future__ import annotations

import pytest

from flask_deferred_mail.errors import MessageError
from flask_deferred_mail.letter import Address, Recipient
from flask_deferred_mail.rerouting import MAX_ORIGINAL, Rerouting, changes_in_words, pattern_of
from tests.support.transport_calls import a_letter

ANN, BOB, CID, QA, DEV = (
    Address(f"{name}@{domain}")
    for name, domain in (
        *(("ann", "example.net"), ("bob", "example.net"), ("cid", "example.org")),
        *(("qa", "example.com"), ("dev", "example.com")),
    )
)


def letter(to=(), cc=(), bcc=(), **fields):
    """A letter to these."""
    kinds = (("to", to), ("cc", cc), ("bcc", bcc))
    recipients = tuple(Recipient(who, kind) for kind, people in kinds for who in people)
    return a_letter(recipients=recipients, **fields)


def people(found):
    """Kind and address of each recipient."""
    return [(r.kind, r.email.partition("@")[0]) for r in found.recipients]


def test_without_configuration_everybody_is_mailed():
    """And the letter is the very same object: it costs nothing."""
    given = letter([ANN], [BOB])
    assert Rerouting().applied(given) is given
    assert Rerouting().permits("anybody@example.org")


def test_a_letter_to_those_who_may_be_mailed_is_left_alone():
    """Whatever case they are written in."""
    rules = Rerouting((QA,), ("*@example.net",))
    for given in (letter([ANN], [BOB]), letter([Address("Ann@EXAMPLE.net")]), letter([QA])):
        assert rules.applied(given) is given


def test_everybody_is_replaced_once_and_named_in_the_header():
    """Two lists of people become one mail to the testers; cc and bcc with it."""
    found = Rerouting((QA, DEV)).applied(letter([ANN, BOB], [CID], [Address("eve@x.org")]))
    assert people(found) == [("to", "qa"), ("to", "dev")]
    assert found.headers == (
        ("X-Original-To", "ann@example.net, bob@example.net"),
        ("X-Original-Cc", "cid@example.org"),
        ("X-Original-Bcc", "eve@x.org"),
    )


def test_who_is_allowed_stays_and_hidden_names_stay_hidden():
    """The place in the list is that of the first who was replaced."""
    rules = Rerouting((QA,), ("*@example.net",))
    found = rules.applied(letter([ANN, CID, BOB], bcc=[Address("eve@x.org")]))
    assert people(found) == [("to", "ann"), ("to", "qa"), ("to", "bob")]
    assert found.headers == (("X-Original-To", "cid@example.org"),)
    hidden = rules.applied(letter([ANN], bcc=[CID]))
    assert people(hidden) == [("to", "ann"), ("bcc", "qa")]
    assert hidden.headers == ()


def test_nobody_is_mailed_twice():
    """A tester who gets the mail anyway keeps his place."""
    found = Rerouting((QA,)).applied(letter([ANN], [QA]))
    assert people(found) == [("cc", "qa")]


def test_each_tester_gets_one_private_copy_with_the_data_of_one_recipient():
    """Not as many as there were recipients; who is allowed keeps his own."""
    rules = Rerouting((QA, DEV), ("ann@example.net",))
    found = rules.applied(
        letter(
            [ANN, BOB, CID, Address("eve@x.org")],
            private_copies=True,
            merge_data={a.email: {"name": a.email} for a in (ANN, BOB, CID)},
            merge_headers={BOB.email: {"X-Id": "7"}},
        )
    )
    assert people(found) == [("to", "ann"), ("to", "qa"), ("to", "dev")]
    assert found.merge_data == {
        ANN.email: {"name": ANN.email},
        QA.email: {"name": BOB.email},
        DEV.email: {"name": CID.email},
    }
    assert found.merge_headers == {QA.email: {"X-Id": "7"}}
    assert found.headers == ()
    alone = Rerouting((QA, DEV)).applied(letter([BOB], private_copies=True, merge_data={}))
    assert people(alone) == [("to", "qa"), ("to", "dev")]
    assert alone.headers == (("X-Original-To", BOB.email),)


def test_a_header_of_that_name_gives_way_and_a_long_list_is_cut():
    """The field stays one that every server takes."""
    many = [Address(f"somebody-{number}@example.net") for number in range(1000)]
    found = Rerouting((QA,)).applied(letter(many, headers=(("x-original-to", "y"), ("X-A", "1"))))
    assert [name for name, _ in found.headers] == ["X-A", "X-Original-To"]
    value = dict(found.headers)["X-Original-To"]
    assert value.startswith("somebody-0@example.net, somebody-1@")
    assert value.endswith("more")
    assert len(value) < MAX_ORIGINAL + 20
    assert len(value.split(",")) + int(value.split()[-2]) == 1000


def test_without_anybody_to_stand_in_the_mail_is_refused():
    """In the caller, by the field and the address, and with what to set."""
    rules = Rerouting(allowed=("*@example.net",))
    with pytest.raises(MessageError, match=r"cid@example.org \(and 1 more\) may not") as caught:
        rules.applied(letter([ANN], [CID], [Address("eve@x.org")]))
    assert caught.value.field == "cc"
    assert "DEFERRED_MAIL_OVERRIDE_RECIPIENTS" in str(caught.value)


@pytest.mark.parametrize(
    ("written", "fits", "fits_not"),
    [
        ("ann@example.net", ["ann@example.net", "ANN@example.NET"], ["xann@example.net"]),
        ("example.net", ["a@example.net"], ["a@sub.example.net", "a@notexample.net", "a@x.org"]),
        ("@example.net", ["a@example.net"], ["a@example.net.evil.org"]),
        ("*.example.net", ["a@b.example.net", "a@c.b.example.net"], ["a@example.net"]),
        ("qa-*@example.net", ["qa-1@example.net"], ["qa-1@x.org", "ann@example.net"]),
        ("*@example.net", ["a@example.net"], ["a@b.example.net"]),
        ("a.b@example.net", ["a.b@example.net"], ["axb@example.net"]),
        ("qa@example.*", ["qa@example.org"], ["qa@x.org"]),
    ],
)
def test_patterns(written, fits, fits_not):
    """A star is any text within its half; a dot is a dot."""
    rules = Rerouting(allowed=(pattern_of(written) or "",))
    assert all(map(rules.permits, fits))
    assert not any(map(rules.permits, fits_not))


@pytest.mark.parametrize("text", ["*", "*@*", "@", "", "a@", "ann@*", "*.*", "a b@x.com", "a@b@x"])
def test_what_is_no_pattern_or_fits_everybody(text):
    """Whoever writes it has misunderstood something, and would find out too late."""
    assert pattern_of(text) is None


def test_the_log_has_whom_it_was_for():
    """And who gets it in their place."""
    before = letter([ANN, QA], [BOB])
    told = changes_in_words(before, Rerouting((QA, DEV)).applied(before))
    assert told == ("ann@example.net, bob@example.net", "dev@example.com")
    alone = letter([ANN, QA])
    assert changes_in_words(alone, Rerouting((QA,)).applied(alone))[1] == "those who get it anyway"
