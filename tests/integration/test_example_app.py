"""The example site, page by page, as its visitors use it."""

from __future__ import annotations

import io
import re
import smtplib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app, maildrop
from example_app.app import mail
from example_app.database import db
from example_app.slow_smtp import Phase, SlowSmtpServer
from flask_deferred_mail.errors import StoreError
from tests.support.waiting import wait_until

PASSWORD = "a long enough password"


@contextmanager
def open_site(folder: Path, **settings: str) -> Iterator[Flask]:
    """The site with a folder of its own; its mails are recorded and none is sent."""
    app = create_app(
        {"TESTING": True, "EXAMPLE_PUBLIC_URL": "http://tally.example", **settings},
        instance_path=str(folder / "instance"),
    )
    try:
        yield app
    finally:
        with app.app_context():
            mail.for_app().runtime.close()
            db.engine.dispose()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    """The site as most tests have it."""
    with open_site(tmp_path) as app:
        yield app


@pytest.fixture
def visitor(app: Flask) -> FlaskClient:
    """Somebody's browser."""
    return app.test_client()


@pytest.fixture
def outbox(app: Flask) -> list[Any]:
    """The messages that the site recorded."""
    with app.app_context():
        return mail.outbox


def send_form(visitor: FlaskClient, path: str, page: str | None = None, **fields: Any) -> Any:
    """Load the page that holds the form, then send the form with its token."""
    token = re.search(r'name="csrf" value="([^"]+)"', visitor.get(page or path).text)
    assert token, "the page has no form"
    return visitor.post(path, data={"csrf": token[1], **fields})


def sign_up(visitor: FlaskClient, email: str = "ann@people.example", name: str = "Ann") -> Any:
    """Sign up."""
    return send_form(visitor, "/sign-up", name=name, email=email, password=PASSWORD)


def sign_in(visitor: FlaskClient, password: str) -> Any:
    """Sign in as Ann."""
    return send_form(visitor, "/sign-in", email="ann@people.example", password=password)


# -- sign-up ----------------------------------------------------------------------------------


def test_signing_up_makes_an_account_and_mails_a_welcome(visitor, outbox):
    """Whoever signs up is signed in, and one welcome mail with text and HTML is on its way."""
    answer = sign_up(visitor)
    assert answer.status_code == 303
    assert "ann@people.example" in visitor.get("/").text
    [welcome] = outbox
    assert welcome.subject == "Welcome, Ann"
    assert "http://tally.example" in welcome.body
    assert "Hello Ann" in welcome.html


def test_a_name_is_escaped_in_html_and_left_alone_in_text(visitor, outbox):
    """Markup in a name is shown as it was typed, in the page and in both parts of the mail."""
    sign_up(visitor, name="<b>Ann</b>")
    assert "<b>Ann" not in visitor.get("/").text
    [welcome] = outbox
    assert "&lt;b&gt;Ann" in welcome.html
    assert "<b>Ann</b>" in welcome.body


def test_an_address_that_cannot_be_mailed_makes_no_account(visitor, outbox):
    """The visitor reads what is wrong with the address, and may try again with a right one."""
    answer = sign_up(visitor, email="ann@@people")
    assert answer.status_code == 400
    assert "We cannot mail to" in answer.text
    assert outbox == []
    assert sign_up(visitor, email="ann@people.example").status_code == 303


def test_an_address_can_be_used_once_in_whatever_case(visitor, app, outbox):
    """A second account with the same address is refused, and mails nobody."""
    sign_up(visitor)
    answer = sign_up(app.test_client(), email="ANN@people.example")
    assert answer.status_code == 400
    assert "already" in answer.text
    assert len(outbox) == 1


def test_a_mail_that_cannot_be_recorded_takes_the_account_back(visitor, app, monkeypatch):
    """If the row cannot be written the visitor reads so, and can sign up with it later."""
    with monkeypatch.context() as broken:

        def refuse(**_fields: Any) -> None:
            raise StoreError("disk full")

        broken.setattr("example_app.views.send_after_response", refuse)
        answer = sign_up(visitor)
        assert answer.status_code == 503
        assert "Nothing was changed" in answer.text
        assert "disk full" not in answer.text
    assert sign_up(visitor).status_code == 303


def test_a_name_with_a_line_break_is_refused(visitor, outbox):
    """A name goes into the subject, where a line break would be a header of its own."""
    answer = sign_up(visitor, name="Ann\r\nBcc: eve@people.example")
    assert answer.status_code == 400
    assert outbox == []


