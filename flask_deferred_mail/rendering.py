"""Jinja templates to subject, text and HTML: ``welcome`` names up to three files.

``welcome.subject.txt``, ``welcome.txt`` and ``welcome.html``; with a language, ``welcome.de.txt``
and so on come first. HTML is escaped and text is not, whatever the environment thinks of these
names: a text part that reads ``Tom &amp; Ann`` is a fault, an unescaped name in HTML is a hole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .characters import line, shown
from .errors import MessageError
from .plain_text import html_to_text

if TYPE_CHECKING:
    import jinja2

_LANGUAGE = re.compile(r"[A-Za-z0-9]{1,8}(?:[-_][A-Za-z0-9]{1,8}){0,4}")
_MAX_NAME = 255
# Where the environment keeps its own copy with the other rule for escaping.
_SHELF = "deferred_mail_escaping_{}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a template gave. At least one of text and HTML is there."""

    subject: str
    text: str | None = field(repr=False)
    html: str | None = field(repr=False)


def render_template_message(
    env: jinja2.Environment, template: str, context: Mapping[str, Any], language: str | None = None
) -> Rendered:
    """Render the files of one mail template.

    Text and HTML are taken from the same language, so that no mail speaks two: if there is only
    ``welcome.de.html``, its text part is derived from it and ``welcome.txt`` is left alone. A
    missing subject in that language falls back to a less special one.

    :raises MessageError: neither a text nor an HTML file exists (the error lists what was looked
        for), or the name or language cannot be one. What Jinja raises passes through.
    """
    stems = _stems(template, language)
    for position in range(len(stems)):
        html = _render(env, f"{stems[position]}.html", context, escape=True)
        text = _render(env, f"{stems[position]}.txt", context, escape=False)
        if html is None and text is None:
            continue
        if text is None and html is not None:
            text = html_to_text(html)
        return Rendered(_subject(env, stems[position:], context), text, html)
    looked_for = ", ".join(f"{stem}{ending}" for stem in stems for ending in (".html", ".txt"))
    raise MessageError("template", f"none of these templates exists: {looked_for}")


def _stems(template: str, language: str | None) -> list[str]:
    """Names without their endings, the most special first: ``x.de-AT``, ``x.de``, ``x``."""
    name = line(template, "template", _MAX_NAME)
    if not name:
        raise MessageError("template", "is empty")
    if language is None:
        return [name]
    tag = line(str(language), "language")
    if not _LANGUAGE.fullmatch(tag):
        raise MessageError("language", f"{shown(tag)} is no language tag such as 'de' or 'de-AT'")
    parts = re.split("[-_]", tag)
    found = [name]
    for length in range(1, len(parts) + 1):
        found += dict.fromkeys(f"{name}.{joint.join(parts[:length])}" for joint in "_-")
    return found[::-1]


def _subject(env: jinja2.Environment, stems: list[str], context: Mapping[str, Any]) -> str:
    for stem in stems:
        subject = _render(env, f"{stem}.subject.txt", context, escape=False)
        if subject is not None:
            return " ".join(subject.split())
    return ""


def _render(
    env: jinja2.Environment, name: str, context: Mapping[str, Any], *, escape: bool
) -> str | None:
    """The rendered template, or ``None`` if there is none of that name."""
    from jinja2 import TemplateNotFound

    try:
        template = _with_escaping(env, name, escape).get_template(name)
    except TemplateNotFound:
        return None
    return template.render(context)


def _with_escaping(env: jinja2.Environment, name: str, escape: bool) -> jinja2.Environment:
    """``env`` itself if it escapes as it should, which Flask's does; else a lasting copy."""
    decided = env.autoescape
    if bool(decided(name) if callable(decided) else decided) == escape:
        return env
    shelf = _SHELF.format("on" if escape else "off")
    kept: jinja2.Environment | None = env.__dict__.get(shelf)
    if kept is None:
        # Kept on the environment itself: a table of ours would keep both alive for ever.
        kept = env.overlay(autoescape=escape)
        env.extend(**{shelf: kept})
    return kept
