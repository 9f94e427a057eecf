"""The pictures of a comparison, as PNG and SVG: box plots, DSC against tumour volume, Bland-Altman plots of volumes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nnunetv2_clisc.scoring.comparison import Comparison
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.rejection import selective_means

# Okabe and Ito's colours without the pale yellow, told apart with any colour vision; the marker says the same once more
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
COLUMNS = 3
GREY = "#666666"
_STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "clisc"}


@contextmanager
def styled() -> Iterator[None]:
    """The look of our pictures, whatever others have set: nnU-Net's logger enlarges every font of the process."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def plots(comparison: Comparison) -> dict[str, bytes]:
    """All pictures as files by name; the same comparison gives the same bytes."""
    with styled():
        figures = {
            "boxplots": box_plots(comparison),
            "dsc_by_volume": dsc_by_volume(comparison),
            "bland_altman": bland_altman(comparison),
        }
        if comparison.rejections:
            figures["risk_coverage"] = risk_coverage(comparison)
        return {f"{name}.{kind}": rendered(figure, kind) for name, figure in figures.items() for kind in ("png", "svg")}


def box_plots(comparison: Comparison) -> Figure:
    """DSC, HD95 and ASSD of every method: quartiles, whiskers to 1.5 of their range, and every case as a point."""
    metrics = ("dsc", "hd95_mm", "assd_mm")
    methods = comparison.compared
    figure = Figure(figsize=(10, 1.4 + 0.42 * len(methods)), layout="constrained")
    rng = np.random.default_rng(0)  # of the points' places across the box only
    for ax, metric in zip(_axes(figure, 1, len(metrics)), metrics, strict=True):
        about = METRICS[metric]
        values = [about.scale * np.array(method.values(metric)) for method in methods]
        values = [one[~np.isnan(one)] for one in values]
        # from the top down in the order given; names on the left have room however long they are
        places = np.arange(len(methods), 0, -1)
        boxes = ax.boxplot(
            values, positions=places, orientation="horizontal", widths=0.6, showfliers=False, patch_artist=True,
            medianprops={"color": "black", "linewidth": 1.6},
        )  # fmt: skip
        for i, (patch, place) in enumerate(zip(boxes["boxes"], places, strict=True)):
            patch.set(facecolor=COLOURS[i % len(COLOURS)], alpha=0.35)
            across = place + rng.uniform(-0.18, 0.18, values[i].size)
            ax.scatter(values[i], across, s=9, color=COLOURS[i % len(COLOURS)], linewidths=0, zorder=3, alpha=0.8)
        names = [_short(method.name) for method in methods]
        ax.set_yticks(places, names if metric == metrics[0] else [""] * len(names))
        ax.set_ylim(0.4, len(methods) + 0.6)
        ax.set_xlabel(_heading(about.heading, [method.values(metric) for method in methods]))
        farthest = max((one.max() for one in values if one.size), default=1.0)
        top = 100.0 if metric == "dsc" else max(farthest, 1.0)
        ax.set_xlim(-0.02 * top, 1.03 * top)  # a point on the edge stays whole
        ax.grid(axis="x", alpha=0.3)
    return figure


