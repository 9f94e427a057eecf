"""Named choices of settings: what each changes of the defaults in :mod:`pseudo_labeling.settings`."""

from __future__ import annotations

from typing import Any

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
    },
}
