"""From a URL to a transport; and what is said about a URL that means none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from flask_deferred_mail.errors import ConfigurationError
from flask_deferred_mail.transports.registry import build, faults, faults_of


@dataclass
class Spec:
    url: str
    token: Any = None
    dkim: Any = None
    classify: Any = None


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("smtp://user:pass@mail.example.com", "SmtpTransport"),
        ("smtp://127.0.0.1:2525?tls=optional", "SmtpTransport"),
        ("smtps://user:pass@mail.example.com", "SmtpTransport"),
        ("smtp://mail.example.com?local_hostname=web1.example.com", "SmtpTransport"),
        ("smtps://mail.example.com?local_hostname=[IPv6:2001:db8::7]", "SmtpTransport"),
        ("sendcloud://user:key@default", "SendCloudTransport"),
        ("sendcloud://u:k@default?endpoint=http://127.0.0.1:1", "SendCloudTransport"),
        ("aliyun://a:b@cn-hangzhou", "AliyunTransport"),
        ("tencentses://a:b@ap-guangzhou", "TencentSesTransport"),
        ("aliyun+smtp://a%40example.com:b@default", "AliyunSmtpTransport"),
        ("console:", "ConsoleTransport"),
        ("file:///tmp/mail", "FileTransport"),
        ("memory:", "InMemoryTransport"),
        ("null:", "NullTransport"),
    ],
)
def test_each_scheme_makes_its_transport(url, kind):
    """Nothing is wrong with it, and the transport carries the configured name."""
    assert faults(url) == []
    transport = build("bulk", Spec(url))
    assert type(transport).__name__ == kind
    assert transport.name == "bulk"
    transport.close()


def test_the_urls_parts_reach_the_transport(tmp_path):
    """Folder, endpoint and login are what the URL says, percent-decoded."""
    assert str(build("a", Spec(f"file://{tmp_path}/my%20mail")).folder) == f"{tmp_path}/my mail"
    sendcloud = build("a", Spec("sendcloud://us%40er:k%2Fey@default?endpoint=http://127.0.0.1:9"))
    request = sendcloud.probe_request()
    assert request.url == "http://127.0.0.1:9/apiv2/userinfo/get"
    assert request.data == [("apiUser", "us@er"), ("apiKey", "k/ey")]


@pytest.mark.parametrize(
    "url",
    [
        "smtp://ann%40example.com@host?auth=xoauth2",
        "smtps://ann@host?auth=xoauth2",
        "gmail://ann%40example.com@default",
        "m365://ann%40example.com@default",
        "failover(smtp://host smtp://ann@host?auth=xoauth2)",
    ],
)
def test_tokens_go_to_who_logs_in_with_them(url):
    """Whoever does needs them, and nobody else has a use for them."""
    assert faults_of(Spec(url, token=lambda: "t")) == []
    build("default", Spec(url, token=lambda: "t")).close()
    [fault] = faults_of(Spec(url))
    assert "put 'token' beside the URL" in fault


@pytest.mark.parametrize(
    "url",
    ["smtp://host", "smtp://u:p@host", "gmail://ann:app-password@default", "null:"],
)
def test_a_token_that_nobody_uses_is_refused(url):
    """Its owner believes that it is used."""
    build("default", Spec(url)).close()
    [fault] = faults_of(Spec(url, token=lambda: "t"))
    assert "no use for 'token'" in fault


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("stmp://u:hunter2@host", ["unknown scheme stmp", "smtps"]),
        ("hunter2-key:x", ["unknown scheme;"]),
        ("", ["text such as"]),
        (None, ["text such as"]),
        ("smtp://", ["needs a host"]),
        ("smtp://u:hunter2@", ["needs a host"]),
        ("smtp://hunter2@host", ["lacks its password"]),
        ("smtp://:hunter2@host", ["lacks its user"]),
        ("smtp://host?auth=xoauth2", ["lacks its user"]),
        ("smtp://u:hunter2@host?auth=xoauth2", ["takes no password"]),
        ("smtp://u@host?auth=plain", ["'auth' should be xoauth2", "lacks its password"]),
        ("m365://u:hunter2@default", ["takes no password"]),
        ("gmail://u@smtp.gmail.com", ["'default'"]),
        ("smtp://host/path", ["takes no path"]),
        ("smtp://host?tls=maybe", ["'tls' should be required or optional or none"]),
        ("smtps://host?tls=none", ["no option 'tls'"]),
        ("smtp://host?cafile=/no/such/file", ["PEM file"]),
        ("smtp://host?local_hostname=a%20b", ["'local_hostname' should be a host name"]),
        ("smtp://host?local_hostname=a%0D%0AMAIL", ["'local_hostname' should be a host name"]),
        ("smtps://host?local_hostname=a%0A", ["'local_hostname' should be a host name"]),
        ("sendcloud://u:k@default?local_hostname=a", ["no option 'local_hostname'"]),
        ("smtp://host?hunter2=1", ["no option an odd name"]),
        (f"smtp://{'a' * 70}.example", ["cannot be a name"]),
        ("sendcloud://default", ["lacks its API user and API key", "API_USER:API_KEY"]),
        ("sendcloud://user:@default", ["lacks its API key"]),
        ("sendcloud://u:hunter2@elsewhere", ["'default'"]),
        ("sendcloud://u:hunter2@default?region=eu", ["no option 'region'"]),
        ("sendcloud://u:k@default?endpoint=ftp://x", ["'endpoint' should be a URL"]),
        ("sendcloud://u:k@default?endpoint=http://u:hunter2%40x", ["'endpoint' should be a URL"]),
        ("console:x", ["takes no path"]),
        ("memory://u:hunter2@x", ["takes no host", "takes no user"]),
        ("file:", ["absolute folder"]),
        ("file:mail", ["absolute folder"]),
        ("file://mail/x", ["takes no host"]),
        ("smtp://u:hun/ter2@host", ["percent-encode"]),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(url, words):
    """Each fault in one sentence; all of them at once; nothing that could be a password."""
    found = faults(url)
    for word in words:
        assert any(word in fault for fault in found), found
    assert "hunter2" not in str(found)
    assert "ter2" not in str(found)
    with pytest.raises(ConfigurationError) as caught:
        build("bulk", Spec(url))
    assert len(caught.value.faults) == len(found)
    assert all("'bulk'" in fault for fault in caught.value.faults)
    assert "hunter2" not in str(caught.value)


def test_an_adapter_is_imported_when_it_is_chosen():
    """Looking at URLs and building a small transport costs nobody requests and its start-up."""
    code = (
        "import sys\n"
        "from types import SimpleNamespace as S\n"
        "before = 'requests' in sys.modules\n"
        "from flask_deferred_mail.transports.registry import build, faults\n"
        "assert faults('sendcloud://u:k@default') == []\n"
        "build('a', S(url='null:', token=None, dkim=None, classify=None))\n"
        "assert before or 'requests' not in sys.modules\n"
        "assert 'flask_deferred_mail.transports.sendcloud' not in sys.modules\n"
        "build('a', S(url='sendcloud://u:k@default', token=None, dkim=None, classify=None))\n"
        "assert 'flask_deferred_mail.transports.sendcloud' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "url",
    [
        "resend://s3cr3t%0A@default",
        "postmark://%20s3cr3t@default",
        "brevo://s3cr3t%E4%B8%AD@default",
        "ses://AKIA:s3cr3t%0D@eu-west-1",
        "sendcloud://user:s3cr3t%20@default",
    ],
)
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(url):
    """It is named by its kind; the library that refuses the header would show the key."""
    found = faults(url)
    assert len(found) == 1
    assert "holds a blank, a line break" in found[0]
    assert "s3cr3t" not in found[0]
