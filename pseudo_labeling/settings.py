"""Settings of every stage, with the paper's value as default and its section beside it.

The same objects travel from the command line through the pipeline into ``dataset.json`` (entry ``clisc``) and from
there into the trainer, so one file tells how a label was made. Each field's type says what it may be. A value that is
not allowed is a :class:`UserError` of one line where it comes from a user (:meth:`Settings.merged`, `from_dict`), and
pydantic's `ValidationError`, a `ValueError`, where code builds a group itself.
"""

from __future__ import annotations

from dataclasses import asdict, field, fields, is_dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dataset_conversion.errors import UserError

NORMAL_PROMPT = (
    "an image of brain tissue showing typical signal intensity without any regions of abnormal intensity "
    "or suspicious mass"
)
TUMOUR_PROMPT = (
    "an image of brain tissue showing a tumor with uneven hyperintensity and irregular borders "
    "distinct from surroundings"
)

# strict: "5" and true are no numbers, 1 is no truth value; JSON also writes NaN and Infinity
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Percent = Annotated[Number, Field(ge=0, le=100)]
Share = Annotated[Number, Field(ge=0, le=1)]
Whole = Annotated[int, Field(strict=True)]
Switch = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, pattern=r"\S")]

CamName = Literal[
    "layercam", "gradcam", "gradcam++", "eigencam", "eigengradcam", "ablationcam", "scorecam", "randomcam"
]
ChoiceRule = Literal["first", "confidence", "stability", "consensus"]

_CONFIG = ConfigDict(extra="forbid")
# of a setting that an earlier version did not have: at its default it changes no key, so work done before stays good
_ADDED = {"added": True}


@dataclass(frozen=True, config=_CONFIG)
class WindowSettings:
    """Volume intensities to 8-bit slices; percentiles in [0, 100]; fill values and wild voxels count as air."""

    lower_percentile: Percent = 0.5  # of all voxels: air
    upper_percentile: Percent = 99.5  # of the voxels brighter than the volume's mean: head


@dataclass(frozen=True, config=_CONFIG)
class SliceLabelSettings:
    """CLIP slice labels (paper 2.1.1, Eq. 1)."""

    normal_prompt: Text = NORMAL_PROMPT
    tumour_prompt: Text = TUMOUR_PROMPT
    # slices whose larger class probability is below do not vote and do not train
    min_confidence: Annotated[Number, Field(ge=0.5, le=1)] = 0.5
    # majority over the 2r + 1 slices around; 0 = plain argmax, as in the paper
    vote_radius: Annotated[Whole, Field(ge=0, le=10000)] = 0
    # sd of a Gaussian along z over the log-odds: neighbouring slices see the same tumour
    smoothing_mm: Annotated[Number, Field(ge=0, le=10000)] = 0.0
    threshold: Literal["argmax", "otsu"] = "argmax"  # "otsu": above the case's Otsu threshold too, for a biased CLIP
    one_run: Switch = False  # keep only the run of tumour slices with most evidence: a lesion is one thing along z
    min_head_fraction: Share = 0.02  # a slice with a smaller share of head pixels is normal: there is nothing to see


@dataclass(frozen=True, config=_CONFIG)
class ClassifierSettings:
    """Slice classifier trained on the slice labels (paper 2.1.1 and 3.1)."""

    backbone: Text = "auto"  # a torchvision or timm name, paper: resnet50; "clip" = CLIP's own ResNet tower; "auto" =
    # "clip" where that tower is a ResNet, which then needs no ImageNet weights, else resnet50
    image_size: Annotated[Whole, Field(ge=32, le=2048)] = 224
    learning_rate: Annotated[Number, Field(ge=0)] = 1e-4  # paper 3.1, Adam
    batch_size: Annotated[Whole, Field(ge=2, le=4096)] = 8  # paper 3.1
    epochs: Annotated[Whole, Field(ge=1, le=100000)] = 200  # paper 3.1
    patience: Annotated[Whole, Field(ge=0, le=100000)] = 20  # epochs without a lower held-out pseudo-label loss
    held_out_fraction: Annotated[Number, Field(ge=0, le=0.9)] = 0.2  # of the cases, never of the slices of one case