def test_a_form_without_its_token_is_refused(visitor, outbox):
    """Another site's form, which cannot know the token, changes nothing."""
    answer = visitor.post(
        "/sign-up", data={"name": "Ann", "email": "ann@people.example", "password": PASSWORD}
    )
    assert answer.status_code == 400
    assert "out of date" in answer.text
    assert outbox == []


def test_passwords_are_stored_hashed(visitor, app):
    """The files of the database do not hold what was typed."""
    sign_up(visitor)
    kept = b"".join(file.read_bytes() for file in Path(app.instance_path).glob("tally.sqlite3*"))
    assert b"ann@people.example" in kept
    assert PASSWORD.encode() not in kept


# -- the password reset -----------------------------------------------------------------------


def reset_link(visitor: FlaskClient, outbox: list[Any]) -> str:
    """Ask for a reset; the path of the link that was mailed."""
    send_form(visitor, "/reset", email="ann@people.example")
    link = re.search(r"http://tally\.example(/reset/\S+)", outbox[-1].body)
    assert link, outbox[-1].body
    return link[1]


def test_the_link_sets_a_new_password_once(visitor, app, outbox):
    """The mailed link changes the password, after which neither link nor old password work."""
    sign_up(visitor)
    stranger = app.test_client()
    link = reset_link(stranger, outbox)
    assert outbox[-1].recipients == ["ann@people.example"]
    assert send_form(stranger, link, password="another long password").status_code == 303
    assert stranger.get(link).status_code == 410
    assert sign_in(app.test_client(), PASSWORD).status_code == 400
    assert sign_in(app.test_client(), "another long password").status_code == 303


def test_a_new_password_ends_the_sessions_of_before(visitor, app, outbox):
    """Whoever was signed in with the old password no longer is."""
    sign_up(visitor)
    other = app.test_client()
    send_form(other, reset_link(other, outbox), password="another long password")
    assert "Sign in" in visitor.get("/").text


def test_a_reset_for_nobody_looks_the_same_and_mails_nobody(visitor, outbox):
    """The answer does not tell whether there is such an account."""
    known = sign_up(visitor) and send_form(visitor, "/reset", email="ann@people.example")
    unknown = send_form(visitor, "/reset", email="nobody@people.example")
    assert (known.status_code, known.location) == (unknown.status_code, unknown.location)
    assert [message.recipients for message in outbox] == [["ann@people.example"]] * 2


def test_the_link_does_not_follow_the_host_header(visitor, outbox):
    """Who asks for a reset cannot choose where the mailed link leads."""
    sign_up(visitor)
    evil = {"base_url": "http://evil.example"}
    token = re.search(r'name="csrf" value="([^"]+)"', visitor.get("/reset", **evil).text)
    assert token
    form = {"csrf": token[1], "email": "ann@people.example"}
    assert visitor.post("/reset", data=form, **evil).status_code == 303
    assert "http://tally.example/reset/" in outbox[-1].body
    assert "evil.example" not in outbox[-1].body


def test_a_forged_or_old_link_says_what_to_do(visitor, app, outbox):
    """A wrong token and one past its hour get the same page."""
    sign_up(visitor)
    link = reset_link(visitor, outbox)
    assert visitor.get(link[:-2]).status_code == 410
    app.config["EXAMPLE_RESET_SECONDS"] = -1
    answer = visitor.get(link)
    assert answer.status_code == 410
    assert "Ask for a new one" in answer.text


def test_a_new_password_is_told_and_holds_even_if_it_cannot_be(visitor, outbox, monkeypatch):
    """Committed first, mailed afterwards: what the database says to the mail changes nothing."""
    sign_up(visitor)
    send_form(visitor, reset_link(visitor, outbox), password="another long password")
    assert outbox[-1].subject == "Your password was changed"
    link = reset_link(visitor, outbox)
    with monkeypatch.context() as broken:

        def refuse(**_fields: Any) -> None:
            raise StoreError("disk full")

        broken.setattr("example_app.views.send_after_response", refuse)
        assert send_form(visitor, link, password="a third long password").status_code == 303
    assert sign_in(visitor, "a third long password").status_code == 303


def test_of_two_who_use_a_link_at_once_one_is_told(visitor, outbox, monkeypatch):
    """Whoever read the account before the other's commit does not overwrite the new password."""
    sign_up(visitor)
    link = reset_link(visitor, outbox)
    token = re.search(r'name="csrf" value="([^"]+)"', visitor.get(link).text)
    assert token
    with monkeypatch.context() as late:
        late.setattr("example_app.views.set_password", lambda *_: False)
        answer = visitor.post(link, data={"csrf": token[1], "password": "another long password"})
        assert answer.status_code == 410
    assert sign_in(visitor, PASSWORD).status_code == 303


