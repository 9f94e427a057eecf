"""Tables that know how to write themselves as Markdown (which also reads well as plain text) and as LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nnunetv2_clisc.scoring.statistics import MetricSummary

Mark = Literal["best", "second"]
NOTHING = "–"
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "*": "$^{*}$",
    "±": r"$\pm$", "–": "--",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell that stands out.

    Attributes:
        text: plain.
        mark: `best` is set in bold, `second` underlined.
        star: whether a significance star follows.
    """

    text: str
    mark: Mark | None = None
    star: bool = False

    def to_markdown(self) -> str:
        """The text with its emphasis; a `|` or `*` of the user's stays what it is."""
        text = self.text.replace("|", r"\|").replace("*", r"\*") + (r"\*" if self.star else "")
        return {"best": f"**{text}**", "second": f"<u>{text}</u>", None: text}[self.mark]

    def to_latex(self) -> str:
        """The text with its emphasis, every special character escaped."""
        text = "".join(_LATEX.get(character, character) for character in self.text) + ("$^{*}$" if self.star else "")
        text = re.sub(r"(?<!\w)-(?=\d)", "$-$", text)  # a minus, not a hyphen
        return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", None: text}[self.mark]


@dataclass(frozen=True)
class Table:
    """A table with text on the left and numbers on the right.

    Attributes:
        caption: one sentence.
        header: one text a column.
        rows: as wide as the header.
        left: how many columns from the left hold text.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1

    def to_markdown(self) -> str:
        """The table without its caption, columns aligned by spaces."""
        header, *rows = ([_cell(cell).to_markdown() for cell in row] for row in [self.header, *self.rows])
        widths = [max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]

        def line(cells: list[str]) -> str:
            padded = [
                cell.ljust(width) if column < self.left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            return "| " + " | ".join(padded) + " |"

        rule = [
            ":" + "-" * (width - 1) if column < self.left else "-" * (width - 1) + ":"
            for column, width in enumerate(widths)
        ]
        return "\n".join([line(header), line(rule), *map(line, rows)])

    def to_latex(self) -> str:
        """A `table` float, no wider than the text; needs the packages booktabs and graphicx."""
        columns = "l" * self.left + "r" * (len(self.header) - self.left)
        header, *rows = (
            " & ".join(_cell(cell).to_latex() for cell in row) + r" \\" for row in [self.header, *self.rows]
        )
        return "\n".join(
            [
                r"\begin{table}[htbp]",
                r"\centering",
                rf"\caption{{{_cell(self.caption).to_latex()}}}",
                # only ever smaller: a narrow table keeps the size of its letters
                rf"\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                header,
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}}",
                r"\end{table}",
            ]
        )


def to_markdown(tables: Iterable[Table], notes: Iterable[str] = ()) -> str:
    """Tables with their captions, and the notes as a list."""
    parts = [f"**{table.caption}**\n\n{table.to_markdown()}" for table in tables]
    listed = "\n".join("- " + note.replace("*", r"\*") for note in notes)
    return "\n\n".join([*parts, *([listed] if listed else [])]) + "\n"


def to_latex(tables: Iterable[Table], notes: Iterable[str]) -> str:
    r"""Tables as floats, to be `\input` into a paper; the notes are comments."""
    head = ["% needs \\usepackage{booktabs} and \\usepackage{graphicx}", *(f"% {note}" for note in notes)]
    return "\n\n".join(["\n".join(head), *(table.to_latex() for table in tables)])


def without_nan(content: Any, instead: str | None = None) -> Any:
    """Dictionaries and lists with something else for every NaN: JSON has none, and in a CSV it reads like a value."""
    if isinstance(content, dict):
        return {key: without_nan(value, instead) for key, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value, instead) for value in content]
    return instead if isinstance(content, float) and math.isnan(content) else content


def number(value: float, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    return NOTHING if math.isnan(value) else f"{value:.{digits}f}"


def mean_sd(summary: MetricSummary, *, scale: float = 1.0, digits: int = 3) -> str:
    """`mean ± sd`; the mean alone where one case has no spread, a dash where there is nothing."""
    mean = number(scale * summary.mean, digits)
    return mean if math.isnan(summary.sd) else f"{mean} ± {number(scale * summary.sd, digits)}"


def p_value(p: float) -> str:
    """Three digits; below that, only that it is below."""
    return "<0.001" if p < 0.001 else number(p)


def _cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)
