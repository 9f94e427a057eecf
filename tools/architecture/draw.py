"""The picture and the table of rooms in docs/architecture.md, made from the code: `make architecture`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve
from scipy.optimize import linprog

from tools.architecture.imports import LEVEL_OF, LEVELS, PACKAGES, imports, python_files, room_arrows, room_of

PROJECT = Path(__file__).parents[2]
TEXT = "docs/architecture.md"
PICTURE = "docs/architecture.png"

COLOURS = {
    "nnunetv2_clisc": ("#e3edf8", "#2f6299"),
    "pseudo_labeling": ("#e6f2e4", "#3c7a37"),
    "dataset_conversion": ("#f9eddc", "#9a6414"),
}
INK, PAPER = "#26292e", "#ffffff"
BOX, LANE, GAP = 2.5, 0.1, 0.2  # widths of a room and of an arrow that passes a level; in inches, as all lengths here
HEIGHT, STEP, BAND = 0.56, 0.88, 0.28

# a room, or the place where an arrow passes a level: (from, to, level)
Node = str | tuple[str, str, int]


def main() -> None:
    """Draw the picture and write the table into the text."""
    table = room_table(PROJECT)
    path = PROJECT / TEXT
    path.write_text(with_table(path.read_text(encoding="utf-8"), table), encoding="utf-8")
    draw(PROJECT, PROJECT / PICTURE, table)


def room_table(root: Path) -> str:
    """A Markdown table of the rooms, highest first: files, what it is for, and the rooms that it imports."""
    arrows = room_arrows(imports(root))
    files = file_numbers(root)
    rows = ["| room | files | what | imports |", "|---|---|---|---|"]
    for level in reversed(LEVELS):
        for room, what in level.items():
            if files[room]:
                rows.append(f"| {room} | {files[room]} | {what} | {_listed(arrows[room], room.split('/')[0])} |")
    return "\n".join(rows)


def file_numbers(root: Path) -> dict[str, int]:
    """How many Python files each room has, empty `__init__.py` left out."""
    numbers = dict.fromkeys(LEVEL_OF, 0)
    for file in python_files(root):
        room = room_of(file)
        if room is not None and (root / file).stat().st_size:
            numbers[room] += 1
    return numbers


def with_table(text: str, table: str) -> str:
    """The text of the document with the table between its two marks exchanged."""
    return re.sub(
        r"(<!-- rooms -->\n).*(<!-- /rooms -->)", lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.DOTALL
    )


def needed(arrows: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from others: a room that imports B, which imports C, has no arrow to C."""

    def reached(room: str) -> set[str]:
        return set().union(*({there} | reached(there) for there in arrows[room]))

    return [
        (here, there)
        for here in arrows
        for there in sorted(arrows[here])
        if not any(there in reached(other) for other in arrows[here])
    ]


def draw(root: Path, file: Path, table: str) -> None:
    """Draw the rooms of the project at `root` on their levels; the table goes into the PNG's entry `Description`."""
    files = file_numbers(root)
    arrows = needed(room_arrows(imports(root)))
    rows = _rows([room for room in LEVEL_OF if files[room]], arrows)
    x = _columns(rows, arrows)
    packages = [next(iter(level)).split("/")[0] for level in LEVELS]
    bands = [PACKAGES.index(package) for package in packages]
    y = [level * STEP + band * BAND for level, band in enumerate(bands)]

    width, height = max(x.values()) + BOX / 2 + 0.15, y[-1] + HEIGHT / 2 + 0.18
    left, low = min(x.values()) - BOX / 2 - 0.5, -HEIGHT / 2 - 0.18
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "text.color": INK}):
        figure = Figure(figsize=(width - left, height - low), facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(left, width), ylim=(low, height))
        axes.set_axis_off()
        for package in PACKAGES:
            inside = [y[level] for level, name in enumerate(packages) if name == package]
            bottom, top = inside[0] - HEIGHT / 2 - 0.12, inside[-1] + HEIGHT / 2 + 0.12
            _box(axes, (left + 0.06, bottom), (width - left - 0.12, top - bottom), COLOURS[package][0], "none")
            at = left + 0.26, (top + bottom) / 2
            title = axes.text(*at, package, rotation=90, va="center", ha="center", size=12, weight="bold")
            title.set_color(COLOURS[package][1])
        for here, there in arrows:
            points = [(x[node], y[level]) for node, level in _way(here, there)]
            _arrow(axes, points, COLOURS[here.split("/")[0]][1])
        for room, level in LEVEL_OF.items():
            if files[room]:
                package, name = room.split("/")
                edge = COLOURS[package][1]
                _box(axes, (x[room] - BOX / 2, y[level] - HEIGHT / 2), (BOX, HEIGHT), PAPER, edge)
                axes.text(x[room] - BOX / 2 + 0.1, y[level] + 0.12, name, va="center", size=11, weight="bold")
                number = f"{files[room]} file{'s' * (files[room] > 1)}"
                axes.text(x[room] + BOX / 2 - 0.1, y[level] + 0.12, number, va="center", ha="right", size=9, color=edge)
                axes.text(x[room] - BOX / 2 + 0.1, y[level] - 0.13, LEVELS[level][room], va="center", size=9)
        figure.savefig(file, dpi=150, metadata={"Description": table, "Software": None})


