"""The tables of a comparison: the paper's Table 1, further metrics, tests, cases; and the notes that go under them."""

from __future__ import annotations

import math

from dataset_conversion.errors import named
from nnunetv2_clisc.scoring.comparison import Comparison
from nnunetv2_clisc.scoring.evaluation import Evaluation
from nnunetv2_clisc.scoring.masks import listed
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.rejection import COVERAGES
from nnunetv2_clisc.scoring.statistics import summarise
from nnunetv2_clisc.scoring.tables import NOTHING, Cell, Mark, Table, mean_sd, number, p_value

ALPHA = 0.05
MAIN = ("dsc", "hd95_mm")
FURTHER = ("assd_mm", "precision", "recall", "volume_error_ml", "volume_error_relative")
HD95_WORDS = {
    "pooled": "both directions' distances pooled, as medpy",
    "larger": "the larger of the two directions' percentiles, as MONAI",
}
POLICY_WORDS = {
    "nan": "What an empty mask leaves undefined is left out of the means and counted.",
    "worst": "Empty masks: penalty as in BraTS (distances: the volume's diagonal; shares: 0; both empty: the best).",
    "public-code": "Empty predictions: HD95 and ASSD count as 0 mm, as in CLISC's public code. That flatters failures.",
}


def main_table(comparison: Comparison) -> Table:
    """Table 1 of the paper: DSC and HD95 over all cases, and DSC by size of the tumour."""
    undefined = any(summarise(method.values("hd95_mm")).nan for method in comparison.compared)
    rows: list[list[str | Cell]] = []
    for method in comparison.compared:
        row: list[str | Cell] = [method.name]
        row += [_mean_cell(comparison, method, metric, star=True) for metric in MAIN]
        if undefined:
            row.append(str(summarise(method.values("hd95_mm")).nan))
        row += [_mean_cell(comparison, method, "dsc", cases=group.cases) for group in comparison.groups]
        rows.append(row)
    sizes = [f"{group.name.capitalize()} (n={len(group.cases)})" for group in comparison.groups]
    header = ["Method", *(METRICS[metric].heading for metric in MAIN), *(["no HD95"] if undefined else []), *sizes]
    caption = f"DSC and HD95 (mean ± sd over {len(comparison.cases)} cases), and DSC (%) by tumour size"
    return Table(caption, header, rows)


def further_table(comparison: Comparison) -> Table:
    """The other metrics, and the correlation of volumes."""
    correlations = {method.name: method.volume_correlation() for method in comparison.compared}
    rows: list[list[str | Cell]] = [
        [
            method.name,
            *(_mean_cell(comparison, method, metric, star=True) for metric in FURTHER),
            number(correlations[method.name]),
        ]
        for method in comparison.compared
    ]
    header = ["Method", *(METRICS[metric].heading for metric in FURTHER), "Volume correlation"]
    return Table(f"Further metrics (mean ± sd over {len(comparison.cases)} cases)", header, rows)


def tests_table(comparison: Comparison) -> Table:
    """Every method against its best competitor in every ranked metric."""
    rows: list[list[str | Cell]] = []
    for one in comparison.versus:
        about, test = METRICS[one.metric], one.test
        low, high = (number(about.scale * value, about.digits) for value in (test.low, test.high))
        interval = NOTHING if low == NOTHING else f"{low} to {high}"
        p_values = (test.t_p, one.t_p_holm, test.wilcoxon_p, one.wilcoxon_p_holm)
        difference = number(about.scale * test.difference, about.digits)
        rows.append(
            [about.heading, one.method, one.competitor, str(test.n), difference, interval, *map(p_value, p_values)]
        )
    header = ["Metric", "Method", "Against", "n", "Difference", "95 % interval"]
    caption = "Each method minus its best competitor: paired difference with bootstrap interval, paired tests"
    return Table(caption, [*header, "t-test p", "t-test p (Holm)", "Wilcoxon p", "Wilcoxon p (Holm)"], rows, left=3)


def rejection_table(comparison: Comparison) -> Table:
    """What the confidence of each method's masks is worth."""
    rows = [
        [
            name,
            number(found.spearman, 2),
            *(number(100 * area, 2) for area in (found.aurc, found.ideal, found.random)),
            *(number(100 * found.at(coverage), METRICS["dsc"].digits) for coverage in COVERAGES),
        ]
        for name, found in comparison.rejections.items()
    ]
    header = ["Method", "Spearman", "AURC (%)", "ideal", "random"]
    header += [f"DSC (%) of the best {100 * coverage:.0f} %" for coverage in COVERAGES]
    return Table("Confidence against DSC, and DSC when the masks that it trusts least are set aside", header, rows)


