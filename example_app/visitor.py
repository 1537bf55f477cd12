"""Somebody who signs up: loads the form, fills it in and sends it, as a browser would."""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import dataclass
from urllib.parse import urlencode

PASSWORD = "only for the demo"


@dataclass(frozen=True)
class SignUp:
    """One try to sign up and what came back."""

    email: str
    #: HTTP status; ``None`` if the connection broke before an answer was complete.
    status: int | None
    #: Unix time at which the form was sent, and at which the answer was complete.
    sent_at: float
    answered_at: float

    @property
    def answered(self) -> bool:
        """The site said yes: it leads on (303) to the page of somebody signed in."""
        return self.status == 303

    @property
    def seconds(self) -> float:
        """How long the answer took."""
        return self.answered_at - self.sent_at


def sign_up(port: int, name: str, email: str, *, timeout: float = 30) -> SignUp:
    """Sign up at the site on 127.0.0.1. A broken connection is an answer too, not an error."""
    sent_at = time.time()
    try:
        cookie, csrf = load_form(port, timeout)
        form = urlencode({"name": name, "email": email, "password": PASSWORD, "csrf": csrf})
        sent_at = time.time()
        status = send_form(port, form, cookie, timeout)
    except (OSError, http.client.HTTPException):
        status = None
    return SignUp(email, status, sent_at, time.time())


def load_form(port: int, timeout: float) -> tuple[str, str]:
    """The cookie and the hidden field that the form comes with."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/sign-up")
        response = connection.getresponse()
        page = response.read().decode()
        cookie = (response.getheader("Set-Cookie") or "").partition(";")[0]
        token = re.search(r'name="csrf" value="([^"]+)"', page)
        if not token:
            raise http.client.HTTPException(f"no form, but status {response.status}")
        return cookie, token[1]
    finally:
        connection.close()


def send_form(port: int, form: str, cookie: str, timeout: float) -> int:
    """Send the form and read the whole answer; its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
        connection.request("POST", "/sign-up", form, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()
