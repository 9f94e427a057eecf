"""The charts of a report: training curves, similarities, similarity against true DSC, slice labels."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from dataset_conversion.files import read_json
from nnunetv2_clisc.report.charts import Chart, bounds, strip
from nnunetv2_clisc.report.records import CaseSlices, Curves
from nnunetv2_clisc.scoring.evaluation import Evaluation
from nnunetv2_clisc.training.s3f import Decision

BIN = 0.05  # of similarity


def round_charts(curves: Sequence[Curves]) -> list[tuple[Curves, Markup, Markup]]:
    """Losses and pseudo-Dice of each round; all rounds on the same axes, so that they can be compared by eye."""
    if not curves:
        return []
    losses = [value for one in curves for key in ("train_losses", "val_losses") for value in one.logging[key]]
    longest = max(one.epochs for one in curves)
    charts = []
    for one in curves:
        epochs = range(1, one.epochs + 1)
        title = f"Round {one.number}"
        loss = Chart(f"{title}: losses", (1, longest), bounds(losses), x_title="epoch", y_title="loss")
        loss.line(list(zip(epochs, one.logging["train_losses"], strict=False)), "blue")
        loss.line(list(zip(epochs, one.logging["val_losses"], strict=False)), "orange dashed")
        dice = Chart(f"{title}: Dice", (1, longest), (0, 1), x_title="epoch", y_title="Dice against pseudo-labels")
        dice.dots(list(zip(epochs, one.logging["mean_fg_dice"], strict=False)), "dot-orange square", radius=2)
        dice.line(list(zip(epochs, one.logging["ema_fg_dice"], strict=False)), "blue")
        charts.append((one, loss.svg(), dice.svg()))
    return charts


def classifier_charts(folder: Path) -> list[tuple[str, Markup]]:
    """Losses of the slice classifier before and after AMDA, with the epoch that was kept."""
    charts = []
    for name, words in (("raw", "Classifier"), ("amda", "Classifier after AMDA")):
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        record = read_json(path)
        history: list[dict[str, Any]] = record["history"]
        epochs = [float(one["epoch"]) for one in history]
        train = [float(one["train_loss"]) for one in history]
        judged = [
            (float(one["epoch"]), float(one["held_out_loss"])) for one in history if one["held_out_loss"] is not None
        ]
        chart = Chart(
            f"{words}: losses", (min(epochs), max(epochs)), bounds([0.0, *train, *(loss for _, loss in judged)]),
            size=(460, 220), x_title="epoch", y_title="loss", x_ticks=epochs if len(epochs) <= 10 else None,
        )  # fmt: skip
        chart.mark(record["best_epoch"], f"kept: epoch {record['best_epoch']}")
        chart.line(list(zip(epochs, train, strict=True)), "blue")
        if judged:  # with nothing held out there is no such curve
            chart.line(judged, "orange dashed")
        charts.append((words, chart.svg()))
    return charts


def cluster_sheets(record: Path) -> list[tuple[str, str]]:
    """The pictures beside the record of clusters, as words and data URI."""
    pictures = (
        ("some segments of each cluster, the chosen one in orange", "contact_sheet.png"),
        ("sum of squared errors over the number of clusters", "sse.png"),
    )
    return [
        (words, f"data:image/png;base64,{base64.b64encode((record.parent / name).read_bytes()).decode()}")
        for words, name in pictures
        if (record.parent / name).is_file()
    ]


def histogram(decisions: Sequence[Decision], summary: Mapping[str, Any]) -> Markup:
    """How many cases have which similarity, kept and dropped apart, with the threshold."""
    values = [(d.agreement.similarity or 0.0, d.kept) for d in decisions]
    edges = np.arange(0, 1 + BIN / 2, BIN)
    counts = {
        kept: np.histogram([value for value, is_kept in values if is_kept == kept], edges)[0] for kept in (True, False)
    }
    most = int(max((counts[True] + counts[False]).max(), 1))
    chart = Chart(
        f"Histogram of {len(values)} similarities", (0, 1), (0, most * 1.12),
        x_title="S3F similarity", y_title="training cases", y_ticks=range(0, most + 1, max(-(-most // 5), 1)),
    )  # fmt: skip
    for i, (low, high) in enumerate(pairwise(edges)):
        dropped, kept = int(counts[False][i]), int(counts[True][i])
        inner = (low + 0.003, high - 0.003)
        for start, count, look, word in ((0, dropped, "fill-orange", "dropped"), (dropped, kept, "fill-blue", "kept")):
            if count:
                chart.box(inner, (start, start + count), look, f"{low:.2f} to {high:.2f}: {count} {word}")
    if "threshold" in summary:
        chart.mark(summary["threshold"], f"threshold {summary['threshold']:.3f} (β = {summary['beta']:g})")
    return chart.svg()


def scatter(decisions: Sequence[Decision], summary: Mapping[str, Any], round_1: Evaluation) -> Markup:
    """S3F's similarity of each training case against the true DSC of its prediction."""
    chart = Chart(
        "Similarity against true DSC", (0, 1), (0, 1), size=(460, 300),
        x_title="S3F similarity", y_title="DSC of round 1",
    )  # fmt: skip
    if "threshold" in summary:
        chart.mark(summary["threshold"], "threshold")
    for kept, look in ((True, "dot-blue"), (False, "dot-orange square")):
        mine = [d.agreement for d in decisions if d.kept == kept and d.agreement.case in round_1.cases]
        points = [(one.similarity or 0.0, round_1.cases[one.case]["dsc"], one.case) for one in mine]
        points = [point for point in points if not math.isnan(point[1])]
        names = [f"{case}: similarity {x:.3f}, DSC {100 * y:.1f} %" for x, y, case in points]
        chart.dots([(x, y) for x, y, _ in points], look, names)
    return chart.svg()


def slice_strips(
    labels: Mapping[str, CaseSlices], lesion: Mapping[str, Sequence[bool]]
) -> list[tuple[str, CaseSlices, Markup]]:
    """The small chart of every case; where a mask is given, with the slices that show the lesion."""
    strips = []
    for case, slices in labels.items():
        truth = lesion.get(case)
        if truth is not None and len(truth) != len(slices.label):
            truth = None
        strips.append((case, slices, strip(slices.probability, slices.label, slices.numbers, truth, case)))
    return strips
