"""The text part of a mail that has only HTML; mail without one is taken for spam."""

from __future__ import annotations

import functools
import html as entities
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdownify import MarkdownConverter

#: HTML beyond this many characters is not converted: it would take a second, in the view.
MAX_HTML = 100_000

# Declarations and instructions, of which a reader sees nothing; and a < that opens no tag.
_DECLARATION = re.compile(r"<[!?][^<>]*>")
_STRAY = re.compile(r"<(?![^<>]*>)")
_BLOCKS = re.compile(r"br|p|div|table|h[1-6]|[uod]l|pre|blockquote|hr|section")
_BLANK_LINES = re.compile(r"\n{3,}")


def html_to_text(html: str) -> str | None:
    """Readable text: paragraphs and lists as such, links with their address behind them.

    ``None`` if there is nothing to read in it, or if it is too large or too deeply nested to be
    converted in a view's time. Fetches nothing that the HTML names.
    """
    if len(html) > MAX_HTML:
        return None
    if "<" not in html:
        text = entities.unescape(html)
    else:
        try:
            text = _converter().convert(_tame(html))
        except RecursionError:
            return None
    # Line by line: a pattern for blanks at line ends is quadratic in a long run of them.
    text = "\n".join(line.rstrip() for line in text.replace("\0", "").split("\n"))
    text = _BLANK_LINES.sub("\n\n", text).strip("\n")
    return f"{text}\n" if text else None


def _tame(html: str) -> str:
    """The same HTML without what makes the standard library's parser take quadratic time.

    That is comments that do not end, and tags that do not (300 kB of ``<a`` took 90 seconds).
    """
    kept = []
    position = 0
    while (opened := html.find("<!--", position)) >= 0:
        kept.append(html[position:opened])
        closed = html.find("-->", opened + 4)
        position = closed + 3 if closed >= 0 else len(html)
    kept.append(html[position:])
    return _STRAY.sub("&lt;", _DECLARATION.sub("", "".join(kept)))


def _converter() -> MarkdownConverter:
    """A fresh converter: it keeps state while it works, and threads share nothing."""
    return _converter_class()(
        autolinks=False,
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        heading_style="atx",
        newline_style="backslash",
        strong_em_symbol="*",
    )


@functools.lru_cache(maxsize=1)
def _converter_class() -> type[MarkdownConverter]:
    """Imported when first needed: most applications write their own text parts."""
    from markdownify import MarkdownConverter

    class TextConverter(MarkdownConverter):
        """Markdown as a person would type it into a mail."""

        def convert_soup(self, soup: Any) -> str:
            _untable(soup)
            return str(super().convert_soup(soup))

        def convert_head(self, _el: Any, _text: str, **_context: Any) -> str:
            return ""

        def convert_br(self, _el: Any, _text: str, **_context: Any) -> str:
            return "\n"

        def convert_a(self, el: Any, text: str, **_context: Any) -> str:
            shown, target = " ".join(text.split()), str(el.get("href") or "").strip()
            if not target.lower().startswith(("http:", "https:", "mailto:", "tel:")):
                return text
            if not shown or shown in (target, target.partition(":")[2]):
                return shown or target
            return f"{shown} <{target}>"

        def convert_img(self, el: Any, _text: str, **_context: Any) -> str:
            return str(el.get("alt") or "")

        def convert_hN(self, _n: int, _el: Any, text: str, _parent_tags: set[str]) -> str:
            return f"\n\n{text.strip()}\n\n"

        def convert_b(self, _el: Any, text: str, **_context: Any) -> str:
            return text

        def convert_pre(self, _el: Any, text: str, **_context: Any) -> str:
            return f"\n\n{text}\n\n" if text else ""

        convert_code = convert_kbd = convert_samp = convert_b
        convert_strong = convert_em = convert_i = convert_del = convert_s = convert_b

        def convert_cell(self, _el: Any, text: str, **_context: Any) -> str:
            return f"{' '.join(text.split())}\t"

        def convert_row(self, _el: Any, text: str, **_context: Any) -> str:
            cells = [cell.strip() for cell in text.split("\t")]
            return "  ".join(cell for cell in cells if cell) + "\n"

    return TextConverter


def _untable(soup: Any) -> None:
    """Turn tables, which in mail are mostly layout, into blocks; rows of short cells into lines.

    The two made-up tags are the ones that the converter above knows.
    """
    for row in soup.find_all("tr"):
        cells = row.find_all(["td", "th"], recursive=False)
        layout = any(cell.find(_BLOCKS) is not None for cell in cells)
        row.name = "div" if layout else "row"
        for cell in cells:
            cell.name = "div" if layout else "cell"
    for tag in soup.find_all(["table", "thead", "tbody", "tfoot"]):
        tag.name = "div"
