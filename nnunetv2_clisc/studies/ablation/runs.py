"""The rows of the paper's Table 2 and the points of its Fig. 3, as a list of runs and what each can share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dataset_conversion.errors import UserError
from pseudo_labeling.settings import CamName

Stage = Literal["roi", "mask", "round_1", "round_2", "distilled", "adapted"]
ALPHAS = (0, 10, 20, 30)  # paper Fig. 3 (a), per cent of the ROI
BETAS = (0, 10, 20, 30, 40)  # paper Fig. 3 (b), percentile


@dataclass(frozen=True)
class Run:
    """One row or point; None means the dataset's own setting.

    Attributes:
        name: for `--only` and in files.
        title: in tables.
        group: `table2`, `alpha`, `beta`, `c2s`, `um-sam` or `sam-adapter`.
        stage: what is scored: a CAM's ROI, SAM's mask, a network after round 1 or 2, one that learned from SAM's
            features, or one on SAM's encoder.
        alpha: of AMDA; 0 = the raw CAM.
        prompts: kind of SAM's prompts.
        beta: of S3F.
        s3f: whether cases are filtered between the rounds.
        changes: settings of this run, over the dataset's; in group `c2s`.
        pick: which of SAM's candidates is kept, where no setting says so: one at random, whose mean score is that of
            all candidates, or by the masks the one that fits them best. That one is no method, but how far the choice
            is from the best there is.
        untrained: map with the classifier as it was before training, its last layer drawn at random.
        variant: end of the trainer's name, in the groups `um-sam` and `sam-adapter`.
        exchanged: each scan is predicted with the mirror image of another one.
    """

    name: str
    title: str
    group: str
    stage: Stage
    alpha: float | None = None
    prompts: Literal["box", "points", "both"] | None = None
    beta: float | None = None
    s3f: bool = True
    changes: Mapping[str, Any] = field(default_factory=dict)
    pick: Literal["random", "oracle"] | None = None
    untrained: bool = False
    variant: str = ""
    exchanged: bool = False

    @property
    def trains_network(self) -> bool:
        return self.stage in ("round_1", "round_2", "distilled", "adapted")


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
_CHOICES = {"candidates": 10, "choose": "consensus"}


def _c2s(name: str, title: str, **more: Any) -> Run:
    return Run(f"c2s-{name}", title, "c2s", **{"stage": "mask", **more})


C2S = (
    *(
        _c2s(f"{name}-{short}", f"{name}, {title}", stage=stage, changes={"cam": {"method": name}})
        for name in get_args(CamName)
        for short, title, stage in (("cam", "CAM", "roi"), ("sam", "SAM", "mask"))
    ),
    _c2s("untrained-cam", "untrained last layer, CAM", stage="roi", untrained=True),
    _c2s("box", "box alone", changes={"prompts": {"kind": "box"}}),
    _c2s("points", "points alone", changes={"prompts": {"kind": "points"}}),
    _c2s("both", "box and points", changes={"prompts": {"kind": "both"}}),
    _c2s("one", "one mask, of the prompt as it is", changes={"sam": {"candidates": 1, "choose": "first"}}),
    _c2s("mean", "candidates: one at random", changes={"sam": _CHOICES}, pick="random"),
    *(
        _c2s(rule, f"candidates: {rule}", changes={"sam": {**_CHOICES, "choose": rule}})
        for rule in ("confidence", "stability", "consensus")
    ),
    _c2s("oracle", "candidates: the best by the masks (no method)", changes={"sam": _CHOICES}, pick="oracle"),
)
UM_SAM = (
    Run("um-sam-labels", "labels of new scans, without a network (Eq. 5)", "um-sam", "mask"),
    Run("um-sam-plain", "U-Net, labels alone", "um-sam", "distilled", variant="_plain"),
    Run("um-sam-contrast", "U-Net, labels and contrast", "um-sam", "distilled", variant="_noFeature"),
    Run("um-sam-feature", "U-Net, labels and features", "um-sam", "distilled", variant="_noContrast"),
    Run("um-sam-full", "U-Net, all three", "um-sam", "distilled"),
)
SAM_ADAPTER = (
    Run("sam-adapter-full", "scan and mirror image", "sam-adapter", "adapted"),
    Run(
        "sam-adapter-exchanged",
        "the same network, mirror image of another scan (a control)",
        "sam-adapter",
        "adapted",
        exchanged=True,
    ),
    Run("sam-adapter-no-mirror", "scan alone", "sam-adapter", "adapted", variant="_noMirror"),
    Run("sam-adapter-no-depth", "slices do not see their neighbours", "sam-adapter", "adapted", variant="_noDepth"),
    Run("sam-adapter-random", "frozen encoder at random (a control)", "sam-adapter", "adapted", variant="_random"),
    Run("sam-adapter-unet", "U-Net, as many steps", "sam-adapter", "adapted", variant="_unet"),
)
ONLY_WHEN_ASKED = ("c2s", "um-sam", "sam-adapter")
RUNS = (*TABLE2, *FIG3A, *FIG3B, *C2S, *UM_SAM, *SAM_ADAPTER)


def chosen_runs(only: Sequence[str]) -> list[Run]:
    """The runs named, in the list's order; all of the paper's without any name.

    Args:
        only: names, beginnings of names up to a hyphen, or groups.

    Raises:
        UserError: a name that fits no run.
    """
    for name in only:
        if not any(_fits(run, name) for run in RUNS):
            known = ", ".join(["table2", "alpha", "beta", *ONLY_WHEN_ASKED, *(run.name for run in RUNS)])
            raise UserError(f"--only {name}: no such run; known: {known}")
    if not only:
        return [run for run in RUNS if run.group not in ONLY_WHEN_ASKED]
    return [run for run in RUNS if any(_fits(run, name) for name in only)]


def _fits(run: Run, name: str) -> bool:
    return name in (run.name, run.group) or run.name.startswith(f"{name}-")
