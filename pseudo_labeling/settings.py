"""Settings of every stage, with the paper's value as default and its section beside it.

The same objects travel from the command line through the pipeline into ``dataset.json`` (entry ``clisc``) and from
there into the trainer, so one file tells how a label was made.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from dataset_conversion.errors import UserError

NORMAL_PROMPT = (
    "an image of brain tissue showing typical signal intensity without any regions of abnormal intensity "
    "or suspicious mass"
)
TUMOUR_PROMPT = (
    "an image of brain tissue showing a tumor with uneven hyperintensity and irregular borders "
    "distinct from surroundings"
)


@dataclass(frozen=True)
class WindowSettings:
    """Volume intensities to 8-bit slices; percentiles in [0, 100]; fill values and wild voxels count as air."""

    lower_percentile: float = 0.5  # of all voxels: air
    upper_percentile: float = 99.5  # of the voxels brighter than the volume's mean: head


@dataclass(frozen=True)
class SliceLabelSettings:
    """CLIP slice labels (paper 2.1.1, Eq. 1)."""

    normal_prompt: str = NORMAL_PROMPT
    tumour_prompt: str = TUMOUR_PROMPT
    min_confidence: float = 0.5  # slices whose larger class probability is below do not vote and do not train
    vote_radius: int = 0  # majority over the 2r + 1 slices around; 0 = plain argmax, as in the paper
    smoothing_mm: float = 0.0  # sd of a Gaussian along z over the log-odds: neighbouring slices see the same tumour
    threshold: Literal["argmax", "otsu"] = "argmax"  # "otsu": above the case's Otsu threshold too, for a biased CLIP
    one_run: bool = False  # keep only the run of tumour slices with most evidence: a lesion is one thing along z
    min_head_fraction: float = 0.02  # a slice with a smaller share of head pixels is normal: there is nothing to see


@dataclass(frozen=True)
class ClassifierSettings:
    """Slice classifier trained on the slice labels (paper 2.1.1 and 3.1)."""

    backbone: str = "auto"  # a torchvision or timm name, paper: resnet50; "clip" = CLIP's own ResNet tower; "auto" =
    # "clip" where that tower is a ResNet, which then needs no ImageNet weights, else resnet50
    image_size: int = 224
    learning_rate: float = 1e-4  # paper 3.1, Adam
    batch_size: int = 8  # paper 3.1
    epochs: int = 200  # paper 3.1
    patience: int = 20  # epochs without a lower held-out pseudo-label loss
    held_out_fraction: float = 0.2  # of the cases, never of the slices of one case


@dataclass(frozen=True)
class CamSettings:
    """LayerCAM (paper 2.1.1, Eq. 2)."""

    layers: tuple[str, ...] = ("layer3",)  # the public code's layer; several are fused by their geometric mean
    weighted: bool = False  # times the classifier's probability of a tumour: alone, the map of every slice peaks at 1


@dataclass(frozen=True)
class AmdaSettings:
    """Adaptive masking-based data augmentation (paper 2.1.2)."""

    alpha: float = 20.0  # per cent of the ROI that is masked; 0 switches AMDA off
    masked_fraction: float = 1.0  # of the samples of an epoch; the others stay as they are
    fill: Literal["tissue", "zero"] = "zero"  # "zero" = the paper's X * (1 - M); "tissue" = the slice's median of head
    with_first: bool = False  # CAM = the larger of both classifiers': the second may lose what was masked


@dataclass(frozen=True)
class RoiSettings:
    """CAM to region of interest; the paper leaves the rule open, ours never sees a mask."""

    brightness: bool = False  # times the slice's brightness: keeps the ROI out of air and ventricles
    threshold: float | Literal["otsu"] = "otsu"  # number = share of the CAM's maximum in the case
    opening: int = 3  # edge of the cubic structuring element in square pixels and slices; 0 = none
    keep_fraction: float = 1 / 3  # 3D components smaller than this share of the largest are dropped


@dataclass(frozen=True)
class PromptSettings:
    """ROI to SAM prompts (paper 2.2)."""

    kind: Literal["box", "points", "both"] = "both"
    points: Literal["centre", "intensity"] = "centre"  # centre (fg) + box corners (bg), or 5 bright points (fg)
    margin: int = 0  # mm added around the ROI's bounding box


@dataclass(frozen=True)
class SamSettings:
    """SAM masks (paper 2.2, Eq. 3)."""

    equalise: bool = False  # histogram equalisation before SAM, as in the public code
    passes: int = 1  # 2 = SAM is prompted again from its own masks, which are often better than the ROI
    keep_fraction: float = 0.0  # 3D components of the stacked masks below this share of the largest are dropped
    precision: Literal["auto", "fp32", "bf16"] = (
        "auto"  # of the image encoder; "auto" = bf16 for a ViT where it is fast
    )
    compile: bool = False  # torch.compile for the image encoder: pays on a GPU after some thousand slices


@dataclass(frozen=True)
class S3FSettings:
    """SAM-Seg similarity-based filtering between the two rounds (paper 2.3)."""

    beta: float = 20.0  # percentile of the similarities below which a case is dropped
    keep_fraction: float = 0.0  # 3D components of a prediction below this share of its largest are removed from it


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the labels of a dataset are."""

    seed: int = 0
    window: WindowSettings = field(default_factory=WindowSettings)
    slice_labels: SliceLabelSettings = field(default_factory=SliceLabelSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cam: CamSettings = field(default_factory=CamSettings)
    amda: AmdaSettings = field(default_factory=AmdaSettings)
    roi: RoiSettings = field(default_factory=RoiSettings)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    sam: SamSettings = field(default_factory=SamSettings)
    s3f: S3FSettings = field(default_factory=S3FSettings)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Rebuild settings written by :meth:`to_dict`; missing entries keep their default.

        Raises:
            UserError: an entry that no setting is called by.
        """
        return _merged(cls(), values, "settings")

    def merged(self, values: dict[str, Any]) -> Settings:
        """These settings with the (nested) entries of `values` put over them.

        Raises:
            UserError: an entry that no setting is called by.
        """
        return _merged(self, values, "settings")


def _merged(base: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: a {_JSON_NAMES.get(type(values), 'value')} is not allowed; give names with values, e.g. "
            f'{{"{_first(base)}": …}}'
        )
    known = {f.name for f in fields(base)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: no setting is called '{name}'; known here: {', '.join(sorted(known))}")
        current = getattr(base, name)
        if is_dataclass(current):
            if not isinstance(value, dict):
                raise UserError(f"{where}.{name}: is a group of settings; name one, e.g. {name}.{_first(current)}")
            changes[name] = _merged(current, value, f"{where}.{name}")
        else:
            value = tuple(value) if isinstance(current, tuple) and isinstance(value, list | tuple) else value
            _check(f"{where}.{name}", current, value)
            changes[name] = _as_its_default(current, value)
    return replace(base, **changes)


_JSON_NAMES = {list: "list", str: "text", int: "number", float: "number", bool: "truth value", type(None): "null"}


def _first(group: Any) -> str:
    return fields(group)[0].name


def _as_its_default(default: Any, value: Any) -> Any:
    """A number in its default's type: `10` and `10.0` are one setting, and whole numbers count and index things."""
    if not _is_number(value):
        return value
    return int(value) if isinstance(default, int) else float(value)


def _check(where: str, default: Any, value: Any) -> None:
    """Raise unless a value has its default's type and lies in its range.

    Raises:
        UserError: naming the setting and what it may be.
    """
    if where in CHOICES:
        fits, allowed = value in CHOICES[where], " or ".join(CHOICES[where])
        if where == "settings.roi.threshold" and not fits:
            fits, allowed = _is_number(value) and 0 < value < 1, "otsu, or a number between 0 and 1"
    elif isinstance(default, int | float):
        low, high = RANGES.get(where, (0, math.inf))
        whole = isinstance(default, int) and not isinstance(default, bool)
        fits = isinstance(value, bool) if isinstance(default, bool) else _is_number(value) and low <= value <= high
        if whole and fits:
            fits = float(value).is_integer()
        kind = "a whole number" if whole else "a number"
        limits = f"from {low:.10g} to {high:.10g}" if math.isfinite(high) else f"of {low:g} or more"
        allowed = "true or false" if isinstance(default, bool) else f"{kind} {limits}"
    elif isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) > 0 and all(isinstance(v, str) for v in value)
        allowed = 'a list of names, e.g. ["layer3"]'
    else:
        fits, allowed = isinstance(value, str) and value.strip() != "", "a text"
    if not fits:
        raise UserError(f"{where}: {value!r} is not allowed; give {allowed}")


