"""From what was read, measured and drawn to one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nnunetv2_clisc import __version__
from nnunetv2_clisc.report import figures, tables
from nnunetv2_clisc.report.galleries import DROPPED_SHOWN, Galleries
from nnunetv2_clisc.report.measures import Measures, choose
from nnunetv2_clisc.report.records import (
    CaseSlices,
    decisions,
    labelling_summary,
    slice_labels,
    split_of,
    training_curves,
)
from nnunetv2_clisc.report.sources import Run
from nnunetv2_clisc.scoring.evaluation import Evaluation
from nnunetv2_clisc.scoring.statistics import summarise
from nnunetv2_clisc.scoring.tables import mean_sd, number
from nnunetv2_clisc.training.s3f import Decision


def render(run: Run, measures: Measures) -> str:
    """The whole page.

    Raises:
        UserError: a file of the run cannot be read, or does not fit.
    """
    slices, counts, split = slice_labels(run), labelling_summary(run), split_of(run)
    decided, s3f = decisions(run)
    curves = training_curves(run)
    galleries = Galleries(run, measures)
    choice = choose(run, measures)
    script = files(__package__).joinpath("report.js").read_text(encoding="utf-8")
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    context = {
        "run": run,
        "measures": measures,
        "title": run.files.dataset.name,
        "version": __version__,
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": style,
        "tiles": tiles(run, measures, slices, counts, decided, split),
        "empty": [case for case, row in counts.items() if row["mask_voxels"] == 0],
        "cases": tables.cases_table(run, measures, counts, slices, decided, split),
        "choice": choice,
        "stages": galleries.stages(choice),
        "clusters": tables.clusters_table(run.clusters) if run.clusters is not None else None,
        "sheets": figures.cluster_sheets(run.clusters) if run.clusters is not None else [],
        "strips": figures.slice_strips(slices, measures.lesion),
        "classifier": figures.classifier_charts(run.files.root / "classifier"),
        "rounds": figures.round_charts(curves),
        "decisions": decided,
        "s3f": s3f,
        "s3f_used": any(d.agreement.similarity is not None for d in decided),
        "kept_dsc": _mean_dsc(measures.round_1, [d for d in decided if d.kept]),
        "dropped_dsc": _mean_dsc(measures.round_1, [d for d in decided if not d.kept]),
        "histogram": figures.histogram(decided, s3f) if decided else "",
        "scatter": figures.scatter(decided, s3f, measures.round_1) if measures.correlation and measures.round_1 else "",
        "dropped": tables.dropped_table(decided, measures),
        "dropped_pictures": galleries.dropped(decided, s3f),
        "dropped_shown": DROPPED_SHOWN,
        "others": galleries.others(),
        "predictions": tables.predictions_table(measures.pred) if measures.pred else None,
        "weights": tables.weights_table(run, s3f, curves),
        "settings": tables.settings_table(run.record),
        "versions": tables.versions_table(run.record),
    }
    # no loader but the package's own files, and everything that is put into the page is escaped
    environment = Environment(
        loader=PackageLoader("nnunetv2_clisc.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["nan"] = math.isnan
    return environment.get_template("report.html").render(context)


def tiles(
    run: Run,
    measures: Measures,
    slices: Mapping[str, CaseSlices],
    counts: Mapping[str, Mapping[str, int]],
    decided: Sequence[Decision],
    split: Mapping[str, str],
) -> list[tuple[str, str]]:
    """The numbers to begin with: a value, and what it is."""
    cases = run.files.cases()
    parts = [f"{sum(split.get(case) == part for case in cases)} {part}" for part in ("train", "val")] if split else []
    found = [(str(len(cases)), "cases" + (f" ({', '.join(parts)})" if parts else ""))]
    called = [value for one in slices.values() for value in one.label]
    if run.clusters is None:
        found.append((f"{100 * sum(called) / max(len(called), 1):.0f} %", f"of {len(called)} slices labelled tumour"))
    else:
        chosen, every = (sum(row[name] for row in counts.values()) for name in ("chosen_segments", "segments"))
        found.append((f"{chosen} of {every}", "segments of SAM's in the chosen cluster"))
    if counts:
        empty = sum(row["mask_voxels"] == 0 for row in counts.values())
        found.append((str(empty), "empty pseudo-labels" if empty != 1 else "empty pseudo-label"))
    if any(d.agreement.similarity is not None for d in decided):
        dropped = sum(not d.kept for d in decided)
        found.append((f"{dropped} of {len(decided)}", "training cases dropped by S3F"))
    if measures.slices is not None:
        f1, auc, _ = measures.slices
        found.append((f"{f1:.3f}", f"F1 of the slice labels (AUC {number(auc, 2)})"))
    for of, words in ((measures.labels, "pseudo-labels"), (measures.pred, f"{run.pred_name} (--pred)")):
        if of is not None:
            found.append((_mean(of), f"DSC of {words} in % ({len(of.cases)} cases)"))
    if measures.correlation is not None:
        found.append((number(measures.correlation.rho, 2), "Spearman's ρ of S3F similarity and true DSC"))
    return found


def _mean(of: Evaluation) -> str:
    return mean_sd(of.summary()["dsc"], scale=100, digits=1)


def _mean_dsc(of: Evaluation | None, decided: Sequence[Decision]) -> str:
    """Mean ± sd of the true DSC of some decisions in per cent; empty where nothing is known."""
    values: list[Any] = (
        [of.cases[d.agreement.case]["dsc"] for d in decided if d.agreement.case in of.cases] if of else []
    )
    return mean_sd(summarise(values), scale=100, digits=1) if values else ""
