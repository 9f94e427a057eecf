"""Named choices of settings: what each changes of the defaults in :mod:`pseudo_labeling.settings`."""

from __future__ import annotations

from typing import Any

# in the few hundred steps of DistillationTrainer_small, which fits the embedded SAM, a network under the paper's weight
# learns SAM's features and no label (docs/results.md)
_FEW_STEPS = {"feature": 0.01}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},  # the defaults are the paper's values
    "public-code": {  # what the code published with the paper does, where it is sound
        "slice_labels": {"min_confidence": 0.6, "vote_radius": 5},
        "classifier": {"epochs": 400},
        "prompts": {"kind": "both", "points": "intensity", "margin": 10},
        "sam": {"equalise": True},
    },
    "embedded": {  # what worked best on real scans with the package's own small networks (docs/results.md)
        "slice_labels": {"smoothing_mm": 4.0, "threshold": "otsu", "one_run": True},
        "classifier": {"image_size": 128, "batch_size": 16, "epochs": 4, "patience": 2},
        "cam": {"layers": ("layer1", "layer2", "layer3"), "weighted": True},
        "amda": {"masked_fraction": 0.5, "fill": "tissue", "with_first": True},
        "roi": {"brightness": True},
        "prompts": {"points": "intensity", "margin": 20},
        "sam": {"passes": 2, "keep_fraction": 1 / 3},
        "s3f": {"keep_fraction": 1 / 3},
        "distillation": _FEW_STEPS,
    },
    "c2s": {  # Classification-to-Segmentation: pictures with labels; its README's values where it has any
        "slice_labels": {"min_head_fraction": 0.0},
        # one of its five backbones, the one whose ImageNet weights `weights download` fetches
        "classifier": {"backbone": "resnet50", "batch_size": 32, "patience": 50},
        "cam": {
            "method": ("gradcam", "gradcam++", "layercam"),
            "layers": ("auto",),
            "slices": "all",
            "target": "predicted",
        },
        "amda": {"alpha": 0.0},
        "roi": {"threshold": 0.5, "opening": 0, "keep_fraction": 0.0},
        "prompts": {"points": "sampled", "padding": 0.1},
        "sam": {"candidates": 10, "closing": 5, "keep_fraction": 1.0},
    },
    "um-sam": {
        "masks": {"source": "everything"}
    },  # UM-SAM; the defaults of segments and clusters are its fetal brain's
}
# what the package's own small networks need beside a preset that was written for published ones
EMBEDDED: dict[str, dict[str, Any]] = {
    "c2s": {
        "classifier": {"backbone": "clip", "image_size": 128, "batch_size": 16, "epochs": 30, "patience": 8},
        "cam": {"layers": ("layer2", "layer3", "layer4")},
        "distillation": _FEW_STEPS,
    },
    "um-sam": {
        "segments": {  # of a lesion in FLAIR: darker and smaller things have other clusters (docs/results.md)
            "points_per_side": 16,
            "confidence": 0.5,
            "stability": 0.5,
            "area": (0.005, 0.15),
            "aspect": (0.5, 2.0),
            "features": "clip",
        },
        "clusters": {"count": 4, "attribute": "brightness", "prior": 2.0},
        "distillation": _FEW_STEPS,
    },
}


def preset_values(name: str, *, embedded: bool) -> list[dict[str, Any]]:
    """What a preset changes, later entries over earlier ones.

    Args:
        name: one of :data:`PRESETS`.
        embedded: whether CLIP, and with it the classifier, is the package's own.
    """
    return [PRESETS[name], *([EMBEDDED[name]] if embedded and name in EMBEDDED else [])]