# -- invitations ------------------------------------------------------------------------------


def invite(visitor: FlaskClient, *emails: str) -> Any:
    """Invite these addresses."""
    return send_form(visitor, "/invitations", page="/", emails=" ".join(emails))


def test_whoever_was_invited_before_is_left_out_alone(visitor, outbox):
    """One address that is known and one that is none take only their own mail back."""
    sign_up(visitor)
    assert invite(visitor, "bob@people.example").status_code == 303
    invite(visitor, "cem@people.example", "BOB@people.example", "no@@address", "dea@people.example")
    page = visitor.get("/").text
    assert "Invited: 2 of 4." in page
    assert "BOB@people.example, no@@address" in page
    assert [message.recipients[0][:3] for message in outbox[1:]] == ["bob", "cem", "dea"]
    assert outbox[1].subject == "Ann invites you to Tally"


def test_only_a_few_can_be_invited_at_once_and_by_nobody_unknown(visitor, app, outbox):
    """Too many addresses, none, or no account: nobody is mailed."""
    sign_up(visitor)
    assert invite(visitor, *(f"p{n}@people.example" for n in range(6))).status_code == 400
    assert invite(visitor, " ").status_code == 400
    stranger = app.test_client()
    answer = send_form(stranger, "/invitations", page="/sign-up", emails="eve@people.example")
    assert answer.status_code == 403
    assert len(outbox) == 1


# -- the upload -------------------------------------------------------------------------------


def upload(visitor: FlaskClient, content: bytes, name: str = "sales.csv") -> Any:
    """Upload a table."""
    return send_form(visitor, "/tables", page="/", table=(io.BytesIO(content), name))


def test_the_summary_of_a_table_is_mailed_as_an_attachment(visitor, outbox):
    """The report goes to the account's own address, with its figures attached as CSV."""
    sign_up(visitor)
    answer = upload(visitor, b"city,price\nParis,2\nRome,3.5\n,1\n")
    assert answer.status_code == 303
    report = outbox[-1]
    assert report.recipients == ["ann@people.example"]
    assert report.subject == "Summary of sales.csv"
    [attachment] = report.attachments
    assert attachment.filename == "summary.csv"
    assert attachment.data.split() == [
        b"column,filled,distinct,sum",
        b"city,2,2,",
        b"price,3,3,6.5",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe\x00", "UTF-8"), (b"", "name the columns"), (b"a," * 200, "columns")],
)
def test_a_file_that_is_no_table_is_explained(visitor, outbox, content, words):
    """The visitor reads what is wrong with the file; nothing is mailed."""
    sign_up(visitor)
    answer = upload(visitor, content)
    assert answer.status_code == 400
    assert words in answer.text
    assert len(outbox) == 1


def test_a_file_that_is_too_large_is_refused(visitor, app):
    """Past the limit the answer is 413, in the site's own dress."""
    sign_up(visitor)
    app.config["MAX_CONTENT_LENGTH"] = 2000
    answer = upload(visitor, b"a,b\n" * 1000)
    assert answer.status_code == 413
    assert "Back to the start" in answer.text


def test_column_names_are_no_formulas_in_the_report(visitor, outbox):
    """A column called like a formula reaches the spreadsheet as text."""
    sign_up(visitor)
    upload(visitor, b'"=HYPERLINK(1)",b\n1,2\n')
    assert b"\n'=HYPERLINK" in outbox[-1].attachments[0].data


def test_only_somebody_signed_in_can_have_a_table_mailed(visitor, app, outbox):
    """There is no way to have the site mail a stranger's file to an address of one's choice."""
    visitor.get("/sign-up")
    answer = send_form(visitor, "/tables", page="/sign-up", table=(io.BytesIO(b"a\n1\n"), "a.csv"))
    assert answer.status_code == 403
    assert outbox == []


# -- the local inbox --------------------------------------------------------------------------

HOSTILE = (
    b"From: Eve <eve@people.example>\r\nTo: ann@people.example\r\n"
    b"Subject: <script>alert(1)</script>\r\nMessage-ID: <1@people.example>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\n\r\n<img src=x onerror=alert(2)>\r\n"
    b"http://tally.example/reset/abc http://evil.example/\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<script>alert(3)</script>\r\n--b--\r\n"
)


