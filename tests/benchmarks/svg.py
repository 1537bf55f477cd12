"""Bar charts as SVG, without a library: readable as text, and small."""

from __future__ import annotations

import math
from html import escape

from tests.benchmarks.report import Plot

_WIDTH, _LABELS, _ROW, _TOP, _BOTTOM = 960, 390, 26, 44, 30
_OURS, _OTHERS, _WHISKER = "#1f6f8b", "#b5bcc4", "#444"


def chart(plot: Plot) -> str:
    """The bars of a plot, longest scale logarithmic where they differ by more than thirty times."""
    values = [bar[1] for bar in plot.bars if bar[1] > 0]
    tops = [bar[3] for bar in plot.bars]
    scale = _Scale(min(values, default=1), max(tops, default=1))
    height = _TOP + _ROW * len(plot.bars) + _BOTTOM
    kind = ", logarithmic" if scale.logarithmic else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="10" y="20" font-size="15" font-weight="bold">{escape(plot.title)}</text>',
        f'<text x="10" y="37" fill="#555">{escape(plot.unit)}{kind}; '
        "bar: median, line: least to most</text>",
    ]
    for number, bar in enumerate(plot.bars):
        parts += _bar(bar, _TOP + _ROW * number, scale)
    return "\n".join([*parts, "</svg>", ""])


def _bar(bar: tuple[str, float, float, float], y: int, scale: _Scale) -> list[str]:
    label, middle, least, most = bar
    colour = _OURS if label.startswith("ours") else _OTHERS
    length, low, high = (scale.of(value) for value in (middle, least, most))
    line = y + _ROW // 2
    return [
        f'<text x="{_LABELS - 8}" y="{line + 5}" text-anchor="end">{escape(label)}</text>',
        f'<rect x="{_LABELS}" y="{y + 4}" width="{length:.1f}" height="{_ROW - 8}" '
        f'fill="{colour}"/>',
        f'<line x1="{_LABELS + low:.1f}" x2="{_LABELS + high:.1f}" y1="{line}" y2="{line}" '
        f'stroke="{_WHISKER}"/>',
        f'<text x="{_LABELS + max(length, high) + 6:.1f}" y="{line + 5}">{_short(middle)}</text>',
    ]


class _Scale:
    """Values as lengths."""

    def __init__(self, least: float, most: float) -> None:
        self.logarithmic = most / least > 30
        self._most = most
        self._low = math.log10(least) - 0.3
        self._room = _WIDTH - _LABELS - 80

    def of(self, value: float) -> float:
        if value <= 0:
            return 0.0
        if not self.logarithmic:
            return value / self._most * self._room
        span = math.log10(self._most) - self._low
        return max(0.0, (math.log10(value) - self._low) / span * self._room)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
