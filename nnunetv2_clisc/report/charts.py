"""Charts as inline SVG: in the page's colours, light or dark, sharp, each point named under the pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

LEFT, RIGHT, TOP, BOTTOM = 60, 12, 10, 38  # px around the plot area
Point = tuple[float, float]


class Chart:
    """Axes with something on them; classes such as `blue` or `dashed` get their looks from the page's style sheet.

    Args:
        label: what the chart shows, read aloud by screen readers.
        x, y: ranges of the axes.
        size: `(width, height)` in px.
        x_title, y_title: of the axes.
        x_ticks, y_ticks: places of the marks; by default round numbers.
    """

    def __init__(
        self,
        label: str,
        x: Point,
        y: Point,
        *,
        size: tuple[int, int] = (460, 260),
        x_title: str = "",
        y_title: str = "",
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
    ) -> None:
        self.label = label
        self.x = x if x[1] > x[0] else (x[0] - 0.5, x[0] + 0.5)
        self.y = y if y[1] > y[0] else (y[0] - 0.5, y[0] + 0.5)
        self.size = size
        self._parts: list[Markup] = []
        self._axes(x_title, y_title, x_ticks, y_ticks)

    def _px(self, x: float) -> float:
        width = self.size[0] - LEFT - RIGHT
        return round(LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * width, 1)

    def _py(self, y: float) -> float:
        height = self.size[1] - TOP - BOTTOM
        return round(TOP + (self.y[1] - y) / (self.y[1] - self.y[0]) * height, 1)

    def _add(self, form: str, *values: object) -> None:
        self._parts.append(Markup(form).format(*values))

    def _axes(
        self, x_title: str, y_title: str, x_ticks: Sequence[float] | None, y_ticks: Sequence[float] | None
    ) -> None:
        width, height = self.size
        for value in y_ticks if y_ticks is not None else ticks(*self.y):
            py = self._py(value)
            self._add('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>', LEFT, width - RIGHT, py, py)
            self._add('<text class="end" x="{}" y="{}">{}</text>', LEFT - 6, py + 4, number(value))
        for value in x_ticks if x_ticks is not None else ticks(*self.x):
            px = self._px(value)
            self._add('<text class="middle" x="{}" y="{}">{}</text>', px, height - BOTTOM + 16, number(value))
        base = height - BOTTOM
        self._add('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', LEFT, width - RIGHT, base, base)
        if x_title:
            self._add('<text class="middle" x="{}" y="{}">{}</text>', (LEFT + width - RIGHT) / 2, height - 5, x_title)
        if y_title:
            middle = (TOP + height - BOTTOM) / 2
            self._add('<text class="middle" transform="translate(12 {}) rotate(-90)">{}</text>', middle, y_title)

    def line(self, points: Sequence[Point], look: str) -> None:
        """A line; it is broken where a value is not finite."""
        run: list[str] = []
        for x, y in [*points, (math.nan, math.nan)]:
            if math.isfinite(x) and math.isfinite(y):
                run.append(f"{self._px(x)},{self._py(y)}")
            elif run:
                self._add('<polyline class="{}" points="{}"/>', look, " ".join(run))
                run = []

    def dots(self, points: Sequence[Point], look: str, titles: Sequence[str] = (), radius: float = 3.5) -> None:
        """A dot a point, squares where the look says `square`, each named under the pointer if titles are given."""
        for i, (x, y) in enumerate(points):
            title = Markup("<title>{}</title>").format(titles[i]) if titles else ""
            px, py = self._px(x), self._py(y)
            if "square" in look:
                form = '<rect class="{}" x="{}" y="{}" width="{}" height="{}">{}</rect>'
                self._add(form, look, round(px - radius, 1), round(py - radius, 1), 2 * radius, 2 * radius, title)
            else:
                self._add('<circle class="{}" cx="{}" cy="{}" r="{}">{}</circle>', look, px, py, radius, title)

    def box(self, x: Point, y: Point, look: str, title: str = "") -> None:
        """A filled rectangle."""
        px, py = self._px(x[0]), self._py(y[1])
        width, height = round(self._px(x[1]) - px, 1), round(self._py(y[0]) - py, 1)
        form = '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        self._add(form, look, px, py, width, height, title)

    def mark(self, x: float, text: str) -> None:
        """A vertical dashed line with its name at the top, on the side where there is room."""
        px = self._px(x)
        right = px < self.size[0] * 0.6
        self._add('<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"/>', px, px, TOP, self.size[1] - BOTTOM)
        side, shift = ("start", 5) if right else ("end", -5)
        self._add('<text class="{} strong" x="{}" y="{}">{}</text>', side, px + shift, TOP + 9, text)

    def svg(self) -> Markup:
        """The chart."""
        head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            *self.size, self.label
        )
        return head + Markup("").join(self._parts) + Markup("</svg>")


def strip(
    probability: Sequence[float], label: Sequence[int], numbers: Sequence[int], truth: Sequence[bool] | None, name: str
) -> Markup:
    """A small chart of one case: the probability of each slice from foot to head, over what was called tumour.

    Args:
        probability, label, numbers: of each slice, from foot to head; `numbers` as the file counts them.
        truth: whether a mask given has the lesion in that slice.
        name: of the case.
    """
    width, height, base = 220, 74, 60
    step = width / max(len(probability), 1)
    parts = [Markup('<line class="grid dashed" x1="0" x2="{}" y1="{}" y2="{}"/>').format(width, base / 2, base / 2)]
    for first, last in _runs([value == 1 for value in label]):
        form = '<rect class="called" x="{}" y="0" width="{}" height="{}"/>'
        parts.append(Markup(form).format(round(first * step, 1), round((last + 1 - first) * step, 1), base))
    if truth is not None:
        for first, last in _runs(truth):
            form = '<rect class="truth" x="{}" y="{}" width="{}" height="4"/>'
            parts.append(Markup(form).format(round(first * step, 1), base + 1, round((last + 1 - first) * step, 1)))
    places = [(round((i + 0.5) * step, 1), round(base * (1 - p), 1)) for i, p in enumerate(probability)]
    parts.append(Markup('<polyline class="blue" points="{}"/>').format(" ".join(f"{x},{y}" for x, y in places)))
    if len(places) <= 60:
        for (x, y), p, number_, called in zip(places, probability, numbers, label, strict=True):
            words = f"slice {number_}: {p:.2f}, {'tumour' if called else 'normal'}"
            form = '<circle class="dot-blue" cx="{}" cy="{}" r="2.2"><title>{}</title></circle>'
            parts.append(Markup(form).format(x, y, words))
    for x, anchor, number_ in ((0, "start", numbers[0]), (width, "end", numbers[-1])):
        parts.append(Markup('<text class="{}" x="{}" y="{}">{}</text>').format(anchor, x, height, number_))
    words = f"{name}: probability of tumour along z, {sum(label)} of {len(label)} slices called tumour"
    head = Markup('<svg class="strip" viewBox="0 -2 {} {}" role="img" aria-label="{}">').format(
        width, height + 4, words
    )
    return head + Markup("").join(parts) + Markup("</svg>")


def ticks(low: float, high: float) -> list[float]:
    """Round numbers inside a range."""
    return [float(v) for v in MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= v <= high]


def number(value: float) -> str:
    """A tick's number, with a true minus."""
    return f"{value:g}".replace("-", "−")


def bounds(values: Sequence[float]) -> Point:
    """The range of the finite values, with a twentieth of it as margin."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    margin = (high - low) * 0.05 or 0.5
    return low - margin, high + margin


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]]))
    return [(int(a), int(b) - 1) for a, b in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)]
