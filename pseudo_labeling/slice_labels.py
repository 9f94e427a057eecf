"""Slice labels: CLIP says for each slice *normal* or *tumour* (paper 2.1.1, Eq. 1), or the user's own table does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_table
from pseudo_labeling.ahead import made_ahead
from pseudo_labeling.precision import bfloat16_autocast
from pseudo_labeling.settings import SliceLabelSettings
from pseudo_labeling.slices import grey

if TYPE_CHECKING:
    from pseudo_labeling.weights.models import ClipBundle

BATCH = 16  # slices; more at once are slower on a CPU: they fall out of its cache
HEAD_LEVEL = 20  # of 255: darker pixels of a windowed slice are air


@dataclass(frozen=True)
class SliceLabels:
    """Labels of the slices of one case.

    Attributes:
        probability: `(z,)` float32, of the slice showing a tumour.
        label: `(z,)` int64, 1 = tumour.
        confident: `(z,)` bool, whether the slice may train the classifier.
    """

    probability: np.ndarray
    label: np.ndarray
    confident: np.ndarray


@torch.inference_mode()
def encode_prompts(clip: ClipBundle, settings: SliceLabelSettings, device: torch.device | str) -> torch.Tensor:
    """Text features `g_c` of the normal and the tumour prompt, of unit length.

    Returns:
        `(2, d)` float32, row 0 = normal, row 1 = tumour.
    """
    tokens = clip.tokenizer([settings.normal_prompt, settings.tumour_prompt]).to(device)
    return torch.nn.functional.normalize(clip.model.encode_text(tokens).float(), dim=-1)


@torch.inference_mode()
def slice_features(images: np.ndarray, clip: ClipBundle, device: torch.device | str) -> torch.Tensor:
    """CLIP's image features of slices, in batches and in bfloat16 where the device has it.

    Args:
        images: `(z, y, x)` uint8, or `(z, y, x, 3)` of pictures.
        clip: model, preprocessing.

    Returns:
        `(z, d)` float32 of unit length.
    """
    clip.model.visual.to(memory_format=torch.channels_last)  # a ResNet tower on a CPU: 1.7 times as fast
    found = []

    def prepared(start: int) -> torch.Tensor:
        batch = images[start : start + BATCH]
        return torch.stack([clip.preprocess(Image.fromarray(image).convert("RGB")) for image in batch])

    for inputs in made_ahead(range(0, len(images), BATCH), prepared):
        with bfloat16_autocast(torch.device(device)):
            features = clip.model.encode_image(inputs.to(device, memory_format=torch.channels_last))
        found.append(torch.nn.functional.normalize(features.float(), dim=-1))
    return torch.cat(found)


@torch.inference_mode()
def tumour_probability(
    images: np.ndarray, clip: ClipBundle, text: torch.Tensor, device: torch.device | str
) -> np.ndarray:
    """Probability of *tumour* for each slice (Eq. 1), with CLIP's own learned temperature.

    Eq. 1 is written without a temperature; it does not change the argmax, and without one every probability is close
    to 0.5 and a confidence cut means nothing.

    Args:
        images: `(z, y, x)` uint8.
        clip: model, preprocessing.
        text: `(2, d)` from :func:`encode_prompts`.

    Returns:
        `(z,)` float32.
    """
    return probability_of(slice_features(images, clip, device), clip, text)


def probability_of(features: torch.Tensor, clip: ClipBundle, text: torch.Tensor) -> np.ndarray:
    """Of slices `(z, d)` from :func:`slice_features`, the probability of a tumour, `(z,)` float32 (Eq. 1)."""
    logits = clip.model.logit_scale.detach().exp().float() * features @ text.T
    probability: np.ndarray = logits.softmax(dim=-1)[:, 1].cpu().numpy().astype(np.float32)
    return probability


def head_fraction(images: np.ndarray) -> np.ndarray:
    """Share of pixels of each slice that are not air, `(z,)` in [0, 1]."""
    return (grey(images) > HEAD_LEVEL).mean(axis=(1, 2))


def labels_from_probability(
    probability: np.ndarray, head: np.ndarray, settings: SliceLabelSettings, slice_mm: float = 1.0
) -> SliceLabels:
    """Argmax of Eq. 1; then, as far as the settings say so, what the slices of one case know of each other.

    In this order: smoothing of the log-odds along z, the case's own threshold, a majority vote among confident
    neighbours, and one run of tumour slices. None of it sees a mask.

    Args:
        probability: `(z,)` of *tumour*, slices in anatomical order.
        head: `(z,)` share of head pixels.
        settings: confidence cut, smoothing, threshold, vote radius, runs, smallest head.
        slice_mm: distance of neighbouring slices.
    """
    seen = head >= settings.min_head_fraction
    confident = (np.maximum(probability, 1 - probability) >= settings.min_confidence) & seen
    evidence = log_odds(np.where(seen, probability, 0.0))
    if settings.smoothing_mm > 0:
        evidence = ndimage.gaussian_filter1d(evidence, settings.smoothing_mm / slice_mm, mode="nearest")
    if settings.threshold == "otsu" and np.ptp(evidence) > 0:
        evidence = evidence - max(float(threshold_otsu(evidence)), 0.0)  # never below the argmax
    own = (evidence > 0).astype(np.int64)
    label = own.copy()
    for z in range(len(own)):
        window = slice(max(z - settings.vote_radius, 0), z + settings.vote_radius + 1)
        votes = np.where(own[window] == 1, 1, -1)[confident[window]].sum()
        if votes != 0:
            label[z] = int(votes > 0)
    label[~seen] = 0
    if settings.one_run:
        label = strongest_run(label, evidence)
    return SliceLabels(probability, label, confident)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """`(z,)` logarithm of p / (1 - p), with p kept 1e-4 away from certainty."""
    kept = np.clip(probability.astype(np.float64), 1e-4, 1 - 1e-4)
    odds: np.ndarray = np.log(kept / (1 - kept))
    return odds


def strongest_run(label: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Of the runs of tumour slices in `(z,)` labels, only the one whose evidence `(z,)` sums to most."""
    runs, count = ndimage.label(label)
    if count < 2:
        return label
    weights = ndimage.sum_labels(evidence, runs, np.arange(1, count + 1))
    return np.where(runs == 1 + int(np.argmax(weights)), label, 0)