def _is_number(value: Any) -> bool:
    """A finite number that arithmetic can take; JSON also writes NaN, Infinity and integers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


CHOICES: dict[str, tuple[str, ...]] = {
    "settings.slice_labels.threshold": ("argmax", "otsu"),
    "settings.amda.fill": ("tissue", "zero"),
    "settings.roi.threshold": ("otsu",),
    "settings.prompts.kind": ("box", "points", "both"),
    "settings.prompts.points": ("centre", "intensity"),
    "settings.sam.precision": ("auto", "fp32", "bf16"),  # fp16 overflows in SAM's encoder: its masks are wrong
}
RANGES: dict[str, tuple[float, float]] = {
    "settings.seed": (0, 2**32 - 1),
    "settings.window.lower_percentile": (0, 100),
    "settings.window.upper_percentile": (0, 100),
    "settings.slice_labels.min_confidence": (0.5, 1),
    "settings.slice_labels.min_head_fraction": (0, 1),
    "settings.classifier.image_size": (32, 2048),
    "settings.classifier.batch_size": (2, 4096),
    "settings.classifier.epochs": (1, 100000),
    "settings.classifier.patience": (0, 100000),
    "settings.classifier.held_out_fraction": (0, 0.9),
    "settings.amda.alpha": (0, 100),
    "settings.amda.masked_fraction": (0, 1),
    "settings.roi.opening": (0, 99),
    "settings.roi.keep_fraction": (0, 1),
    "settings.slice_labels.vote_radius": (0, 10000),
    "settings.prompts.margin": (0, 10000),
    "settings.sam.passes": (1, 10),
    "settings.sam.keep_fraction": (0, 1),
    "settings.s3f.beta": (0, 100),
    "settings.s3f.keep_fraction": (0, 1),
}


# What differs from the defaults above. "embedded": what worked best on real scans with the small networks that the
# package carries (docs/results.md).
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "public-code": {
        "slice_labels": {"min_confidence": 0.6, "vote_radius": 5},
        "classifier": {"epochs": 400},
        "prompts": {"kind": "both", "points": "intensity", "margin": 10},
        "sam": {"equalise": True},
    },
    "embedded": {
        "slice_labels": {"smoothing_mm": 4.0, "threshold": "otsu", "one_run": True},
        "classifier": {"image_size": 128, "batch_size": 16, "epochs": 4, "patience": 2},
        "cam": {"layers": ("layer1", "layer2", "layer3"), "weighted": True},
        "amda": {"masked_fraction": 0.5, "fill": "tissue", "with_first": True},
        "roi": {"brightness": True},
        "prompts": {"points": "intensity", "margin": 20},
        "sam": {"passes": 2, "keep_fraction": 1 / 3},
        "s3f": {"keep_fraction": 1 / 3},
    },
}