def cases_table(comparison: Comparison) -> Table:
    """Every case of the first method, then mean ± sd, how many values are undefined, and the size groups' means."""
    method = comparison.compared[0]
    metrics = [metric for metric in method.metrics if metric != "prediction_ml"]
    size = {case: group.name for group in comparison.groups for case in group.cases}
    rows = [
        [name, size.get(name, NOTHING), *(_shown(metric, case[metric]) for metric in metrics)]
        for name, case in method.cases.items()
    ]
    totals = method.summary()
    digits = {metric: METRICS[metric].digits if metric in METRICS else 2 for metric in metrics}
    scale = {metric: METRICS[metric].scale if metric in METRICS else 1.0 for metric in metrics}

    def means(of: Evaluation) -> list[str]:
        return [mean_sd(summarise(of.values(m)), scale=scale[m], digits=digits[m]) for m in metrics]

    rows.append([f"mean ± sd ({len(method.cases)} cases)", "all", *means(method)])
    rows.append(["undefined", "all", *(str(totals[metric].nan) for metric in metrics)])
    for group in comparison.groups:
        part = method.only(group.cases)
        rows.append([f"mean ± sd ({len(group.cases)} cases)", group.name, *means(part)])
    headings = [METRICS[metric].heading if metric in METRICS else metric for metric in metrics]
    return Table(f"Cases of {method.name}", ["Case", "Size", *headings], rows, left=2)


def tables(comparison: Comparison) -> list[Table]:
    """All that apply: the tests need two methods, the table of cases is for one."""
    last = tests_table(comparison) if len(comparison.methods) > 1 else cases_table(comparison)
    trusted = [rejection_table(comparison)] if comparison.rejections else []
    return [main_table(comparison), *trusted, further_table(comparison), last]


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know about the tables, a sentence or two each; what is missing or empty comes first."""
    found = []
    for name, cases in comparison.missing.items():
        found.append(f"Missing in {name} ({len(cases)}): {', '.join(cases)}. Left out of every method's numbers.")
    if alone := comparison.unpredicted:
        found.append(f"{len(alone)} reference(s) that no method predicted are left out: {named(alone)}.")
    for name, alone in comparison.unreferenced.items():
        found.append(f"{len(alone)} prediction(s) of {name} without a reference are left out: {named(alone)}.")
    for name, cases in empty_cases(comparison).items():
        found.append(f"Empty mask in {name} ({len(cases)}): {', '.join(cases)}.")
    found += _labels_asked_for(comparison)
    if comparison.rejections:
        found.append(
            "AURC: mean of 1 - DSC over all shares of cases kept in the order of the confidence, lower is better; "
            "ideal: in the order of DSC itself; random: to expect of any order."
        )
    found.append(POLICY_WORDS[comparison.settings.empty_policy])
    found.append(f"HD95: {HD95_WORDS[comparison.settings.hd95]}. ASSD: both directions pooled. Volume DSC.")
    if comparison.groups:
        limits = ", ".join(f"{group.name} up to {group.up_to_ml:.1f} ml" for group in comparison.groups)
        found.append(f"Size groups, quantiles of the reference volume: {limits}.")
    if len(comparison.methods) > 1:
        found.append(
            "Bold: best; underlined: second; methods with fewer undefined values go first; volume errors are unranked."
            f" *: the best differs from the second, paired t-test, Holm-corrected p < {ALPHA}."
        )
        found.append(f"Intervals: percentile bootstrap over cases, seed {comparison.seed}.")
    return found


def _labels_asked_for(comparison: Comparison) -> list[str]:
    """Which labels counted as the tumour, where somebody said so."""
    references, predictions = comparison.settings.foreground, comparison.settings.pred_foreground
    words = [
        f"{whose}: {'any above 0' if labels == 'any' else listed(labels)}"
        for whose, labels in (("references", references), ("predictions", predictions or references))
        if labels is not None
    ]
    return [f"Labels that count as the tumour in the {', in the '.join(words)}."] if words else []


def empty_cases(comparison: Comparison) -> dict[str, list[str]]:
    """Compared cases whose mask is empty, by method and under `the reference`; those without any are left out."""
    first = comparison.compared[0].cases
    found = {"the reference": [case for case in comparison.cases if first[case]["reference_ml"] == 0]}
    for method in comparison.compared:
        found[method.name] = [case for case, values in method.cases.items() if values["prediction_ml"] == 0]
    return {name: cases for name, cases in found.items() if cases}


def _mean_cell(
    comparison: Comparison,
    method: Evaluation,
    metric: str,
    *,
    cases: tuple[str, ...] | None = None,
    star: bool = False,
) -> Cell:
    about = METRICS[metric]
    values = method.values(metric) if cases is None else method.only(cases).values(metric)
    text = mean_sd(summarise(values), scale=about.scale, digits=about.digits)
    if about.better is None or len(comparison.methods) < 2:
        return Cell(text)
    order = comparison.order(metric, cases)
    place = next((place for place, names in enumerate(order) if method.name in names), None)
    mark: Mark | None = "best" if place == 0 else "second" if place == 1 else None
    top = next((one for one in comparison.versus if (one.metric, one.method) == (metric, method.name)), None)
    significant = star and place == 0 and top is not None and top.t_p_holm < ALPHA
    return Cell(text, mark, significant)


def _shown(metric: str, value: float) -> str:
    if math.isnan(value) or metric not in METRICS:
        return number(value)
    return number(METRICS[metric].scale * value, METRICS[metric].digits)
