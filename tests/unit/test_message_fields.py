"""message_fields.py: the keywords that a type checker knows are those that a message takes."""

from __future__ import annotations

import inspect
import typing

from flask_deferred_mail import DeferredMail, send_after_response
from flask_deferred_mail.message import Message
from flask_deferred_mail.message_fields import MessageFields

#: Taken only to be refused with a reason.
REFUSED = {"mail_options", "rcpt_options", "mail_class"}


def test_names_and_types_are_those_of_a_message():
    """Neither may gain, lose or change a field without the other."""
    parameters = inspect.signature(Message).parameters
    taken = {name: parameters[name].annotation for name in parameters if name not in REFUSED}
    declared = {
        name: reference.__forward_arg__ for name, reference in MessageFields.__annotations__.items()
    }
    assert declared == taken
    assert MessageFields.__required_keys__ == frozenset()


def test_the_hints_can_be_read_when_the_program_runs():
    """Documentation tools and dependency injectors resolve them."""
    for call in (DeferredMail.send_after_response, DeferredMail.send_now, send_after_response):
        assert typing.get_type_hints(call)["fields"] == typing.Unpack[MessageFields]
