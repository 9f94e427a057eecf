"""What `ablate` leaves on disk: table.md, table.tex, table.csv, summary.json and the two curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dataset_conversion.files import write_bytes, write_json, write_table, write_text
from nnunetv2_clisc.scoring.comparison import Comparison
from nnunetv2_clisc.scoring.comparison_files import write_folder
from nnunetv2_clisc.scoring.evaluation import Evaluation
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.plots import COLOURS, MARKERS, rendered, styled
from nnunetv2_clisc.scoring.statistics import MetricSummary, summarise
from nnunetv2_clisc.scoring.tables import NOTHING, Table, mean_sd, to_latex, to_markdown, without_nan
from nnunetv2_clisc.studies.ablation.runs import Run

SHOWN = ("dsc", "hd95_mm")
PER_PICTURE = ("precision", "recall", "dsc", "iou")  # what C2S reports; its F1 is the DSC


@dataclass(frozen=True)
class Result:
    """One run with one seed.

    Attributes:
        seed: number of the repetition, from 0.
        predictions: folder of its masks.
        scores: against the masks.
        labels: what its last training learned from, against masks; None where there are none.
    """

    seed: int
    predictions: Path
    scores: Evaluation
    labels: Evaluation | None = None


Results = Mapping[str, Sequence[Result]]


def summary_of(results: Sequence[Result], metric: str, which: str = "scores") -> MetricSummary | None:
    """With one seed mean and sd over cases, with several mean and sd over the seeds' means."""
    evaluations = [getattr(result, which) for result in results]
    if any(each is None for each in evaluations):
        return None
    if len(evaluations) == 1:
        one: MetricSummary = evaluations[0].summary()[metric]
        return one
    means = [each.summary()[metric] for each in evaluations]
    over = summarise([each.mean for each in means])
    return MetricSummary(over.mean, over.sd, over.n, sum(each.nan for each in means))


def table_of(title: str, runs: Sequence[Run], results: Results, shown: Sequence[str] = SHOWN) -> Table:
    """One row a run: DSC and HD95 (or other metrics) on the scored scans, and DSC of the last training's labels."""
    seeds = max(len(results[run.name]) for run in runs)
    cases = max(len(result.scores.cases) for run in runs for result in results[run.name])
    with_labels = any(result.labels for run in runs for result in results[run.name])
    rows = []
    for run in runs:
        row = [run.title]
        for metric in shown:
            about = METRICS[metric]
            found = summary_of(results[run.name], metric)
            row.append(mean_sd(found, scale=about.scale, digits=about.digits) if found else NOTHING)
        if "hd95_mm" in shown:
            hd95 = summary_of(results[run.name], "hd95_mm")
            row.append(str(hd95.nan) if hd95 else NOTHING)
        if with_labels:
            quality = summary_of(results[run.name], "dsc", "labels")
            row.append(mean_sd(quality, scale=100, digits=2) if quality else NOTHING)
        rows.append(row)
    over = f"over {cases} cases" if seeds == 1 else f"over {seeds} seeds, of the means over {cases} cases"
    header = ["Run", *(METRICS[metric].heading for metric in shown), *(["no HD95"] if "hd95_mm" in shown else [])]
    return Table(f"{title} (mean ± sd {over})", header + (["Labels' DSC (%)"] if with_labels else []), rows)


def write_ablation(output: Path, runs: Sequence[Run], results: Results, facts: Mapping[str, Any]) -> str:
    """Write all files; each whole or not at all.

    Args:
        output: folder.
        runs: in the order of the tables.
        results: of each run by name, one a seed.
        facts: what the user asked for, for the notes and `summary.json`.

    Returns:
        The tables as Markdown.
    """
    groups = {
        "Ablation, as Table 2 of the paper": [run for run in runs if run.group == "table2"],
        "Effect of α (AMDA), as Fig. 3 (a)": [run for run in runs if run.group == "alpha"],
        "Effect of β (S3F), as Fig. 3 (b)": [run for run in runs if run.group == "beta"],
        "Classification-to-Segmentation": [run for run in runs if run.group == "c2s"],
        "UM-SAM: what each loss earns": [run for run in runs if run.group == "um-sam"],
        "AISCT-SAM: what each part earns": [run for run in runs if run.group == "sam-adapter"],
    }
    tables = [
        table_of(title, chosen, results, PER_PICTURE if chosen[0].group == "c2s" else SHOWN)
        for title, chosen in groups.items()
        if chosen
    ]
    own = f"The dataset's own settings: α = {facts['alpha']:g}, β = {facts['beta']:g}; " if "alpha" in facts else ""
    notes = [
        f"{own}network {facts['trainer']}.",
        "CAMs and SAM masks are those of the same scans that the networks predict, made by the stored classifiers.",
        "Labels' DSC: labels of the last training against masks, where there are any.",
    ]
    text = to_markdown(tables, notes)
    write_text(output / "table.md", text)
    write_text(output / "table.tex", to_latex(tables, notes))
    rows = _rows(runs, results)
    write_table(output / "table.csv", list(rows[0]), rows)
    write_json(output / "summary.json", {**facts, "methods": _methods(runs, results)})
    for name, data in curves(runs, results).items():
        write_bytes(output / name, data)
    table2 = [results[run.name][0].scores for run in runs if run.group == "table2"]
    if len(table2) > 1:
        write_folder(Comparison(table2), output / "comparison")
    return text


