"""The signature of AWS: the worked example, and botocore's own signer beside it."""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping

import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.transports.aws_signing import Credentials, sign
from tests.support.json_providers import fixture

URL = "https://email.us-east-1.amazonaws.com/v2/email/outbound-emails"
NOW = float(calendar.timegm((2026, 11, 21, 12, 0, 0)))
KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
JSON = {"Content-Type": "application/json"}


def both(
    request: requests.Request, keys: Credentials, region: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The headers of the same request as AWS's own library signs it, and as we do then."""
    theirs = AWSRequest(request.method, request.url, dict(request.headers), request.data)
    own = BotoCredentials(keys.access_key, keys.secret_key, keys.token)
    SigV4Auth(own, "ses", region).add_auth(theirs)
    moment = calendar.timegm(time.strptime(theirs.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))
    ours = sign(request, keys, region, "ses", moment)
    return _lower(theirs.headers), _lower(ours.headers)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_the_worked_example_is_signed_as_it_says():
    """Date, scope, signed headers and signature of the fixture, over its exact bytes."""
    expected = fixture("ses", "request_minimal")["request"]
    request = requests.Request("POST", URL, headers=JSON, data=expected["body_exact"].encode())
    signed = sign(request, KEYS, "us-east-1", "ses", NOW)
    assert dict(signed.headers) == expected["headers"]
    assert signed.data == request.data


@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzE//token=="])
@pytest.mark.parametrize(
    "url",
    [
        URL,
        "http://127.0.0.1:8080/v2/email/account",
        "https://proxy.example.com:443/aws/v2/email/account",
        "http://[::1]:8080/v2/email/account",
        "https://email.eu-west-1.amazonaws.com",
    ],
)
def test_botocore_signs_the_same(url, token):
    """Other hosts, ports, paths, and temporary keys whose token is signed too."""
    keys = Credentials("ASIAEXAMPLE", "secret", token)
    theirs, ours = both(requests.Request("GET", url), keys, "eu-west-1")
    assert ours == theirs


@given(st.binary(max_size=200), st.text("abc-1", min_size=1, max_size=10))
def test_botocore_signs_any_body_the_same(body, region):
    """Every byte is covered."""
    request = requests.Request("POST", URL, headers=JSON, data=body)
    theirs, ours = both(request, KEYS, region)
    assert ours == theirs


def test_keys_are_not_shown():
    """Whatever prints them prints the one part that is not secret."""
    assert repr(Credentials("AKID", "hush", "hush-too")) == "Credentials(access_key='AKID')"
