"""Does CLIP heed what it is asked? Slice labels under prompts that should change or destroy them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pseudo_labeling.settings import SliceLabelSettings
from pseudo_labeling.slice_labels import (
    SliceLabels,
    encode_prompts,
    head_fraction,
    labels_from_probability,
    probability_of,
    slice_features,
)
from pseudo_labeling.weights.models import ClipBundle

OWN = "own prompts"
# What a normal and a tumour slice are called instead. Several, since a single text may by chance lie near one of the
# user's own, above all for a small CLIP.
NONSENSE = {
    "nonsense: cat, dog": ("a photo of a cat", "a photo of a dog"),
    "nonsense: bread, bicycle": ("a slice of bread on a table", "a red bicycle in the rain"),
    "nonsense: tea, mountain": ("a cup of tea", "a mountain at sunrise"),
    "nonsense: table, chair": ("table", "chair"),
    "nonsense: report, guitar": ("quarterly report", "guitar solo"),
}


def controls(own: SliceLabelSettings) -> dict[str, SliceLabelSettings]:
    """Settings of every control by name, the user's own first; only the texts differ.

    Args:
        own: of the dataset.
    """
    texts = {
        OWN: (own.normal_prompt, own.tumour_prompt),
        "swapped classes": (own.tumour_prompt, own.normal_prompt),
        "twice the normal prompt": (own.normal_prompt, own.normal_prompt),
        **NONSENSE,
    }
    return {name: replace(own, normal_prompt=normal, tumour_prompt=tumour) for name, (normal, tumour) in texts.items()}


@torch.inference_mode()
def controlled_labels(
    slices: np.ndarray, slice_mm: float, clip: ClipBundle, own: SliceLabelSettings, device: torch.device | str
) -> dict[str, SliceLabels]:
    """Slice labels of one case under every control, by the same rules.

    Args:
        slices: `(z, y, x)` uint8, windowed.
        slice_mm: distance of neighbouring slices.
        clip: model, preprocessing, tokenizer.
        own: the dataset's prompts and rules.
        device: where CLIP is.
    """
    features, head = slice_features(slices, clip, device), head_fraction(slices)
    found = {}
    for name, settings in controls(own).items():
        probability = probability_of(features, clip, encode_prompts(clip, settings, device))
        found[name] = labels_from_probability(probability, head, settings, slice_mm)
    return found


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two labellings `(n,)` of 0 and 1: 1 the same, 0 as by chance, below 0 opposed."""
    # not sklearn's cohen_kappa_score: it warns where all labels are alike, in each version in another way
    p, q = float(first.mean()), float(second.mean())
    chance = p * q + (1 - p) * (1 - q)
    agreement = float((first == second).mean())
    return (agreement - chance) / (1 - chance) if chance < 1 else float("nan")
