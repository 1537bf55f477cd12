"""signals.py: every receiver is called, and none can hurt the others or the mail."""

from __future__ import annotations

import gc
import logging

import blinker
import flask
import pytest

from flask_deferred_mail import signals

NAMES = (
    "mail_queued",
    "mail_attempted",
    "email_dispatched",
    "mail_retry_scheduled",
    "mail_failed",
    "mail_held",
    "mail_tracking",
    "mail_backlog",
)


@pytest.fixture
def signal():
    """A signal of the test's own, so that no other test hears it."""
    return blinker.Namespace().signal("test-signal")


@pytest.mark.parametrize("name", NAMES)
def test_every_signal_of_the_contract_exists_and_is_documented(name):
    """Each public name is a blinker signal that says when it is sent and what it carries."""
    signal = getattr(signals, name)
    assert isinstance(signal, blinker.NamedSignal)
    assert signal.name == name.replace("_", "-")
    assert "``job=``" in (signal.__doc__ or "")


def test_receivers_get_the_sender_and_the_keywords(signal):
    """A receiver is called as blinker calls it."""
    heard = []

    def receiver(sender, **kwargs):
        heard.append((sender, kwargs))

    signal.connect(receiver)
    signals.send(signal, "app", job=1, event="x")
    assert heard == [("app", {"job": 1, "event": "x"})]


def test_a_receiver_of_another_sender_is_not_called(signal):
    """Connecting with sender=app means that app only."""
    heard = []
    one, other = flask.Flask("one"), flask.Flask("other")
    signal.connect(lambda sender, **_: heard.append(sender), sender=one, weak=False)
    signals.send(signal, other)
    signals.send(signal, one)
    assert heard == [one]


def test_a_failing_receiver_is_logged_and_changes_nothing_for_the_others(signal, caplog):
    """All others run, the caller sees no exception, the log has the traceback and the name."""
    heard = []

    def faulty(sender, **_):
        raise ValueError("receiver is broken")

    signal.connect(faulty)
    for _ in range(5):
        signal.connect(lambda sender, **_: heard.append(sender), weak=False)
    with caplog.at_level(logging.ERROR, "flask_deferred_mail.signals"):
        signals.send(signal, "app", job=1)
    assert heard == ["app"] * 5
    (record,) = caplog.records
    assert record.name == "flask_deferred_mail.signals"
    assert "faulty" in record.getMessage()
    assert "test-signal" in record.getMessage()
    assert "receiver is broken" in caplog.text


@pytest.mark.parametrize("exit_type", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_means_the_process_passes(signal, exit_type):
    """A worker that is told to stop inside a receiver stops."""

    def receiver(sender, **_):
        raise exit_type

    signal.connect(receiver)
    with pytest.raises(exit_type):
        signals.send(signal, "app")


def test_a_receiver_that_is_gone_is_skipped(signal):
    """blinker holds receivers weakly: one that was collected is no error."""

    class Listener:
        def hear(self, sender, **_):
            raise AssertionError("collected, must not be called")

    listener = Listener()
    signal.connect(listener.hear)
    del listener
    gc.collect()
    signals.send(signal, "app")


def test_bound_methods_are_called_while_their_object_lives(signal, caplog):
    """A weakly held method is resolved before it is called, and named when it fails."""

    class Listener:
        def hear(self, sender, **_):
            raise ValueError("heard")

    listener = Listener()
    signal.connect(listener.hear)
    signals.send(signal, "app")
    assert "Listener.hear" in caplog.text


def test_a_receiver_may_disconnect_another_while_it_runs(signal):
    """The receivers of one send are those at its start; both run, in either order."""
    heard = []

    def first(sender, **_):
        heard.append("first")
        signal.disconnect(second)

    def second(sender, **_):
        heard.append("second")
        signal.disconnect(first)

    signal.connect(first)
    signal.connect(second)
    signals.send(signal, "app")
    assert sorted(heard) == ["first", "second"]
    assert len(signal.receivers) < 2


def test_a_muted_signal_is_silent(signal):
    """blinker's muted() holds here too."""

    def receiver(sender, **_):
        raise KeyboardInterrupt

    signal.connect(receiver)
    with signal.muted():
        signals.send(signal, "app")


def test_async_receivers_run_through_the_app(signal):
    """An ``async def`` receiver is awaited, the way Flask does it for its own signals."""
    heard = []

    async def receiver(sender, **kwargs):
        heard.append(kwargs)

    app = flask.Flask("app")
    signal.connect(receiver)
    signals.send(signal, app, job=1)
    assert heard == [{"job": 1}]


def test_an_async_receiver_without_an_app_is_reported_and_not_left_unawaited(signal, caplog):
    """There is nothing to run it with, and the log says so."""

    async def receiver(sender, **_):
        raise AssertionError("not run")

    signal.connect(receiver)
    signals.send(signal, "no app", job=1)
    assert "async receiver needs a Flask app" in caplog.text


def test_keywords_may_bear_the_names_of_our_own_arguments(signal):
    """``signal=`` and ``sender=`` of the caller do not collide with the function's own."""
    heard = []
    signal.connect(lambda _app, **kwargs: heard.append(kwargs), weak=False)
    signals.send(signal, "app", signal="a", job="b")
    assert heard == [{"signal": "a", "job": "b"}]
