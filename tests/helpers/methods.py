"""Methods with known metrics, to compare with each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunetv2_clisc.scoring.evaluation import Evaluation
from nnunetv2_clisc.scoring.metrics import METRICS


def method(name: str, **metrics: Sequence[float]) -> Evaluation:
    """A method with given metrics in case 0, 1, …; reference volumes are 1, 2, … ml and the rest is 0."""
    n = len(next(iter(metrics.values())))
    base: dict[str, Sequence[float]] = {metric: [0.0] * n for metric in METRICS}
    base["reference_ml"] = base["prediction_ml"] = [float(i + 1) for i in range(n)]
    columns = base | metrics
    return Evaluation(name, {f"c{i:02d}": {metric: columns[metric][i] for metric in METRICS} for i in range(n)})


RNG = np.random.default_rng(2)
BASE = RNG.uniform(0.4, 0.9, 20)
GOOD = method("good", dsc=BASE + 0.05 + RNG.normal(0, 0.02, 20), hd95_mm=10 - 8 * BASE)
FAIR = method("fair", dsc=BASE, hd95_mm=11 - 8 * BASE)
POOR = method("poor", dsc=BASE - RNG.uniform(0, 0.3, 20), hd95_mm=30 - 8 * BASE)
