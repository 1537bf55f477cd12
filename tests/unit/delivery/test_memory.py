"""memory.py: what a process holds, and a setting of the C library that not every one has."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from flask_deferred_mail.delivery import memory


def test_a_process_holds_something():
    """More than an interpreter needs at the least."""
    assert memory.resident_bytes() > 2**20


def test_the_c_library_is_told_to_share_its_heaps(monkeypatch):
    """By glibc's own number for it."""
    told = []
    library = SimpleNamespace(mallopt=lambda *what: told.append(what))
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    memory.share_heaps()
    assert told == [(-8, 2)]


def test_a_python_without_ctypes_is_left_as_it_is(monkeypatch):
    """One that was built without libffi runs a worker all the same."""
    monkeypatch.setitem(sys.modules, "ctypes", None)
    memory.share_heaps()


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_as_it_is(monkeypatch, error):
    """No library to be had by that name, or one without such a setting: nothing breaks."""

    def refuse(_name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    memory.share_heaps()
