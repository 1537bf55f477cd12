"""The Django site that stands beside: a view that sends nothing, and one with django-post_office.

python -m tests.benchmarks.django_site migrate | fill NUMBER | send
"""

from __future__ import annotations

import os
import sys

import django
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.benchmarks.measuring import MAIL
from tests.benchmarks.task import SENDER


def _done() -> HttpResponse:
    # Otherwise a middleware sees to the length, or the answer comes in chunks.
    return HttpResponse("done", headers={"Content-Length": "4"})


def _nothing(_request: HttpRequest) -> HttpResponse:
    return _done()


def _mail(_request: HttpRequest) -> HttpResponse:
    from post_office import mail

    mail.send(**_fields())
    return _done()


def _fields() -> dict[str, object]:
    return {
        "recipients": MAIL["recipients"],
        "sender": SENDER,
        "subject": MAIL["subject"],
        "message": MAIL["body"],
        "html_message": MAIL["html"],
    }


urlpatterns = [
    path("", _mail if os.environ.get("BENCH_VIEW") == "post_office" else _nothing),
    path("plain", _nothing),
]


def create_app():  # type: ignore[no-untyped-def]  # Django has no types
    """The application for gunicorn, with its tables made."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.django_settings"
    return get_wsgi_application()


def main(work: str, number: str = "0") -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.django_settings"
    django.setup()
    if work == "migrate":
        call_command("migrate", verbosity=0)
    elif work == "fill":
        from post_office import mail

        mail.send_many([_fields() for _ in range(int(number))])
    else:
        call_command("send_queued_mail", "--processes", "2", "--log-level", "0", verbosity=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
