"""Keys for AWS: from the URL, or from the chain that botocore walks."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_deferred_mail.errors import ConfigurationError
from flask_deferred_mail.transports import aws_keys
from flask_deferred_mail.transports.aws_keys import ChainKeys, GivenKeys, KeysMissing
from tests.support.json_providers import built
from tests.support.transport_calls import fates, send


@pytest.fixture(autouse=True)
def an_empty_chain(monkeypatch, tmp_path):
    """No keys in the environment, no files, and no metadata service is asked."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def in_environment(monkeypatch, access: str, token: str | None = None) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"secret of {access}")
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)


def test_the_chain_finds_keys_in_the_environment(monkeypatch):
    """With the token of temporary ones, which is blotted out like the secret."""
    in_environment(monkeypatch, "ASIA1", "token 1")
    keys = ChainKeys()
    assert keys.secrets() == ()
    found = keys.current()
    assert (found.access_key, found.secret_key, found.token) == (
        "ASIA1",
        "secret of ASIA1",
        "token 1",
    )
    assert keys.secrets() == ("secret of ASIA1", "token 1")


def test_the_chain_finds_keys_in_the_shared_file(tmp_path: Path):
    """The file that every tool of AWS reads."""
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = AKIA2\naws_secret_access_key = hush\n"
    )
    assert ChainKeys().current().access_key == "AKIA2"


def test_renewing_looks_again(monkeypatch):
    """Only other keys than the expired ones are worth another try."""
    in_environment(monkeypatch, "ASIA1", "token 1")
    keys = ChainKeys()
    old = keys.current()
    assert not keys.renew(old)
    in_environment(monkeypatch, "ASIA2", "token 2")
    assert keys.current() == old
    assert keys.renew(old)
    assert keys.current().token == "token 2"


def test_the_keys_of_a_url_cannot_be_renewed():
    """There are no others."""
    keys = GivenKeys("AKIA", "hush")
    assert not keys.renew(keys.current())


def test_an_empty_chain_rests_the_transport():
    """No mail pays for it, nobody is asked to hand over, and doctor says what is missing."""
    ses = built("ses://us-east-1?endpoint=http://127.0.0.1:1")
    asked: list[int] = []
    outcome = send(ses, hand_over=lambda: asked.append(1))
    assert fates(outcome) == {"ann@example.net": "deferred"}
    assert outcome.fault.kind == "account"
    assert not outcome.costs_attempt
    assert asked == []
    [step] = ses.probe()
    assert (step.name, step.ok) == ("key", False)
    assert "credential chain" in step.detail


def test_a_chain_that_breaks_says_how(monkeypatch):
    """Files, metadata services and STS fail in their own ways; none of them is a crash."""
    monkeypatch.setenv("AWS_PROFILE", "missing-profile")
    with pytest.raises(KeysMissing, match="ProfileNotFound"):
        ChainKeys().current()


def test_without_botocore_the_chain_is_refused_with_advice(monkeypatch):
    """The text names the extra, and the form of the URL that needs none."""
    monkeypatch.setattr(aws_keys, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"flask-deferred-mail\[ses\]"):
        built("ses://us-east-1")
    built("ses://AKIA:hush@us-east-1")


def test_a_token_with_a_line_break_is_not_shown(monkeypatch):
    """The library refuses the header, and would say so with the header in it."""
    in_environment(monkeypatch, "ASIA1", "hush-hush\n")
    ses = built("ses://us-east-1?endpoint=http://127.0.0.1:1")
    outcome = send(ses)
    steps = list(ses.probe())
    assert "line break" in outcome.detail
    assert "hush-hush" not in f"{outcome} {steps}"
