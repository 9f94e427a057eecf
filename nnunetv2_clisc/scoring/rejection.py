"""Is a confidence worth anything: do scores rise when the masks that it trusts least are set aside?

Risk-coverage curves as in Zenk et al., Medical Image Analysis 101 (2025); the risk of a mask is 1 - DSC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import stats

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_table

COLUMNS = ("confidence", "similarity", "agreement")  # the first that a table has: any, S3F's, that of candidates
COVERAGES = (1.0, 0.9, 0.8)  # shares of the cases that are kept, in tables
_CURE = "give a CSV with columns case and confidence, S3F's similarities.csv or a dataset's summary.csv"


@dataclass(frozen=True)
class Rejection:
    """The masks of one method in the order of a confidence.

    Attributes:
        confidence: of each case, larger is better.
        dsc: of the same cases.
    """

    confidence: Mapping[str, float]
    dsc: Mapping[str, float]

    @property
    def spearman(self) -> float:
        """Rank correlation of confidence and DSC; NaN below three cases, or where one of them does not vary."""
        pair = [[of[case] for case in self.dsc] for of in (self.confidence, self.dsc)]
        if len(self.dsc) < 3 or not all(np.ptp(side) for side in pair):
            return math.nan
        return float(stats.spearmanr(*pair).statistic)

    @cached_property
    def selective(self) -> np.ndarray:
        """Mean DSC of the k most confident cases, `(n,)` for k = 1 to n; of equally confident ones any may go first."""
        return selective_means(
            np.array([self.confidence[case] for case in self.dsc]), np.array(list(self.dsc.values()))
        )

    @property
    def aurc(self) -> float:
        """Area under the risk-coverage curve: the mean risk over all coverages, 0 to 1, lower is better."""
        return float(1 - self.selective.mean())

    @property
    def ideal(self) -> float:
        """The area of the best order there is, that of DSC itself."""
        scores = np.array(list(self.dsc.values()))
        return float(1 - selective_means(scores, scores).mean())

    @property
    def random(self) -> float:
        """The area to expect of an order drawn at random: the mean risk."""
        return float(1 - np.mean(list(self.dsc.values())))

    def at(self, coverage: float) -> float:
        """Mean DSC of the share `coverage` of the cases that are trusted most, rounded up to whole cases."""
        kept = max(1, math.ceil(coverage * len(self.dsc) - 1e-9))
        return float(self.selective[kept - 1])


def selective_means(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of the first k values in falling order, `(n,)`; of equal ones each counts with their mean.

    Args:
        order: `(n,)`, what is sorted by.
        values: `(n,)`, what is averaged.
    """
    _, group = np.unique(-order, return_inverse=True)  # 0 is the largest
    sizes = np.bincount(group)
    means = np.bincount(group, weights=values) / sizes
    return np.cumsum(np.repeat(means, sizes)) / np.arange(1, len(values) + 1)


def rejection(confidence: Mapping[str, float], dsc: Mapping[str, float], source: str) -> Rejection:
    """A confidence and the scores of a method.

    Args:
        confidence: by case; may have more cases.
        dsc: by case; one that is undefined is left out.
        source: where the confidence comes from, for messages.

    Raises:
        UserError: a case has no confidence.
    """
    defined = {case: value for case, value in dsc.items() if not math.isnan(value)}
    if missing := sorted(defined.keys() - confidence.keys()):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"--confidence {source}: has no row for case {missing[0]}{more}; add one for each case scored")
    return Rejection({case: confidence[case] for case in defined}, defined)


def read_confidence(path: Path) -> dict[str, float]:
    """The confidence of each case from a CSV.

    Args:
        path: with the column `case`, and one of `COLUMNS`.

    Raises:
        UserError: no such file or columns, a case twice, or something that is no number.
    """
    rows = read_table(path, _CURE)
    header = rows[0].keys() if rows else ()
    column = next((name for name in COLUMNS if name in header), None)
    if column is None or "case" not in header:
        raise UserError(f"--confidence {path}: has no columns case and {' or '.join(COLUMNS)}; {_CURE}")
    found: dict[str, float] = {}
    for row in rows:
        case, text = row["case"], row[column] or ""
        if case in found:
            raise UserError(f"--confidence {path}: has case {case} twice; keep one of the rows")
        try:
            found[case] = float(text)
        except ValueError:
            found[case] = math.nan
        if not math.isfinite(found[case]):
            raise UserError(f"--confidence {path}: {column} of case {case} is '{text}', no number; give one")
    return found
