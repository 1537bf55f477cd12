"""A small real site that sends its mail after the response: ``flask --app example_app run``."""

from .app import create_app

__all__ = ["create_app"]