def read_label_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table of slice labels, not yet checked against any scan.

    Raises:
        UserError: no such file, no CSV, or without the columns `case,label`.
    """
    rows = read_table(path, "give a text file case,slice,label")
    if not rows or not {"case", "label"} <= set(rows[0]):
        raise UserError(f"{path}: needs a header 'case,slice,label' and one row a slice")
    return rows


def read_image_labels(path: str | Path, depths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read the user's slice labels from a CSV with the columns `case,slice,label`.

    Args:
        path: the file; `slice` counts from 0 as the scan's file does, `label` is 0 or 1. Cases of one slice (pictures)
            need no column `slice`.
        depths: number of axial slices of every case of the dataset.

    Returns:
        `(z,)` int64 for each case, in the file's slice order.

    Raises:
        UserError: missing columns, unknown case or slice, a label other than 0 or 1, a slice without or with
            two labels.
    """
    labels = {case: np.full(depth, -1, dtype=np.int64) for case, depth in depths.items()}
    for number, row in enumerate(read_label_rows(path), start=2):
        where = f"{path}, line {number}"
        case = row["case"]
        if case not in labels:
            raise UserError(f"{where}: imagesTr has no case {case!r}; correct the name or remove the row")
        if "slice" not in row and depths[case] > 1:
            raise UserError(f"{path}: needs a header 'case,slice,label' and one row a slice: {case} has {depths[case]}")
        try:
            z, label = int(row.get("slice", 0)), int(row["label"])
        except (TypeError, ValueError):
            raise UserError(f"{where}: slice and label must be whole numbers") from None
        if not 0 <= z < depths[case]:
            raise UserError(f"{where}: {case} has slices 0 to {depths[case] - 1}, not {z}")
        if label not in (0, 1):
            raise UserError(f"{where}: label must be 0 (normal) or 1 (tumour), not {label}")
        if labels[case][z] >= 0:
            raise UserError(f"{where}: slice {z} of {case} has a label already; remove one of the rows")
        labels[case][z] = label
    for case, found in labels.items():
        if (found < 0).any():
            raise UserError(f"{path}: slice {int(np.argmin(found))} of {case} has no label; add a row for it")
    return labels