@dataclass(frozen=True, config=_CONFIG)
class CamSettings:
    """Class activation maps (paper 2.1.1, Eq. 2)."""

    # the public code's layer; "auto" is the last one with maps; several are fused by their geometric mean
    layers: Annotated[tuple[Text, ...], Field(min_length=1)] = ("layer3",)
    weighted: Switch = False  # times the classifier's probability of a tumour: alone, the map of every slice peaks at 1
    # of several, the first makes the ROI, and each prompts SAM: more candidates; "randomcam" is a control
    method: CamName | Annotated[tuple[CamName, ...], Field(min_length=1)] = field(default="layercam", metadata=_ADDED)
    # the class that is explained: label 1, or whichever the classifier holds for likelier (C2S)
    target: Literal["tumour", "predicted"] = field(default="tumour", metadata=_ADDED)
    # which slices get a map: those labelled 1, or all, where each shows an object and the label tells its kind (C2S)
    slices: Literal["tumour", "all"] = field(default="tumour", metadata=_ADDED)

    @property
    def methods(self) -> tuple[CamName, ...]:
        """All methods, the one that makes the ROI first."""
        return (self.method,) if isinstance(self.method, str) else self.method


@dataclass(frozen=True, config=_CONFIG)
class AmdaSettings:
    """Adaptive masking-based data augmentation (paper 2.1.2)."""

    alpha: Percent = 20.0  # per cent of the ROI that is masked; 0 switches AMDA off
    masked_fraction: Share = 1.0  # of the samples of an epoch; the others stay as they are
    fill: Literal["tissue", "zero"] = "zero"  # "zero" = the paper's X * (1 - M); "tissue" = the slice's median of head
    with_first: Switch = False  # CAM = the larger of both classifiers': the second may lose what was masked


@dataclass(frozen=True, config=_CONFIG)
class RoiSettings:
    """CAM to region of interest; the paper leaves the rule open, ours never sees a mask."""

    brightness: Switch = False  # times the slice's brightness: keeps the ROI out of air and ventricles
    # number = share of the CAM's maximum in the case
    threshold: Literal["otsu"] | Annotated[Number, Field(gt=0, lt=1)] = "otsu"
    # edge of the cubic structuring element in square pixels and slices; 0 = none
    opening: Annotated[Whole, Field(ge=0, le=99)] = 3
    keep_fraction: Share = 1 / 3  # 3D components smaller than this share of the largest are dropped


@dataclass(frozen=True, config=_CONFIG)
class PromptSettings:
    """ROI to SAM prompts (paper 2.2)."""

    kind: Literal["box", "points", "both"] = "both"
    # centre (fg) + box corners (bg), 5 bright points (fg), or points (fg) drawn by the CAM's power
    points: Literal["centre", "intensity", "sampled"] = "centre"
    margin: Annotated[Whole, Field(ge=0, le=10000)] = 0  # mm added around the ROI's bounding box
    padding: Annotated[Number, Field(ge=0, le=10)] = field(default=0.0, metadata=_ADDED)  # and shares of its sides
    count: Annotated[Whole, Field(ge=1, le=1000)] = field(default=10, metadata=_ADDED)  # of sampled points (C2S: 10)
    power: Annotated[Number, Field(ge=0, le=1000)] = field(default=30.0, metadata=_ADDED)  # of their CAM (C2S: 30)


