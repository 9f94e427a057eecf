"""What can be said over cases: mean and spread, size groups, paired tests, corrections, bootstrap intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

SIZES = ("tiny", "small", "medium", "large", "huge")  # the paper's words for "every 20 percentiles of tumour size"
RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class MetricSummary:
    """One metric over cases.

    Attributes:
        mean, sd: over the cases where it is defined; sd is the sample's (n - 1), NaN below two cases.
        n, nan: how many cases have a value, and how many have none.
    """

    mean: float
    sd: float
    n: int
    nan: int


def summarise(values: Collection[float]) -> MetricSummary:
    """Mean and standard deviation of the values that are not NaN, with the count of those that are."""
    defined = np.array([value for value in values if not math.isnan(value)])
    return MetricSummary(
        mean=float(defined.mean()) if defined.size else math.nan,
        sd=float(defined.std(ddof=1)) if defined.size > 1 else math.nan,
        n=int(defined.size),
        nan=len(values) - int(defined.size),
    )


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation, -1 to 1; NaN below two pairs or where one side does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


@dataclass(frozen=True)
class SizeGroup:
    """Cases of similar reference volume.

    Attributes:
        name: one of `SIZES`.
        above_ml, up_to_ml: the group's limits; the first group includes its lower one.
        cases: their names.
    """

    name: str
    above_ml: float
    up_to_ml: float
    cases: tuple[str, ...]


def size_groups(reference_ml: Mapping[str, float]) -> tuple[SizeGroup, ...]:
    """Five groups between the quantiles 0, 20 … 100 % of the reference volumes.

    Equal volumes stay in one group, so with few cases a group can be empty. Empty references have no size and are in no
    group; without any other there are no groups.

    Args:
        reference_ml: volume of each case's reference in ml.
    """
    volumes = {case: ml for case, ml in reference_ml.items() if ml > 0}
    if not volumes:
        return ()
    limits = np.quantile(list(volumes.values()), np.linspace(0, 1, len(SIZES) + 1))
    group_of = {case: int(np.searchsorted(limits[1:-1], ml, side="left")) for case, ml in volumes.items()}
    return tuple(
        SizeGroup(
            name, float(limits[i]), float(limits[i + 1]), tuple(case for case, group in group_of.items() if group == i)
        )
        for i, name in enumerate(SIZES)
    )


@dataclass(frozen=True)
class PairedTest:
    """Two methods on the same cases.

    Attributes:
        n: cases where both have a value.
        difference: mean of first minus second.
        low, high: bootstrap interval of that mean.
        t_p, wilcoxon_p: two-sided p of the paired t-test and of Wilcoxon's signed-rank test; NaN below two cases.
    """

    n: int
    difference: float
    low: float
    high: float
    t_p: float
    wilcoxon_p: float


def paired_test(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> PairedTest:
    """Compare two methods case by case.

    Args:
        first, second: one value a case in the same order; pairs with a NaN are left out.
        seed: of the bootstrap.
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    difference = difference[~np.isnan(difference)]
    if difference.size < 2:
        mean = float(difference.mean()) if difference.size else math.nan
        return PairedTest(int(difference.size), mean, math.nan, math.nan, math.nan, math.nan)
    low, high = bootstrap_interval(difference, seed=seed)
    if not difference.any():  # no evidence of a difference, where both tests would divide 0 by 0
        t_p = wilcoxon_p = 1.0
    else:
        with warnings.catch_warnings():  # of few cases and of equal differences; the p-values stay usable
            warnings.simplefilter("ignore")
            t_p = float(stats.ttest_1samp(difference, 0).pvalue)
            wilcoxon_p = float(stats.wilcoxon(difference).pvalue)
    return PairedTest(int(difference.size), float(difference.mean()), low, high, t_p, wilcoxon_p)


def bootstrap_interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %, 10,000 resamples) of the mean.

    Args:
        values: `(n,)`, at least two.
        seed: the same seed and values give the same interval.
    """
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=RESAMPLES // 100,  # all resamples of thousands of cases at once would not fit into memory
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of p-values of one family; NaN stays NaN and does not count. SciPy has no such function."""
    corrected = [math.nan] * len(p_values)
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[place] = largest
    return corrected