@pytest.fixture
def inbox_folder(tmp_path: Path) -> Path:
    """Where a local mail server keeps what it took."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def reader(tmp_path: Path, inbox_folder: Path) -> Iterator[FlaskClient]:
    """A browser at a site that shows the local inbox."""
    with open_site(tmp_path, EXAMPLE_INBOX=str(inbox_folder)) as app:
        yield app.test_client()


def test_there_is_no_inbox_page_unless_it_is_asked_for(visitor):
    """A site that names no folder has no such page."""
    assert visitor.get("/inbox/").status_code == 404


def test_the_inbox_escapes_what_a_mail_says(reader, inbox_folder):
    """Markup in a subject or a text is shown, not obeyed; only our own links can be clicked."""
    taken = maildrop.keep(inbox_folder, "eve@people.example", ["ann@people.example"], HOSTILE)
    listing, page = reader.get("/inbox/").text, reader.get(f"/inbox/{taken.name}").text
    for text in (listing, page):
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)" in text
    assert "<img" not in page
    assert 'href="http://tally.example/reset/abc"' in page
    assert 'href="http://evil.example' not in page
    assert "<iframe sandbox title" in page


def test_the_html_of_a_mail_may_run_and_load_nothing(reader, inbox_folder):
    """The HTML has an address of its own, whose policy holds even without the frame."""
    taken = maildrop.keep(inbox_folder, "eve@people.example", ["ann@people.example"], HOSTILE)
    answer = reader.get(f"/inbox/{taken.name}/html")
    assert "alert(3)" in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["..%2Finstance%2Fsecret_key", "1-1", "x", "%00"])
def test_a_mail_that_is_not_there_is_not_found(reader, name):
    """Names from the address line lead nowhere but to mails of the folder."""
    assert reader.get(f"/inbox/{name}").status_code == 404


@pytest.mark.parametrize("data", [b"", b"\xff\x00\r\n\r\n\xff", b"Subject: =?x?b?!?=\r\n\r\nhi"])
def test_a_broken_mail_is_shown_as_far_as_it_goes(reader, inbox_folder, data):
    """No mail, however broken, breaks the page."""
    taken = maildrop.keep(inbox_folder, "", ["ann@people.example"], data)
    assert reader.get("/inbox/").status_code == 200
    assert reader.get(f"/inbox/{taken.name}").status_code == 200


# -- the slow mail server ---------------------------------------------------------------------


@pytest.fixture
def slow_server(inbox_folder: Path) -> Iterator[SlowSmtpServer]:
    """The demo's mail server, in less of a mood to dawdle."""
    with SlowSmtpServer(inbox_folder, delay=0.02) as server:
        yield server


def test_the_mail_server_keeps_what_it_takes(slow_server):
    """Envelope, Message-ID and bytes are kept; a stuffed dot is taken off again."""
    with smtplib.SMTP("127.0.0.1", slow_server.port, timeout=10) as client:
        client.sendmail(
            "a@b.example", ["c@d.example"], b"Message-ID: <1@b.example>\r\n\r\n.dot\r\n"
        )
    [taken] = slow_server.deliveries()
    assert (taken.envelope_sender, taken.recipients) == ("a@b.example", ["c@d.example"])
    assert taken.message_id == "<1@b.example>"
    assert maildrop.content(slow_server.folder, taken).endswith(b"\r\n\r\n.dot\r\n")
    wait_until(lambda: not slow_server.in_flight())
    assert slow_server.cuts == []


def test_the_mail_server_notes_where_a_client_vanished(slow_server):
    """A client that dies after the final dot is known to have handed over its mail."""
    client = smtplib.SMTP("127.0.0.1", slow_server.port, timeout=10)
    client.ehlo("client.example")
    client.mail("a@b.example")
    client.rcpt("c@d.example")
    client.docmd("DATA")
    slow_server.delay = 30
    client.send(b"Message-ID: <1@b.example>\r\n\r\nhi\r\n.\r\n")
    wait_until(lambda: slow_server.deliveries())
    assert isinstance(client.sock, socket.socket)
    client.close()
    wait_until(lambda: slow_server.cuts)
    assert [cut.phase for cut in slow_server.cuts] == [Phase.TAKEN]


def test_the_mail_server_answers_nonsense_and_goes_on(slow_server):
    """Commands out of order or unknown get an error reply, and the conversation continues."""
    with smtplib.SMTP("127.0.0.1", slow_server.port, timeout=10) as client:
        assert client.docmd("RCPT", "TO:<c@d.example>")[0] == 503
        assert client.docmd("DATA")[0] == 503
        assert client.docmd("MAIL", "nothing")[0] == 501
        assert client.docmd("__init__")[0] == 502
        assert client.docmd("NOOP")[0] == 250
