"""Our requests to Mailgun and Postmark beside those of the vendors' own Python clients.

The same message goes to the same local server, once by us and once by the client. The path, what
logs in and the whole body are the same; what differs is named here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postmark.sync
import pytest
from mailgun.builders import MailgunMessageBuilder
from mailgun.client import Client

from flask_deferred_mail.transports.provider import ProviderTransport, Stamp
from tests.support.http_provider import HttpProvider, Recorded, Reply
from tests.support.json_providers import built, fixture
from tests.support.transport_calls import a_letter, letter_from_neutral, send

ANN, BOB = "ann@example.net", "bob@example.net"


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the letter without our own reference and Message-ID: clients have no such thing."""
    monkeypatch.setattr(Stamp, "of", classmethod(lambda cls, call: cls()))


def pair(provider: HttpProvider) -> tuple[Recorded, Recorded]:
    """What arrived: ours, then the client's."""
    ours, theirs = provider.requests
    assert ours.method == theirs.method
    assert ours.path == theirs.path
    return ours, theirs


# Mailgun


@pytest.fixture
def mailgun(provider: HttpProvider) -> ProviderTransport:
    provider.default = Reply({"id": "<1@mg.example.com>", "message": "Queued. Thank you."})
    return built(f"mailgun://key-test@mg.example.com?endpoint={provider.url}")


@pytest.fixture
def client(provider: HttpProvider) -> Iterator[Client]:
    """Mailgun's own client, pointed at the local server."""
    with Client(auth=("api", "key-test"), api_url=provider.url) as client:
        yield client


def by_builder(client: Client, builder: MailgunMessageBuilder) -> None:
    """Send what the client's own builder made."""
    data, files = builder.build()
    # It adds a header field with a hash of its own to the mail, which no page of Mailgun explains.
    del data["h:X-Idempotency-Key"]
    client.messages.create(data=data, files=files, domain="mg.example.com")


def read_form(request: Recorded) -> dict[str, Any]:
    """The form, with lists as Mailgun reads them and JSON as what it means.

    The client joins addresses with commas, we repeat the field; both are documented.
    """
    found: dict[str, Any] = {}
    for name, value in request.fields:
        if name in ("to", "cc", "bcc"):
            found[name] = [*found.get(name, []), *value.split(",")]
        else:
            assert name not in found
            found[name] = (
                json.loads(value) if name in ("recipient-variables", "t:variables") else value
            )
    return found


def assert_same_form(provider: HttpProvider) -> None:
    ours, theirs = pair(provider)
    assert read_form(ours) == read_form(theirs)
    assert ours.files == theirs.files
    assert ours.body_kind == theirs.body_kind
    assert ours.headers["authorization"] == theirs.headers["authorization"]


@pytest.mark.usefixtures("plainly")
def test_mailgun_gets_from_us_what_the_client_sends(provider, mailgun, client, tmp_path):
    """Path, login, every field and file. The client's builder knows one tag."""
    given = fixture("mailgun", "request_full")["neutral"]
    people = {"to": [{"email": ANN}, {"email": BOB}], "tags": ["receipt"]}
    letter = letter_from_neutral({**given, **people})
    send(mailgun, letter)
    builder = MailgunMessageBuilder("示例商店 Shop <orders@example.com>")
    for kind in ("to", "cc", "bcc"):
        for address in letter.of_kind(kind):
            builder.add_recipient(address.email, kind)
    builder.set_subject(letter.subject).set_text(letter.text).set_html(letter.html)
    builder.add_custom_header("Reply-To", "Help <help@example.com>")
    builder.add_custom_header("X-Order-Id", "1001").add_option("tag", value="receipt")
    builder.add_custom_variable("job_id", 42).add_custom_variable("user_id", 7)
    invoice, logo = letter.parts
    builder.attach_file(written(tmp_path, invoice))
    builder.attach_inline(written(tmp_path, logo), cid="logo")
    by_builder(client, builder)
    assert_same_form(provider)


def written(folder: Path, part: Any) -> Path:
    """The file on a disk, where the client wants it."""
    path: Path = folder / part.filename
    path.write_bytes(part.data)
    return path


@pytest.mark.usefixtures("plainly")
def test_mailgun_gets_the_private_copies_that_the_client_sends(provider, mailgun, client):
    """A form without files; the values of each recipient as JSON."""
    values = {ANN: {"name": "Ann"}, BOB: {"name": "Bob"}}
    send(mailgun, a_letter(ANN, BOB, private_copies=True, merge_data=values, track_opens=False))
    builder = MailgunMessageBuilder("orders@example.com").add_recipient(ANN).add_recipient(BOB)
    builder.set_subject("Hello").set_text("Hi Ann\n").set_recipient_variables(values)
    builder.add_option("tracking-opens", value=False)
    by_builder(client, builder)
    assert_same_form(provider)


