"""handover.py: numbers go to a broker that may be slow, down or silent, and nobody waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from flask_deferred_mail.delivery import handover
from flask_deferred_mail.delivery.handover import HandOver
from tests.support.waiting import wait_until


class Broker:
    """Takes messages when the test lets it."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Semaphore(0)
        self.released: list[str] = []
        self.error: BaseException | None = None

    def dispatch(self, job_ids: list[int]) -> None:
        self.asked.release()
        assert self.answers.wait(20)
        if self.error is not None:
            raise self.error
        self.messages.append(job_ids)

    def release(self) -> None:
        self.released.append(threading.current_thread().name)


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.answers.set()


@pytest.fixture
def make(broker: Broker) -> Iterator[Callable[..., HandOver]]:
    made: list[HandOver] = []

    def make(**how: bool) -> HandOver:
        made.append(HandOver(broker.dispatch, broker.release, **how))
        return made[-1]

    yield make
    broker.answers.set()
    for one in made:
        one.shut_down(5)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


def test_messages_are_bounded(broker, make):
    """A large batch becomes several messages, in order."""
    over = make()
    assert over.ring(range(1, 46))
    wait_until(lambda: over.pending == 0)
    assert [len(message) for message in broker.messages] == [20, 20, 5]
    assert [n for message in broker.messages for n in message] == list(range(1, 46))


def test_what_does_not_fit_is_left_and_told(broker, make, monkeypatch, caplog):
    """A bounded list: the mail of a later request waits for the sweep, the earlier ones go."""
    monkeypatch.setattr(handover, "PLACES", 3)
    broker.answers.clear()
    over = make()
    assert over.ring([1])
    assert broker.asked.acquire(timeout=5)
    assert over.ring([2, 3, 4])
    assert not over.ring([5])
    broker.answers.set()
    wait_until(lambda: over.pending == 0)
    assert broker.messages == [[1], [2, 3, 4]]


def test_an_error_pauses_and_is_told_once(broker, make, monkeypatch, caplog):
    """Whatever is raised: what waits is left to the sweep, and it goes on after the pause."""
    broker.error = SystemExit("amqp://shop:hunter2@broker/ is gone")
    over = make()
    for number in (1, 2, 3):
        over.ring([number])
        wait_until(lambda: over.pending == 0)
    assert len(errors(caplog)) == 1
    assert "1 mails are left to `flask mail sweep`" in errors(caplog)[0]
    assert "hunter2" not in caplog.text
    broker.error = None
    over._paused_until = 0.0
    assert over.ring([4])
    wait_until(lambda: broker.messages == [[4]])


def test_trouble_that_lasts_is_told_again_with_the_number_of_mails(
    broker, make, monkeypatch, caplog
):
    """After a minute the log says how many were left since."""
    broker.error = OSError("refused")
    over = make()
    over.ring([1])
    wait_until(lambda: over.pending == 0)
    over.ring([2, 3])
    over._quiet_until = 0.0
    over.ring([4])
    assert "3 mails are left" in errors(caplog)[1]


def test_a_thread_that_stands_still_is_replaced(broker, make, monkeypatch, caplog):
    """And what it comes back with does no harm."""
    broker.answers.clear()
    over = make()
    over.ring([1])
    assert broker.asked.acquire(timeout=5)
    monkeypatch.setattr(handover, "PATIENCE", 0.0)
    assert not over.ring([2])
    assert "no answer within" in errors(caplog)[0]
    monkeypatch.setattr(handover, "PATIENCE", 10.0)
    over._paused_until = 0.0
    assert over.ring([3])
    assert broker.asked.acquire(timeout=5)
    broker.answers.set()
    wait_until(lambda: sorted(broker.messages) == [[1], [3]] and over._stuck == 0)
    assert over.ring([4])
    wait_until(lambda: [4] in broker.messages)


def test_not_too_many_threads_stand_still(broker, make, monkeypatch):
    """Then no other is started until one of them is back."""
    broker.answers.clear()
    monkeypatch.setattr(handover, "PATIENCE", 0.0)
    monkeypatch.setattr(handover, "PAUSE_AFTER_SILENCE", 0.0)
    over = make()
    for number in range(handover.MOST_STUCK):
        assert over.ring([number])
        assert broker.asked.acquire(timeout=5)
    assert not over.ring([9])
    broker.answers.set()
    wait_until(lambda: over._stuck == 0)
    assert over.ring([10])


def test_the_end_waits_for_what_waits(broker, make):
    """A short while; the thread lets go of its connection, and nothing more is taken."""
    broker.answers.clear()
    over = make()
    over.ring([1])
    over.ring([2])
    assert broker.asked.acquire(timeout=5)
    ending = threading.Thread(target=over.shut_down, args=(10,))
    ending.start()
    broker.answers.set()
    ending.join(10)
    assert broker.messages == [[1], [2]]
    assert broker.released == ["deferred-mail-handover"]
    assert not over.ring([3])


def test_the_end_does_not_wait_for_a_silent_broker(broker, make):
    """The process goes; its mail is in rows."""
    broker.answers.clear()
    over = make()
    over.ring([1])
    over.ring([2])
    assert broker.asked.acquire(timeout=5)
    over.shut_down(0.0)
    assert over.pending == 1
    broker.answers.set()
    wait_until(lambda: broker.released)
    assert broker.messages == [[1]]


def test_without_threads_everything_is_left_to_the_sweep(broker, make, monkeypatch):
    """uWSGI without them; and where none can be started."""
    assert not make(usable=False).ring([1])

    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuses)
        over = make()
        assert not over.ring([1])
        assert over.pending == 0
    over._paused_until = 0.0
    assert over.ring([2])
    wait_until(lambda: broker.messages == [[2]])
