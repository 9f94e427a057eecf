"""Features of segments: DINO's, a CLIP tower's, SAM's own, or brightness (UM-SAM 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam
from torch import nn

from pseudo_labeling.sam.encoder import SliceEncoder
from pseudo_labeling.sam.everything import Segment
from pseudo_labeling.settings import SamSettings
from pseudo_labeling.shape_prior import pooled
from pseudo_labeling.slices import grey
from pseudo_labeling.weights.models import ClipBundle

BATCH = 8  # slices
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation that DINO was trained with
DINO_SIZE = 224  # pixels; 28 x 28 cells of a ViT-S/8

FeatureMaps = Callable[[np.ndarray], np.ndarray]


def sam_maps(sam: Sam, device: torch.device) -> FeatureMaps:
    """SAM's image embedding as a map of features.

    Args:
        sam: on its device.
        device: where to compute.

    Returns:
        Of slices `(n, y, x)` or `(n, y, x, 3)` uint8 the maps `(n, d, h, w)` float32 over their :func:`square`.
    """
    encoder = SliceEncoder(sam, SamSettings(), device)

    def maps(slices: np.ndarray) -> np.ndarray:
        found = [encoder.encode(encoder.inputs(list(square(batch)))) for batch in _batches(slices)]
        return torch.cat(found).cpu().numpy()

    return maps


def clip_maps(clip: ClipBundle, device: torch.device) -> FeatureMaps:
    """The last layer with places of a CLIP's image tower, a ResNet's or a transformer's; as :func:`sam_maps`."""
    visual: Any = clip.model.visual
    return _network_maps(
        lambda images: visual.forward_intermediates(images, indices=1, intermediates_only=True, output_fmt="NCHW"),
        clip.image_size,
        (visual.image_mean, visual.image_std),
        device,
    )


def dino_maps(dino: nn.Module, device: torch.device) -> FeatureMaps:
    """The last block of a DINO vision transformer; as :func:`sam_maps`."""
    network: Any = dino
    return _network_maps(
        lambda images: network.forward_intermediates(images, indices=1, intermediates_only=True, norm=True),
        DINO_SIZE,
        IMAGENET,
        device,
    )


def features_of(slices: np.ndarray, found: list[list[Segment]], maps: FeatureMaps | None) -> np.ndarray:
    """A feature of each segment of a case.

    Args:
        slices: `(z, y, x)` or `(z, y, x, 3)` uint8.
        found: segments of each slice.
        maps: pooled over the segments, of unit length; None for mean and standard deviation of their brightness.

    Returns:
        `(n, d)` float32, slice by slice.
    """
    occupied = [z for z, segments in enumerate(found) if segments]
    if not occupied:
        return np.zeros((0, 0), dtype=np.float32)
    if maps is None:
        light = grey(slices).astype(np.float32) / 255
        inside = [light[z][each.mask] for z in occupied for each in found[z]]
        return np.array([[values.mean(), values.std()] for values in inside], dtype=np.float32)
    rows = []
    for start in range(0, len(occupied), BATCH):
        batch = occupied[start : start + BATCH]
        for z, features in zip(batch, maps(slices[batch]), strict=True):
            rows.append(pooled(features, [square(each.mask[None])[0] for each in found[z]]))
    return np.concatenate(rows)


def square(images: np.ndarray) -> np.ndarray:
    """Slices `(n, y, x)` or `(n, y, x, 3)` with zeros below or to the right: networks see undistorted squares."""
    edge = max(images.shape[1:3])
    missing = [(0, 0), (0, edge - images.shape[1]), (0, edge - images.shape[2]), *[(0, 0)] * (images.ndim - 3)]
    return np.pad(images, missing)


def _network_maps(
    intermediates: Callable[[torch.Tensor], Any],
    size: int,
    normalisation: tuple[Any, Any],
    device: torch.device,
) -> FeatureMaps:
    mean, deviation = (torch.tensor(each).view(1, 3, 1, 1) for each in normalisation)

    @torch.inference_mode()
    def maps(slices: np.ndarray) -> np.ndarray:
        found = []
        for batch in _batches(slices):
            shown = [Image.fromarray(each).convert("RGB").resize((size, size), _BICUBIC) for each in square(batch)]
            pixels = torch.from_numpy(np.stack([np.asarray(each) for each in shown])).permute(0, 3, 1, 2) / 255
            result = intermediates(((pixels - mean) / deviation).to(device))
            result = result["image_intermediates"] if isinstance(result, dict) else result
            found.append(result[-1].float().cpu())
        return torch.cat(found).numpy()

    return maps


_BICUBIC = Image.Resampling.BICUBIC


def _batches(slices: np.ndarray) -> list[np.ndarray]:
    return [slices[start : start + BATCH] for start in range(0, len(slices), BATCH)]