@pytest.mark.usefixtures("plainly")
def test_mailgun_gets_the_template_that_the_client_sends(provider, mailgun, client):
    """Its values as JSON too."""
    values = {"items": [1, 2]}
    send(mailgun, a_letter(text=None, template_id="receipt", merge_global_data=values))
    builder = MailgunMessageBuilder("orders@example.com").add_recipient(ANN).set_subject("Hello")
    builder.set_template("receipt").set_template_variables(values)
    by_builder(client, builder)
    assert_same_form(provider)


def test_doctor_asks_for_the_domain_as_the_client_does(provider, mailgun, client):
    """A call that needs the key and mails nothing."""
    provider.default = Reply({"domain": {"state": "active"}})
    assert [step.ok for step in mailgun.probe()] == [True, True]
    client.domains.get(domain_name="mg.example.com")
    ours, theirs = pair(provider)
    assert (ours.method, ours.body) == ("GET", b"")
    assert ours.headers["authorization"] == theirs.headers["authorization"]


# Postmark


@pytest.fixture
def postmark_client(provider: HttpProvider) -> Iterator[Any]:
    """Postmark's own client, pointed at the local server, without retries."""
    with postmark.sync.ServerClient("token", retries=0, base_url=provider.url) as client:
        yield client


TAKEN = {"To": ANN, "SubmittedAt": "2026-11-21T12:00:00Z", "MessageID": "m", "ErrorCode": 0}
TAKEN |= {"Message": "OK"}


def ours_for_postmark(provider: HttpProvider, answer: Any) -> ProviderTransport:
    provider.default = Reply(json.dumps(answer), headers={"Content-Type": "application/json"})
    return built(f"postmark://token@default?endpoint={provider.url}")


def assert_same_json(provider: HttpProvider) -> None:
    """Token and body; the client sends empty lists and mappings where we leave them out."""
    ours, theirs = pair(provider)
    assert json.loads(ours.body) == without_empty(json.loads(theirs.body))
    for name in ("x-postmark-server-token", "accept", "content-type"):
        assert ours.headers[name] == theirs.headers[name], name


def without_empty(value: Any) -> Any:
    if isinstance(value, list):
        return [without_empty(one) for one in value]
    if isinstance(value, dict):
        return {name: without_empty(one) for name, one in value.items() if one not in ([], {})}
    return value


@pytest.mark.usefixtures("plainly")
def test_postmark_gets_from_us_what_the_client_sends(provider, postmark_client):
    """Path, token and body of a mail with everything."""
    given = fixture("postmark", "request_full")
    transport = ours_for_postmark(provider, TAKEN)
    letter = transport.fit(letter_from_neutral({**given["neutral"]}))
    send(transport, letter)
    postmark_client.outbound.send(given["request"]["json"])
    assert_same_json(provider)


@pytest.mark.usefixtures("plainly")
def test_postmark_gets_the_batch_that_the_client_sends(provider, postmark_client):
    """Private copies, each a mail; the switches of tracking with them."""
    transport = ours_for_postmark(provider, [TAKEN, TAKEN])
    send(transport, a_letter(ANN, BOB, private_copies=True, track_opens=True, track_clicks=False))
    mail = {"sender": "orders@example.com", "subject": "Hello", "text_body": "Hi Ann\n"}
    mail |= {"track_opens": True, "track_links": "None", "message_stream": "outbound"}
    postmark_client.outbound.send_batch([{**mail, "to": who} for who in (ANN, BOB)])
    assert_same_json(provider)


@pytest.mark.usefixtures("plainly")
def test_postmark_gets_the_templates_that_the_client_sends(provider, postmark_client):
    """The object with ``Messages``, which differs from a batch without a template."""
    given = fixture("postmark", "request_batch")
    transport = ours_for_postmark(provider, [TAKEN, TAKEN])
    send(transport, transport.fit(letter_from_neutral(given["neutral"])))
    postmark_client.outbound.send_batch_with_template(given["request"]["json"]["Messages"])
    assert_same_json(provider)


@pytest.mark.usefixtures("plainly")
def test_postmark_gets_the_one_template_that_the_client_sends(provider, postmark_client):
    """With a number instead of an alias."""
    transport = ours_for_postmark(provider, TAKEN)
    values = {"items": [1]}
    send(transport, a_letter(text=None, subject="", template_id="17", merge_global_data=values))
    mail = {"template_id": 17, "template_model": values, "sender": "orders@example.com", "to": ANN}
    postmark_client.outbound.send_with_template({**mail, "message_stream": "outbound"})
    assert_same_json(provider)


def test_doctor_asks_for_the_server_as_the_client_does(provider, postmark_client):
    """A call that needs the token and mails nothing."""
    transport = ours_for_postmark(provider, {"Name": "Shop"})
    assert [step.ok for step in transport.probe()] == [True, True]
    with pytest.raises(Exception, match="Server"):  # it wants to know more of the server
        postmark_client.server.get()
    ours, theirs = pair(provider)
    assert (ours.method, ours.body) == ("GET", b"")
    assert ours.headers["x-postmark-server-token"] == theirs.headers["x-postmark-server-token"]
