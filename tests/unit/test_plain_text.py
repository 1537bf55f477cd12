"""The text part that is derived from HTML."""

import pytest

from flask_deferred_mail.plain_text import MAX_HTML, html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello <b>Ann</b>,</p><p>bye</p>", "Hello Ann,\n\nbye\n"),
        ("Hello<br>Ann<br/>Bob", "Hello\nAnn\nBob\n"),
        ("<h1>Hi</h1><p>you</p>", "Hi\n\nyou\n"),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two\n"),
        ('<a href="https://x.test/a_b?c=1&amp;d">Go</a>', "Go <https://x.test/a_b?c=1&d>\n"),
        ('<a href="https://x.test/">https://x.test/</a>', "https://x.test/\n"),
        ('<a href="mailto:a@b.test">a@b.test</a>', "a@b.test\n"),
        ('<a href="javascript:alert(1)">Go</a>', "Go\n"),
        ('<img src="cid:logo" alt="Logo">', "Logo\n"),
        ("2 * 3_4 &lt; 5 &amp; é", "2 * 3_4 < 5 & é\n"),
        ("<p>2 * 3_4 &lt; 5 &amp; 6</p>", "2 * 3_4 < 5 & 6\n"),
        ("<head><title>T</title><style>p{}</style></head><p>x</p><script>y</script>", "x\n"),
        ("<!-- a <p>b --><p>x</p>", "x\n"),
        ("<!--[if mso]><table><![endif]--><p>x</p>", "x\n"),
        ('<?xml version="1.0"?><html xmlns="x"><p>x</p></html>', "x\n"),
        ("<!DOCTYPE html><p>x</p>", "x\n"),
        ("<p>a < b</p>", "a < b\n"),
        ("<pre>a\n  b</pre>", "a\n  b\n"),
        ("<p>a</p>\n\n\n\n<p>b</p>", "a\n\nb\n"),
    ],
)
def test_what_a_reader_sees(html, text):
    """Text, links with their targets, lists; no markup, no styles, no scripts."""
    assert html_to_text(html) == text


def test_tables():
    """Layout disappears, rows of short cells stay lines."""
    html = (
        "<table><tr><td><p>Order</p><table><tr><th>Item</th><th>Price</th></tr>"
        "<tr><td>Cup</td>\n<td>9 €</td></tr></table></td></tr></table>"
    )
    text = html_to_text(html)
    assert [line for line in text.splitlines() if line] == ["Order", "Item  Price", "Cup  9 €"]


@pytest.mark.parametrize("html", ["", " ", "<p></p>", "<img src='x'>", "<style>p{}</style>"])
def test_nothing_to_read(html):
    """No part is better than an empty one."""
    assert html_to_text(html) is None


def test_html_that_would_keep_the_view():
    """Too large or too deep: the mail goes out with its HTML alone."""
    assert html_to_text("<p>x</p>" * (MAX_HTML // 8 + 1)) is None
    assert html_to_text("<div>" * 5000 + "x") is None


@pytest.mark.parametrize("html", ["<a", "<![CDATA[", "<", "</", "<a x='", "<!-- -->", "<!---->"])
def test_hostile_html_is_read_to_its_end(html):
    """Tags and comments without an end, which the parser alone would take minutes for."""
    text = html_to_text(html * ((MAX_HTML - 20) // len(html)) + "<p>end</p>")
    assert text is not None
    assert text.endswith("end\n")


def test_a_comment_that_does_not_end_hides_the_rest():
    """As it does in a browser, however many of them are opened."""
    assert html_to_text("<p>x</p>" + "<!--" * (MAX_HTML // 4 - 5)) == "x\n"