@dataclass(frozen=True, config=_CONFIG)
class SamSettings:
    """SAM masks (paper 2.2, Eq. 3)."""

    equalise: Switch = False  # histogram equalisation before SAM, as in the public code
    # 2 = SAM is prompted again from its own masks, which are often better than the ROI
    passes: Annotated[Whole, Field(ge=1, le=10)] = 1
    keep_fraction: Share = 0.0  # 3D components of the stacked masks below this share of the largest are dropped
    # of the image encoder; "auto" = bf16 for a ViT where it is fast; fp16 overflows there and gives wrong masks
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Switch = False  # torch.compile for the image encoder: pays on a GPU after some thousand slices
    # masks a slice from prompts moved at random (C2S: 10), the farthest by about this share of the box's sides; one is
    # kept: the unmoved prompt's, the one SAM trusts most, that changes least with the threshold, or that agrees most
    candidates: Annotated[Whole, Field(ge=1, le=100)] = field(default=1, metadata=_ADDED)
    jitter: Annotated[Number, Field(ge=0, le=10)] = field(default=0.05, metadata=_ADDED)
    choose: ChoiceRule = field(default="consensus", metadata=_ADDED)
    # edge in pixels of the square that opens and then closes each slice's mask, and fills its holes; 0 = none
    closing: Annotated[Whole, Field(ge=0, le=99)] = field(default=0, metadata=_ADDED)


@dataclass(frozen=True, config=_CONFIG)
class MaskSettings:
    """Where the masks come from: the route that the stages take."""

    # a classifier's CAM prompts SAM (CLISC, C2S), or SAM segments everything and a cluster of it is kept (UM-SAM)
    source: Literal["prompted", "everything"] = "prompted"


@dataclass(frozen=True, config=_CONFIG)
class SegmentSettings:
    """Everything that SAM sees in a slice, and what is known of the object's shape (UM-SAM, fetal brain)."""

    points_per_side: Annotated[Whole, Field(ge=1, le=256)] = 32  # of SAM's grid; time grows with its square
    confidence: Share = 0.88  # SAM's estimate of a segment's IoU; segments below are dropped
    stability: Share = 0.95  # likewise IoU of its masks at a higher and a lower threshold
    area: tuple[Share, Share] = (0.01, 0.25)  # share of the slice
    # width over height of its box
    aspect: tuple[Annotated[Number, Field(ge=0)], Annotated[Number, Field(ge=0)]] = (2 / 3, 1.5)
    # pooled over each segment: DINO's, the CLIP tower's, SAM's embedding, or mean and spread of its brightness
    features: Literal["dino", "clip", "sam", "intensity"] = "dino"


@dataclass(frozen=True, config=_CONFIG)
class ClusterSettings:
    """Which segments are the object: K-means over all, and the cluster nearest to an attribute (UM-SAM, Eq. 4, 5)."""

    count: Annotated[Whole, Field(ge=2, le=1000)] = 8
    attribute: Literal["aspect", "area_mm2", "brightness"] = "aspect"  # brightness: over the slice's mean without air
    prior: Annotated[Number, Field(ge=0)] = (
        1.0  # the object's attribute, from an atlas or a textbook, never from masks of these scans
    )
    per_slice: Literal["union", "nearest"] = "union"  # of several in one slice: all, or the one nearest to the centroid


@dataclass(frozen=True, config=_CONFIG)
class DistillationSettings:
    """Learning from SAM's features (UM-SAM 2.2, Eq. 7 to 9): the paper's values for the fetal brain, never tuned."""

    feature: Annotated[Number, Field(ge=0)] = 0.1  # weight of the distance of class means
    contrast: Annotated[Number, Field(ge=0)] = 0.01  # weight of their contrast with other classes
    temperature: Annotated[Number, Field(gt=0, le=1000)] = 0.5  # of that contrast


@dataclass(frozen=True, config=_CONFIG)
class S3FSettings:
    """SAM-Seg similarity-based filtering between the two rounds (paper 2.3)."""

    beta: Percent = 20.0  # percentile of the similarities below which a case is dropped
    keep_fraction: Share = 0.0  # 3D components of a prediction below this share of its largest are removed from it


