"""The rows of the paper's Table 2 and the points of its Fig. 3, as a list of runs and what each can share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dataset_conversion.errors import UserError

Stage = Literal["roi", "mask", "round_1", "round_2"]
ALPHAS = (0, 10, 20, 30)  # paper Fig. 3 (a), per cent of the ROI
BETAS = (0, 10, 20, 30, 40)  # paper Fig. 3 (b), percentile


@dataclass(frozen=True)
class Run:
    """One row or point; None means the dataset's own setting.

    Attributes:
        name: for `--only` and in files.
        title: in tables.
        group: `table2`, `alpha` or `beta`.
        stage: what is scored: a CAM's ROI, SAM's mask, or a network after round 1 or 2.
        alpha: of AMDA; 0 = the raw CAM.
        prompts: kind of SAM's prompts.
        beta: of S3F.
        s3f: whether cases are filtered between the rounds.
    """

    name: str
    title: str
    group: str
    stage: Stage
    alpha: float | None = None
    prompts: Literal["box", "points", "both"] | None = None
    beta: float | None = None
    s3f: bool = True

    @property
    def trains_network(self) -> bool:
        return self.stage in ("round_1", "round_2")


TABLE2 = (
    Run("raw-cam", "raw CAM", "table2", "roi", alpha=0),
    Run("amda-cam", "CAM with AMDA", "table2", "roi"),
    Run("sam-points", "SAM (points)", "table2", "mask", prompts="points"),
    Run("sam-box", "SAM (box)", "table2", "mask", prompts="box"),
    Run("sam-both", "SAM (points + box)", "table2", "mask", prompts="both"),
    Run("no-self-training", "CLISC (w/o self-training)", "table2", "round_1"),
    Run("no-s3f", "CLISC (w/o S3F)", "table2", "round_2", s3f=False),
    Run("full", "CLISC", "table2", "round_2"),
)
FIG3A = tuple(
    run
    for alpha in ALPHAS
    for run in (
        Run(f"alpha-{alpha}-cam", f"α = {alpha}, CAM", "alpha", "roi", alpha=alpha),
        Run(f"alpha-{alpha}-sam", f"α = {alpha}, SAM", "alpha", "mask", alpha=alpha),
    )
)
FIG3B = tuple(Run(f"beta-{beta}", f"β = {beta}", "beta", "round_2", beta=beta) for beta in BETAS)
RUNS = (*TABLE2, *FIG3A, *FIG3B)


def chosen_runs(only: Sequence[str]) -> list[Run]:
    """The runs named, in the list's order; all without any name.

    Args:
        only: names, beginnings of names up to a hyphen, or groups.

    Raises:
        UserError: a name that fits no run.
    """
    for name in only:
        if not any(_fits(run, name) for run in RUNS):
            known = ", ".join(["table2", "alpha", "beta", *(run.name for run in RUNS)])
            raise UserError(f"--only {name}: no such run; known: {known}")
    return [run for run in RUNS if not only or any(_fits(run, name) for name in only)]


def _fits(run: Run, name: str) -> bool:
    return name in (run.name, run.group) or run.name.startswith(f"{name}-")
