"""Which files make a mail, in which language, and what is escaped in them."""

import gc
import weakref

import flask
import jinja2
import pytest

from flask_deferred_mail.errors import MessageError
from flask_deferred_mail.rendering import render_template_message


def env(templates, **options):
    return jinja2.Environment(loader=jinja2.DictLoader(templates), **options)


ALL = {
    "w.html": "<p>{{ name }}</p>",
    "w.txt": "{{ name }}",
    "w.subject.txt": "\n Hi {{ name }}\n  there \n",
    "w.de.html": "<p>Hallo {{ name }}</p>",
    "w.de.subject.txt": "Hallo {{ name }}",
}


def test_three_files_make_a_mail():
    """The subject's white space is one line's."""
    found = render_template_message(env(ALL), "w", {"name": "Ann"})
    assert (found.subject, found.text, found.html) == ("Hi Ann there", "Ann", "<p>Ann</p>")


@pytest.mark.parametrize("autoescape", [True, False, jinja2.select_autoescape()])
def test_html_is_escaped_and_text_is_not(autoescape):
    """Whatever the environment thinks of these names."""
    found = render_template_message(env(ALL, autoescape=autoescape), "w", {"name": "<A&B>"})
    assert found.subject == "Hi <A&B> there"
    assert found.text == "<A&B>"
    assert found.html == "<p>&lt;A&amp;B&gt;</p>"


def test_what_a_template_includes_is_escaped_like_itself():
    """An inherited layout follows the mail's rule."""
    templates = {
        "w.html": "{% include 'part' %}",
        "w.txt": "{% include 'part' %}",
        "part": "{{ name }}",
    }
    found = render_template_message(env(templates), "w", {"name": "<"})
    assert (found.text, found.html) == ("<", "&lt;")


def test_flasks_own_environment(tmp_path):
    """With its context processors' variables, handed over by the caller."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "w.html").write_text("<p>{{ name }} {{ config.X }}</p>")
    app = flask.Flask("app", root_path=str(tmp_path))
    app.config["X"] = "x"
    found = render_template_message(app.jinja_env, "w", {"name": "<"})
    assert (found.subject, found.html) == ("", "<p>&lt; x</p>")
    assert found.text == "< x\n"


def test_the_language_comes_first():
    """One mail speaks one language: a text part is derived before another one's is taken."""
    found = render_template_message(env(ALL), "w", {"name": "Ann"}, "de")
    assert (found.subject, found.html) == ("Hallo Ann", "<p>Hallo Ann</p>")
    assert found.text == "Hallo Ann\n"


@pytest.mark.parametrize("language", ["de-AT", "de_AT", "de-Latn-AT"])
def test_a_regional_language_falls_back_to_its_parent(language):
    """And then to no language at all."""
    assert render_template_message(env(ALL), "w", {}, language).subject == "Hallo"
    assert render_template_message(env(ALL), "w", {}, "fr-CH").subject == "Hi there"


@pytest.mark.parametrize("language", ["de-AT", "de_AT"])
def test_both_ways_to_join_a_region(language):
    """A file may be named with a hyphen or an underscore."""
    for name in ("w.de-AT.txt", "w.de_AT.txt"):
        found = render_template_message(env({name: "Servus", **ALL}), "w", {}, language)
        assert found.text == "Servus"


def test_a_subject_of_the_default_language_is_better_than_none():
    """Only the body decides which language it is."""
    templates = {"w.de.txt": "Hallo", "w.subject.txt": "Hi"}
    assert render_template_message(env(templates), "w", {}, "de").subject == "Hi"


def test_no_such_template():
    """The error lists what was looked for."""
    with pytest.raises(MessageError, match=r"x\.de\.html, x\.de\.txt, x\.html, x\.txt"):
        render_template_message(env(ALL), "x", {}, "de")


def test_a_missing_include_is_not_a_missing_template():
    """What Jinja raises reaches the view."""
    with pytest.raises(jinja2.TemplateNotFound, match="gone"):
        render_template_message(env({"w.txt": "{% include 'gone' %}"}), "w", {})


@pytest.mark.parametrize("language", ["../x", "de/..", "", "de\n", "a" * 9, "de-"])
def test_what_is_no_language(language):
    """A language may come from a request header, and becomes part of a file name."""
    with pytest.raises(MessageError, match="language"):
        render_template_message(env(ALL), "w", {}, language)


@pytest.mark.parametrize("template", ["", "w\n", "w\0", None, 5])
def test_what_is_no_template_name(template):
    """One line of text."""
    with pytest.raises(MessageError, match="template"):
        render_template_message(env(ALL), template, {})


def test_an_environment_is_not_kept_alive():
    """The copies with other escaping go with it."""
    environment = env(ALL, autoescape=True)
    render_template_message(environment, "w", {})
    gone = weakref.ref(environment)
    del environment
    gc.collect()
    assert gone() is None
