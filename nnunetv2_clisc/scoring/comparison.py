"""Compare methods on the same cases: who is best in what, and is the difference more than chance?"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.evaluation import Evaluation, evaluate_folders, mask_files
from nnunetv2_clisc.scoring.metrics import METRICS, MetricSettings
from nnunetv2_clisc.scoring.rejection import Rejection, read_confidence, rejection
from nnunetv2_clisc.scoring.statistics import PairedTest, SizeGroup, holm, paired_test, size_groups, summarise


@dataclass(frozen=True)
class Versus:
    """A method against the best of the others in one metric.

    Attributes:
        metric, method, competitor: names.
        test: method minus competitor.
        t_p_holm, wilcoxon_p_holm: p-values corrected for all pairs with the best method in this metric.
    """

    metric: str
    method: str
    competitor: str
    test: PairedTest
    t_p_holm: float
    wilcoxon_p_holm: float


@dataclass(frozen=True)
class Comparison:
    """One method or several, measured against the same references.

    Attributes:
        methods: each with all the cases it has.
        settings: with which they were measured.
        seed: of the bootstrap intervals.
        unpredicted: cases with a reference that no method has.
        unreferenced: by method, the cases that it predicted and that have no reference; others are left out.
        rejections: by method, what a confidence of its masks is worth; for whom one was given.
    """

    methods: Sequence[Evaluation]
    settings: MetricSettings = field(default_factory=MetricSettings)
    seed: int = 0
    unpredicted: Sequence[str] = field(default=())
    unreferenced: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rejections: Mapping[str, Rejection] = field(default_factory=dict)

    @cached_property
    def all_cases(self) -> list[str]:
        """Cases of any method."""
        return sorted(set().union(*(method.cases for method in self.methods)))

    @cached_property
    def cases(self) -> list[str]:
        """Cases of every method: those that tables, tests and plots are about."""
        return [case for case in self.all_cases if all(case in method.cases for method in self.methods)]

    @cached_property
    def compared(self) -> list[Evaluation]:
        """Every method on the cases that all have."""
        return [method.only(self.cases) for method in self.methods]

    @property
    def missing(self) -> dict[str, list[str]]:
        """By method, the cases that it lacks and another has; methods that lack none are left out."""
        lacking = {
            method.name: [case for case in self.all_cases if case not in method.cases] for method in self.methods
        }
        return {name: cases for name, cases in lacking.items() if cases}

    @cached_property
    def groups(self) -> tuple[SizeGroup, ...]:
        """Size groups of the compared cases."""
        first = self.compared[0].cases
        return size_groups({case: first[case]["reference_ml"] for case in self.cases})

    def order(self, metric: str, cases: Collection[str] | None = None) -> list[list[str]]:
        """Methods from best to worst by mean; equal ones share a place, those without a value are left out.

        A method with fewer undefined values goes first: else one could win by failing on the difficult cases. A case
        without a tumour does not count as failed.

        Args:
            metric: one that is ranked.
            cases: of these only; by default all compared.
        """
        sign = -1.0 if METRICS[metric].better == "higher" else 1.0
        places: dict[tuple[int, float], list[str]] = {}
        for method in self.compared:
            chosen = [method.cases[case] for case in (self.cases if cases is None else cases)]
            failed = sum(math.isnan(case[metric]) for case in chosen if case["reference_ml"] > 0)
            mean = summarise([case[metric] for case in chosen]).mean
            if not math.isnan(mean):  # rounded, because equal methods must not differ by the order of a sum
                places.setdefault((failed, round(sign * mean, 9)), []).append(method.name)
        return [places[place] for place in sorted(places)]

    @cached_property
    def versus(self) -> list[Versus]:
        """Every method against the best competitor in every ranked metric; empty with one method.

        The best method's competitor is the second, everyone else's is the best: with k methods k - 1 different pairs,
        which are the family of Holm's correction.
        """
        return [one for metric, about in METRICS.items() if about.better is not None for one in self._versus(metric)]

    def _versus(self, metric: str) -> list[Versus]:
        ranked = [name for place in self.order(metric) for name in place]
        if len(ranked) < 2:
            return []
        values = {method.name: method.values(metric) for method in self.compared}
        best, *others = ranked
        tests = {name: paired_test(values[name], values[best], seed=self.seed) for name in others}
        t_holm = dict(zip(others, holm([test.t_p for test in tests.values()]), strict=True))
        w_holm = dict(zip(others, holm([test.wilcoxon_p for test in tests.values()]), strict=True))
        second = others[0]
        top = paired_test(values[best], values[second], seed=self.seed)
        rows = [Versus(metric, best, second, top, t_holm[second], w_holm[second])]
        return rows + [Versus(metric, name, best, tests[name], t_holm[name], w_holm[name]) for name in others]


def evaluate_folder(pred: Path, gt: Path, *, settings: MetricSettings = MetricSettings()) -> Comparison:
    """Measure one folder of predictions on the cases that it has in common with the references.

    Args:
        pred, gt: folders of masks.
        settings: definition of HD95, what stands for values that an empty mask leaves undefined, the tumour's labels.

    Raises:
        UserError: as :func:`evaluate_folders`.
    """
    return _measured([evaluate_folders(pred, gt, settings=settings)], [mask_files(pred)], mask_files(gt), settings)


def compare_folders(
    methods: Mapping[str, Path],
    gt: Path,
    *,
    settings: MetricSettings = MetricSettings(),
    seed: int = 0,
    threads: int | None = None,
) -> Comparison:
    """Measure folders of predictions against the same references.

    Args:
        methods: folder of masks of each method, two at least; a case may be missing in some of them.
        gt: folder of reference masks; it may hold more cases than were predicted, or fewer.
        settings: definition of HD95, what stands for values that an empty mask leaves undefined, the tumour's labels.
        seed: of the bootstrap intervals.
        threads: cases measured at once; by default one per CPU core, at most 8.

    Raises:
        UserError: fewer than two methods, a folder given twice or empty, no case in common, or a mask that does not fit
            its reference.
    """
    if len(methods) < 2:
        raise UserError(f"--method: {len(methods)} given, but a comparison needs two or more; write --method NAME=DIR")
    seen: dict[Path, str] = {}
    for name, folder in methods.items():
        if (other := seen.setdefault(Path(folder).resolve(), name)) != name:
            raise UserError(f"--method {name}={folder}: the same folder as {other}; list each method once")
    references = mask_files(gt)
    found = {name: mask_files(folder) for name, folder in methods.items()}
    common = set.intersection(*(set(files) for files in found.values()))
    if not common & references.keys():
        folders = ", ".join(map(str, methods.values()))
        without = f" and in --gt {gt}" if common else ""
        examples = ", ".join(min(files) for files in (*found.values(), references))
        raise UserError(
            f"--method: no case is in all of {folders}{without}; the same case must have the same name everywhere, "
            f"but they hold {examples}, for example"
        )
    measured = [
        evaluate_folders(
            folder, gt, name=name, cases=found[name].keys() & references.keys(), threads=threads, settings=settings
        )
        for name, folder in methods.items()
    ]
    return _measured(measured, list(found.values()), references, settings, seed)


def with_confidence(comparison: Comparison, files: Mapping[str, Path]) -> Comparison:
    """The same comparison with what the confidences in some files are worth, on the compared cases.

    Args:
        files: CSV by method.

    Raises:
        UserError: a method that is not compared, or see `read_confidence` and `rejection`.
    """
    methods = {method.name: method for method in comparison.compared}
    if unknown := sorted(files.keys() - methods.keys()):
        raise UserError(f"--confidence {unknown[0]}=…: no such --method; there are {', '.join(methods)}")
    found = {
        name: rejection(read_confidence(file), {case: of["dsc"] for case, of in methods[name].cases.items()}, str(file))
        for name, file in files.items()
    }
    return replace(comparison, rejections=found)


def _measured(
    methods: Sequence[Evaluation],
    found: Sequence[Collection[str]],
    references: Collection[str],
    settings: MetricSettings,
    seed: int = 0,
) -> Comparison:
    """What was measured, with the names of what only one side has."""
    unreferenced = {
        method.name: sorted(set(cases) - set(references)) for method, cases in zip(methods, found, strict=True)
    }
    return Comparison(
        methods,
        settings,
        seed,
        unpredicted=sorted(set(references).difference(*found)),
        unreferenced={name: cases for name, cases in unreferenced.items() if cases},
    )
