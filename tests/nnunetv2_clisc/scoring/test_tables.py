"""Tables as Markdown and LaTeX."""

from __future__ import annotations

import math
import re

from nnunetv2_clisc.scoring.statistics import MetricSummary
from nnunetv2_clisc.scoring.tables import Cell, Table, mean_sd, p_value

TABLE = Table(
    "50 % of_all",
    ["Method", "DSC (%)"],
    [["a_b & c|d*", Cell("80.0 ± 1.0", "best", star=True)], ["plain", Cell("-7.0", "second")], ["-x", "–"]],
)


def test_markdown_has_columns_of_one_width() -> None:
    lines = TABLE.to_markdown().splitlines()
    assert len({len(line) for line in lines}) == 1
    # a bar inside a cell must not make a column
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert r"**80.0 ± 1.0\***" in lines[2]
    assert "<u>-7.0</u>" in lines[3]
    assert set(lines[1]) == set("|:- ")


def test_latex_escapes_what_would_break_it() -> None:
    text = TABLE.to_latex()
    assert r"a\_b \& c|d$^{*}$ & \textbf{80.0 $\pm$ 1.0$^{*}$} \\" in text
    assert r"plain & \underline{$-$7.0} \\" in text
    assert r"\caption{50 \% of\_all}" in text
    rows = re.findall(r"^.*\\\\$", text, re.MULTILINE)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {1}
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert re.findall(r"\\begin{(\w+)}", text) == re.findall(r"\\end{(\w+)}", text)[::-1]


def test_backslash_and_braces_are_escaped_once() -> None:
    assert Cell(r"\x{1}^~<>#$").to_latex() == (r"\textbackslash{}x\{1\}\textasciicircum{}\textasciitilde{}$<$$>$\#\$")


def test_numbers() -> None:
    assert mean_sd(MetricSummary(0.5, 0.25, 3, 0), scale=100, digits=1) == "50.0 ± 25.0"
    assert mean_sd(MetricSummary(0.5, math.nan, 1, 0)) == "0.500"
    assert mean_sd(MetricSummary(math.nan, math.nan, 0, 2)) == "–"
    assert [p_value(p) for p in (0.0004, 0.0123, 1.0, math.nan)] == ["<0.001", "0.012", "1.000", "–"]
