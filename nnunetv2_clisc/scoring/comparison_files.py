"""What a comparison leaves on disk: JSON, CSV, Markdown, LaTeX and the plots, all of them or none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset_conversion.errors import UserError, explain
from dataset_conversion.files import json_text, table_text, whole, write_json
from nnunetv2_clisc.scoring.comparison import Comparison
from nnunetv2_clisc.scoring.comparison_tables import HD95_WORDS, empty_cases, notes, tables
from nnunetv2_clisc.scoring.evaluation import Evaluation
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.rejection import COVERAGES
from nnunetv2_clisc.scoring.statistics import RESAMPLES
from nnunetv2_clisc.scoring.tables import to_latex, to_markdown, without_nan


def summary(comparison: Comparison) -> dict[str, Any]:
    """The numbers as JSON: `methods.NAME.dsc.mean` and so on; DSC in 0 to 1, and `None` for what is undefined."""
    definitions = {metric: about.definition for metric, about in METRICS.items()}
    definitions["hd95_mm"] += f"; {HD95_WORDS[comparison.settings.hd95]}"
    definitions["sd"] = "over cases, n - 1; undefined values are left out and counted as nan"
    definitions["comparisons"] = "method minus competitor; percentile bootstrap over cases; Holm within a metric"
    content = {
        "methods": {
            method.name: _summaries(method) | {"volume_correlation": method.volume_correlation()}
            for method in comparison.compared
        },
        "size_groups": {
            group.name: {
                "above_ml": group.above_ml,
                "up_to_ml": group.up_to_ml,
                "n": len(group.cases),
                "methods": {
                    method.name: _summaries(method.only(group.cases)) if group.cases else {}
                    for method in comparison.compared
                },
            }
            for group in comparison.groups
        },
        "comparisons": [
            {"metric": one.metric, "method": one.method, "competitor": one.competitor}
            | asdict(one.test)
            | {"t_p_holm": one.t_p_holm, "wilcoxon_p_holm": one.wilcoxon_p_holm}
            for one in comparison.versus
        ],
        "rejection": {
            name: {
                "spearman": found.spearman,
                "aurc": found.aurc,
                "aurc_ideal": found.ideal,
                "aurc_random": found.random,
                "dsc_at_coverage": {f"{coverage:g}": found.at(coverage) for coverage in COVERAGES},
                "cases": len(found.dsc),
            }
            for name, found in comparison.rejections.items()
        },
        "cases": _case_rows(comparison),
        "missing": comparison.missing,
        "unpredicted": list(comparison.unpredicted),
        "unreferenced": {name: list(cases) for name, cases in comparison.unreferenced.items()},
        "empty": empty_cases(comparison),
        "settings": asdict(comparison.settings) | {"seed": comparison.seed, "resamples": RESAMPLES},
        "definitions": definitions,
    }
    plain: dict[str, Any] = without_nan(content)
    return plain


def write_summary(comparison: Comparison, path: Path) -> None:
    """Write `summary()` to a file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    try:
        write_json(path, summary(comparison))
    except OSError as error:
        raise UserError(f"--json {_reason(error, path)}") from error


def write_folder(comparison: Comparison, output: Path) -> None:
    """Write summary.json, cases.csv, table.md, table.tex and the plots into a folder, which is made.

    Everything is made in memory first, written under temporary names, and renamed into place when all is on the disk.

    Raises:
        UserError: the folder cannot be written.
    """
    from nnunetv2_clisc.scoring.plots import (
        plots,  # here, because matplotlib is slow to import and `evaluate` may not need it
    )

    rows = _case_rows(comparison)
    texts = {
        "summary.json": json_text(summary(comparison)),
        "cases.csv": table_text(list(rows[0]), without_nan(rows, "")),
        "table.md": markdown(comparison),
        "table.tex": latex(comparison),
    }
    files = {name: text.encode() for name, text in texts.items()} | plots(comparison)
    try:
        output.mkdir(parents=True, exist_ok=True)
        _write_all(output, files)
    except OSError as error:
        raise UserError(f"-o {_reason(error, output)}") from error


def markdown(comparison: Comparison) -> str:
    """All tables with their captions, and the notes."""
    return to_markdown(tables(comparison), notes(comparison))


def latex(comparison: Comparison) -> str:
    """All tables for a paper, with the notes as comments."""
    return to_latex(tables(comparison), notes(comparison)) + "\n"


def _summaries(method: Evaluation) -> dict[str, Any]:
    return {metric: asdict(one) for metric, one in method.summary().items()}


def _case_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for every case of every method, also for what is missing or was not compared."""
    size = {case: group.name for group in comparison.groups for case in group.cases}
    compared = set(comparison.cases)
    rows = []
    for method in comparison.methods:
        alone = comparison.unreferenced.get(method.name, ())
        for case in [*comparison.all_cases, *comparison.unpredicted, *alone]:
            if case in compared:
                status = "compared"
            elif case in method.cases:
                status = "not compared"
            else:
                status = "no reference" if case in alone else "missing"
            values = method.cases.get(case, dict.fromkeys(method.metrics, math.nan))
            about: dict[str, Any] = {"method": method.name, "case": case, "status": status, "size": size.get(case, "")}
            if trusted := comparison.rejections.get(method.name):
                about["confidence"] = trusted.confidence.get(case, math.nan)
            elif comparison.rejections:
                about["confidence"] = math.nan
            rows.append(about | dict(values))
    return rows


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write every file under a temporary name, then rename them all."""
    with ExitStack() as all_written:
        for name, data in files.items():
            all_written.enter_context(whole(folder / name)).write_bytes(data)


def _reason(error: OSError, place: Path) -> str:
    """Why a file or folder was not written; the user knows it by its name, not by the temporary one."""
    return "cannot be written: " + explain(OSError(error.errno, error.strerror, str(place)))
