"""From the entry of a webhook to its receiver, or to what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import cast

from ..webhook_spec import WebhookSpec
from .receiver import Receiver

#: Scheme of a provider -> the name of its class, in a module of the scheme's name.
RECEIVERS = {
    "sendcloud": "Sendcloud",
    "mailgun": "Mailgun",
    "ses": "Ses",
    "postmark": "Postmark",
    "sendgrid": "Sendgrid",
    "resend": "Resend",
    "brevo": "Brevo",
}


def build(provider: str, spec: WebhookSpec) -> Receiver:
    """The receiver of that provider. Connects to nothing.

    :raises ValueError: a field cannot be what it says.
    """
    return _class_of(provider)(spec)


def faults_of(spec: WebhookSpec, scheme: str | None) -> Iterator[str]:
    """What is wrong with an entry, one sentence each, without a secret.

    ``scheme`` is that of the transport of the same name, if there is one.
    """
    provider = spec.provider or scheme
    if provider is None:
        yield "no transport has this name, so it needs a 'provider'"
        return
    if provider not in RECEIVERS:
        word = f"{provider!r}" if spec.provider is None else "its provider"
        yield f"{word} has no webhooks; there are {', '.join(RECEIVERS)} (name one as 'provider')"
        return
    receiver = _class_of(provider)
    if odd := sorted(spec.given - receiver.fields):
        yield f"{provider} has no use for {', '.join(map(repr, odd))}"
    elif not any(needed <= spec.given for needed in receiver.needs):
        ways = [" and ".join(map(repr, sorted(needed))) for needed in receiver.needs]
        yield f"{provider} needs {', or '.join(ways)}: what is not proven is not taken"
    else:
        try:
            receiver(spec)
        except ValueError as error:
            yield str(error)


def _class_of(provider: str) -> type[Receiver]:
    module = import_module(f".{provider}", __package__)
    return cast("type[Receiver]", getattr(module, RECEIVERS[provider]))