def _listed(rooms: set[str], home: str) -> str:
    """The rooms by package, highest first; the name of the package they are seen from is left out."""
    parts = []
    for package in reversed(PACKAGES):
        inside = sorted(
            (room for room in rooms if room.startswith(f"{package}/")), key=lambda one: (-LEVEL_OF[one], one)
        )
        if inside:
            names = ", ".join(room.split("/")[1] for room in inside)
            parts.append(names if package == home else f"{package}: {names}")
    return "; ".join(parts)


def _rows(rooms: list[str], arrows: list[tuple[str, str]]) -> list[list[Node]]:
    """The rooms of each level and the arrows that pass it, from left to right, with few crossings."""
    rows: list[list[Node]] = [[room for room in level if room in rooms] for level in LEVELS]
    for arrow in arrows:
        for node, level in _way(*arrow)[1:-1]:
            rows[level].append(node)
    links = _links(arrows)

    for _ in range(6):
        for level, row in enumerate(rows):
            beside = [rows[other] for other in (level - 1, level + 1) if 0 <= other < len(rows)]
            orders = [(sum(_crossings(order, other, links) for other in beside), order) for order in permutations(row)]
            rows[level] = list(min(orders, key=lambda one: one[0])[1])
    return rows


def _way(here: str, there: str) -> list[tuple[Node, int]]:
    """A node of the arrow on every level from one room down to another, with the level."""
    passed = range(LEVEL_OF[here] - 1, LEVEL_OF[there], -1)
    return [(here, LEVEL_OF[here]), *(((here, there, level), level) for level in passed), (there, LEVEL_OF[there])]


def _links(arrows: list[tuple[str, str]]) -> list[tuple[Node, Node]]:
    """The arrows in pieces, each from one level to the next."""
    return [(a, b) for arrow in arrows for (a, _), (b, _) in pairwise(_way(*arrow))]


def _crossings(row: Sequence[Node], other: list[Node], links: list[tuple[Node, Node]]) -> int:
    """How often links between two rows cross."""
    ends = [(row.index(a), other.index(b)) for one in links for a, b in (one, one[::-1]) if a in row and b in other]
    return sum(1 for i, (a, b) in enumerate(ends) for c, d in ends[:i] if (a - c) * (b - d) < 0)


def _columns(rows: list[list[Node]], arrows: list[tuple[str, str]]) -> dict[Node, float]:
    """Where each node lies across: arrows as upright as can be, long ones above all; a linear programme."""
    nodes = [node for row in rows for node in row]
    place = {node: index for index, node in enumerate(nodes)}
    links = _links(arrows)
    cost = [0.0] * len(nodes) + [1.0 + 4 * (isinstance(a, tuple) and isinstance(b, tuple)) for a, b in links]
    limits, bounds = [], []
    for index, (a, b) in enumerate(links):  # the length across of a link is at least the distance, either way
        for sign in (1, -1):
            line = np.zeros(len(cost))
            line[place[a]], line[place[b]], line[len(nodes) + index] = sign, -sign, -1
            limits.append(line)
            bounds.append(0.0)
    for row in rows:
        for a, b in pairwise(row):
            line = np.zeros(len(cost))
            line[place[a]], line[place[b]] = 1, -1
            limits.append(line)
            bounds.append(-GAP - sum(BOX if isinstance(node, str) else LANE for node in (a, b)) / 2)
    solved = linprog(cost, np.array(limits), bounds, bounds=(0, None))
    return {node: float(solved.x[index]) for node, index in place.items()}


def _box(
    axes: matplotlib.axes.Axes, corner: tuple[float, float], size: tuple[float, float], face: str, edge: str
) -> None:
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=1.1))


def _arrow(axes: matplotlib.axes.Axes, way: list[tuple[float, float]], colour: str) -> None:
    """A smooth line through the points, upright on every level, with a head."""
    (x0, y0), (x1, y1) = way[0], way[-1]
    vertices, codes = [(x0, y0 - HEIGHT / 2)], [Curve.MOVETO]
    for (xa, ya), (xb, yb) in pairwise(way):  # it goes aside between two levels, and straight down beside boxes
        start, end = ya - HEIGHT / 2, yb + HEIGHT / 2 + (0.07 if (xb, yb) == way[-1] else 0)
        middle = (start + end) / 2
        vertices += [(xa, start), (xa, middle), (xb, middle), (xb, end)]
        codes += [Curve.LINETO, *[Curve.CURVE4] * 3]
    axes.add_patch(PathPatch(Curve(vertices, codes), facecolor="none", edgecolor=colour, linewidth=1.2))
    axes.fill(
        [x1 - 0.05, x1 + 0.05, x1],
        [y1 + HEIGHT / 2 + 0.1, y1 + HEIGHT / 2 + 0.1, y1 + HEIGHT / 2],
        color=colour,
        linewidth=0,
    )


if __name__ == "__main__":
    main()