def dsc_by_volume(comparison: Comparison) -> Figure:
    """DSC of every case against its reference volume, with the size groups' limits and each method's means in them."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    (ax,) = _axes(figure, 1, 1)
    for i, method in enumerate(comparison.compared):
        cases = [case for case in method.cases.values() if case["reference_ml"] > 0]
        look = _look(i)
        x, y = [case["reference_ml"] for case in cases], [100 * case["dsc"] for case in cases]
        ax.scatter(x, y, s=16, alpha=0.5, linewidths=0, label=_short(method.name), clip_on=False, **look)
        means = [
            (
                math.exp(np.mean([math.log(method.cases[case]["reference_ml"]) for case in group.cases])),
                100 * np.mean([method.cases[case]["dsc"] for case in group.cases]),
            )
            for group in comparison.groups
            if group.cases
        ]
        if len(means) > 1:
            # where the colours begin again the line is dashed
            dashes = ("-", "--", "-.", ":")[i // len(COLOURS) % 4]
            ax.plot(*zip(*means, strict=True), **look, markersize=6, markeredgecolor="white", ls=dashes, lw=1.5)
    for group in comparison.groups[:-1]:
        ax.axvline(group.up_to_ml, color=GREY, linewidth=0.7, linestyle=":", zorder=0)
    ax.plot([], [], color=GREY, linewidth=1.5, label="means of the size groups")
    ax.plot([], [], color=GREY, linewidth=0.7, linestyle=":", label="limits of the size groups")
    volumes = [ml for ml in comparison.compared[0].values("reference_ml") if ml > 0]
    if volumes and max(volumes) >= 5 * min(volumes):  # else a logarithmic axis might show no number at all
        ax.set_xscale("log")
        for set_formatter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            set_formatter(FuncFormatter(lambda ml, _: f"{ml:g}" if f"{ml:e}"[0] in "125" else ""))
    ax.set_ylim(0, 100)
    ax.tick_params(axis="x", which="both", length=4, pad=4)
    ax.set_xlabel("Reference volume (ml)")
    ax.set_ylabel("DSC (%)")
    ax.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def bland_altman(comparison: Comparison) -> Figure:
    """Predicted minus reference volume against their mean, a panel a method, with bias and limits of agreement.

    Every panel has its own scale: on a common one a single poor method would flatten all others.
    """
    methods = comparison.compared
    columns = 2 if len(methods) == 4 else min(COLUMNS, len(methods))
    rows = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(max(3.2 * columns, 4), 2.9 * rows), layout="constrained")
    axes = _axes(figure, rows, columns)
    for i, (ax, method) in enumerate(zip(axes, methods, strict=False)):
        predicted, reference = (np.array(method.values(f"{which}_ml")) for which in ("prediction", "reference"))
        difference = predicted - reference
        look = _look(i)
        ax.scatter((predicted + reference) / 2, difference, s=16, linewidths=0, alpha=0.75, **look)
        ax.axhline(0, color=GREY, linewidth=0.7)
        bias = float(difference.mean())
        words = f"bias {bias:.1f} ml"
        ax.axhline(bias, color="black", linewidth=1.2)
        if difference.size > 1:
            spread = 1.96 * float(difference.std(ddof=1))
            for limit in (bias - spread, bias + spread):
                ax.axhline(limit, color="black", linewidth=0.9, linestyle="--")
            words += f", limits {bias - spread:.1f} to {bias + spread:.1f}"
        ax.set_title(_short(method.name) + "\n" + words.replace("-", "−"), fontsize=9)
    for ax in axes[len(methods) :]:
        ax.remove()
    figure.supxlabel("Mean of predicted and reference volume (ml)", fontsize=9)
    figure.supylabel("Predicted − reference volume (ml), scale per panel", fontsize=9)
    return figure


def risk_coverage(comparison: Comparison) -> Figure:
    """Mean DSC of the cases that are kept, by their share, beside the best order there is and that of chance."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    (ax,) = _axes(figure, 1, 1)
    names = [method.name for method in comparison.compared]
    for name, found in comparison.rejections.items():
        colour = COLOURS[names.index(name) % len(COLOURS)]
        kept = 100 * np.arange(1, len(found.dsc) + 1) / len(found.dsc)
        scores = np.array(list(found.dsc.values()))
        ax.plot(kept, 100 * found.selective, color=colour, lw=1.8, label=_short(name))
        ax.plot(kept, 100 * selective_means(scores, scores), color=colour, lw=1, ls="--")
        ax.axhline(100 * scores.mean(), color=colour, lw=1, ls=":")
    for words, dashes in (("the best order there is", "--"), ("an order at random", ":")):
        ax.plot([], [], color=GREY, lw=1, ls=dashes, label=words)
    ax.set_xlim(0, 101)
    ax.set_xlabel("Cases kept, those with the highest confidence (%)")
    ax.set_ylabel("Mean DSC (%)")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _look(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def _axes(figure: Figure, rows: int, columns: int) -> list[Axes]:
    return list(figure.subplots(rows, columns, squeeze=False).flat)


def _heading(heading: str, values: list[list[float]]) -> str:
    undefined = sum(math.isnan(value) for one in values for value in one)
    return f"{heading}; {undefined} undefined" if undefined else heading


def _short(name: str, most: int = 28) -> str:
    """A name that leaves room for the picture, with no character that matplotlib reads as mathematics."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a `png` or `svg` file, the same for the same figure."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    # no date, so that a rerun leaves the same file
    figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {})
    return file.getvalue()