def curves(runs: Sequence[Run], results: Results) -> dict[str, bytes]:
    """`alpha` and `beta` as PNG and SVG, each where two points of it were run."""
    files = {}
    for group, axis in (("alpha", "α of AMDA (% of the ROI)"), ("beta", "β of S3F (percentile)")):
        chosen = [run for run in runs if run.group == group]
        series = {
            "alpha": {
                "CAM": [r for r in chosen if r.stage == "roi"],
                "SAM masks": [r for r in chosen if r.stage == "mask"],
            },
            "beta": {"network after round 2": chosen},
        }[group]
        lines = {name: _points(members, results, "scores") for name, members in series.items() if members}
        trained = [run for run in chosen if run.stage != "roi"]
        if labelled := _points(trained, results, "labels"):
            lines["labels of the training cases"] = labelled
        lines = {name: points for name, points in lines.items() if len(points) > 1}
        if lines:
            with styled():
                figure = _figure(lines, axis, several=max(len(results[run.name]) for run in chosen) > 1)
                for kind in ("png", "svg"):
                    files[f"{group}.{kind}"] = rendered(figure, kind)
    return files


def _points(runs: Sequence[Run], results: Results, which: str) -> list[tuple[float, float, float]]:
    """Setting, mean DSC in per cent and its sd over seeds (NaN with one)."""
    found = []
    for run in runs:
        one = summary_of(results[run.name], "dsc", which)
        at = run.alpha if run.group == "alpha" else run.beta
        if one is not None and at is not None:
            found.append((float(at), 100 * one.mean, 100 * one.sd if len(results[run.name]) > 1 else math.nan))
    return sorted(found)


def _figure(lines: Mapping[str, Sequence[tuple[float, float, float]]], axis: str, *, several: bool) -> Figure:
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    ax = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        x, y, sd = np.array(points).T
        look: Any = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": ("-", "--", "-.")[i]}
        ax.errorbar(x, y, yerr=sd if several else None, capsize=3, label=name, **look)
    ax.set_xticks(sorted({x for points in lines.values() for x, _, _ in points}))
    ax.set_xlabel(axis)
    ax.set_ylabel("DSC (%)" + (", mean ± sd over seeds" if several else ", mean over cases"))
    ax.grid(axis="y", alpha=0.3)
    ax.legend(frameon=False)
    return figure


def _rows(runs: Sequence[Run], results: Results) -> list[dict[str, Any]]:
    """A row for every run and seed, means over cases; DSC in 0 to 1."""
    rows = []
    for run in runs:
        for result in results[run.name]:
            scores = result.scores.summary()
            row: dict[str, Any] = {"run": run.name, "title": run.title, "seed": result.seed}
            for metric in SHOWN:
                row |= {f"{metric}_mean": scores[metric].mean, f"{metric}_sd": scores[metric].sd}
            row |= {"cases": len(result.scores.cases), "no_hd95": scores["hd95_mm"].nan}
            row["labels_dsc"] = "" if result.labels is None else result.labels.summary()["dsc"].mean
            rows.append(row | {"predictions": str(result.predictions)})
    plain: list[dict[str, Any]] = without_nan(rows, "")
    return plain


def _methods(runs: Sequence[Run], results: Results) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    for run in runs:
        about: dict[str, Any] = {"title": run.title, "group": run.group}
        for metric in METRICS:
            found = summary_of(results[run.name], metric)
            about[metric] = _plain(found)
        about["labels_dsc"] = _plain(summary_of(results[run.name], "dsc", "labels"))
        about["seeds"] = [_plain(result.scores.summary()["dsc"]) for result in results[run.name]]
        methods[run.name] = about
    return methods


def _plain(found: MetricSummary | None) -> dict[str, Any] | None:
    return None if found is None else without_nan(asdict(found))