@dataclass(frozen=True, config=_CONFIG)
class Settings:
    """Everything that decides what the labels of a dataset are."""

    seed: Annotated[Whole, Field(ge=0, le=2**32 - 1)] = 0
    window: WindowSettings = field(default_factory=WindowSettings)
    slice_labels: SliceLabelSettings = field(default_factory=SliceLabelSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cam: CamSettings = field(default_factory=CamSettings)
    amda: AmdaSettings = field(default_factory=AmdaSettings)
    roi: RoiSettings = field(default_factory=RoiSettings)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    sam: SamSettings = field(default_factory=SamSettings)
    masks: MaskSettings = field(default_factory=MaskSettings)
    segments: SegmentSettings = field(default_factory=SegmentSettings)
    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    s3f: S3FSettings = field(default_factory=S3FSettings)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Rebuild settings written by :meth:`to_dict`; missing entries keep their default.

        Raises:
            UserError: as for :meth:`merged`.
        """
        return cls().merged(values)

    def merged(self, values: dict[str, Any]) -> Settings:
        """These settings with the (nested) entries of `values` put over them.

        Raises:
            UserError: an entry that no setting is called by, or a value that its setting may not have.
        """
        try:
            return TypeAdapter(Settings).validate_python(_over(self.to_dict(), values))
        except ValidationError as error:
            raise UserError(_one_line(error, values)) from None


def described(part: Any) -> str:
    """Text for a key: a group of settings without those that were added later and have their default."""
    if not is_dataclass(part) or isinstance(part, type):
        return str(part)
    values = ((f, getattr(part, f.name)) for f in fields(part))
    kept = ((f.name, value) for f, value in values if not (f.metadata.get("added") and value == f.default))
    each = (f"{name}={described(value) if is_dataclass(value) else repr(value)}" for name, value in kept)
    return f"{type(part).__qualname__}({', '.join(each)})"


def _over(base: Any, values: Any) -> Any:
    """`values` over `base`, group by group; JSON's `128.0` is the whole number 128."""
    if isinstance(base, dict) and isinstance(values, dict):
        return base | {name: _over(base.get(name), value) for name, value in values.items()}
    return int(values) if isinstance(values, float) and values.is_integer() else values


def _one_line(error: ValidationError, values: Any) -> str:
    """The first thing that is wrong with `values`: the setting's path, its value, and what is allowed."""
    whole = schema = TypeAdapter(Settings).json_schema()
    where = "settings"
    for name in error.errors()[0]["loc"]:
        if name not in schema.get("properties", {}):  # an unknown name, or a part of a value
            break
        schema, where, values = schema["properties"][name], f"{where}.{name}", values[name]
        if "$ref" in schema:
            schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema:
        return f"{where}: {values!r} is not allowed; give {_allowed(schema)}"
    known = list(schema["properties"])
    if isinstance(values, dict):
        unknown = next(name for name in values if name not in known)
        return f"{where}: no setting is called '{unknown}'; known here: {', '.join(sorted(known))}"
    if schema is whole:
        return f'{where}: a value without names is not allowed; give names with values, e.g. {{"{known[0]}": …}}'
    return f"{where}: is a group of settings; name one, e.g. {where.partition('.')[2]}.{known[0]}"


def _allowed(schema: dict[str, Any]) -> str:
    """What the JSON schema of a field lets through, in words."""
    if "anyOf" in schema:
        return ", or ".join(_allowed(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " or ".join(schema.get("enum", [schema.get("const")]))
    if "prefixItems" in schema:
        return "two numbers, the lowest and the highest"
    words = {"boolean": "true or false", "array": "a list of names", "string": "a text"}
    if schema["type"] in words:
        return words[schema["type"]]
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    if "exclusiveMaximum" in schema:
        return f"{kind} between {schema['exclusiveMinimum']:g} and {schema['exclusiveMaximum']:g}"
    if "exclusiveMinimum" in schema and "maximum" in schema:
        return f"{kind} above {schema['exclusiveMinimum']:g}, at most {schema['maximum']:g}"
    low, high = schema["minimum"], schema.get("maximum")
    return f"{kind} of {low:g} or more" if high is None else f"{kind} from {low:.10g} to {high:.10g}"
