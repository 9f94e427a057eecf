"""Prompted slices to SAM masks (paper 2.2, Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from segment_anything.modeling import Sam
from tqdm import tqdm

from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.roi import large_components
from pseudo_labeling.sam.candidates import agreement, choose, perturbed
from pseudo_labeling.sam.decoder import decode, decode_scored
from pseudo_labeling.sam.encoder import KEPT_BYTES, SliceEmbeddings, SliceEncoder, autocast
from pseudo_labeling.settings import PromptSettings, SamSettings


class Segmented(NamedTuple):
    """What SAM made of one case.

    Attributes:
        mask: `(z, y, x)` bool, cleaned as `SamSettings` say.
        prompts: of the first pass.
        agreement: `(z,)`, mean IoU of the candidates of each prompted slice in the last pass; NaN elsewhere, and
            everywhere where there is one candidate.
    """

    mask: np.ndarray
    prompts: list[Prompt | None]
    agreement: np.ndarray


class SamSegmenter:
    """A SAM that segments the prompted slices of a volume.

    Gives the masks that `segment_anything.SamPredictor` gives for the same prompts, one mask a slice: in float32 the
    same, in bfloat16 (`SamSettings.precision`) nearly so. The decoder always computes in float32.
    """

    def __init__(self, model: Sam, settings: SamSettings = SamSettings(), device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.settings = settings
        self.encoder = SliceEncoder(self.model, settings, self.device)

    def segment(
        self,
        images: np.ndarray,
        roi: np.ndarray,
        prompting: PromptSettings,
        pixel_mm: float,
        *,
        maps: np.ndarray | None = None,
        seed: int = 0,
    ) -> Segmented:
        """Prompt SAM from a region, once or, with `SamSettings.passes` = 2, again from its own cleaned masks.

        The first labelling calls this with CAM regions, the S3F round with the network's prediction.

        Args:
            images: `(z, y, x)` uint8.
            roi: `(z, y, x)` bool.
            prompting: how a region becomes prompts.
            pixel_mm: edge of a pixel.
            maps: `(z, y, x)`, where sampled points come from; without them from the region alone.
            seed: of sampled points and perturbed prompts.
        """
        embeddings = SliceEmbeddings(self.encoder, images, KEPT_BYTES if self.settings.passes > 1 else 0)
        first = prompts = prompts_from_roi(roi, images, prompting, pixel_mm, maps=maps, seed=seed)
        mask, agreement = self._cleaned(*self._masks(embeddings, prompts, seed))
        for _ in range(self.settings.passes - 1):
            prompts = prompts_from_roi(mask, images, prompting, pixel_mm, maps=maps, seed=seed)
            mask, agreement = self._cleaned(*self._masks(embeddings, prompts, seed))
        return Segmented(mask, first, agreement)

    def _cleaned(self, masks: np.ndarray, agreement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return large_components(smoothed(masks, self.settings.closing), self.settings.keep_fraction), agreement

    def masks(self, images: np.ndarray, prompts: Sequence[Prompt | None], progress: bool = False) -> np.ndarray:
        """Segment every slice that has a prompt; the others stay empty (paper: `y = 0` slices are empty).

        Args:
            images: `(z, y, x)` uint8.
            prompts: one for each slice, in pixels of the slice.
            progress: show a bar over the prompted slices.

        Returns:
            `(z, y, x)` bool.
        """
        return self._masks(SliceEmbeddings(self.encoder, images), prompts, progress=progress)[0]

    @torch.inference_mode()
    def _masks(
        self, embeddings: SliceEmbeddings, prompts: Sequence[Prompt | None], seed: int = 0, *, progress: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masks `(z, y, x)` and, with several candidates, their agreement `(z,)`, NaN elsewhere."""
        images = embeddings.images
        masks = np.zeros(images.shape, dtype=bool)
        agreed = np.full(len(images), np.nan)
        size = (int(images.shape[1]), int(images.shape[2]))
        asked = {z: prompt for z, prompt in enumerate(prompts) if prompt is not None}
        with tqdm(total=len(asked), desc="SAM", unit="slice", leave=False, disable=not progress) as bar:
            for batch, found in embeddings.batches(list(asked)):
                with autocast(self.device, bfloat16=False):  # a trainer may call this from its own autocast
                    if self.settings.candidates == 1:
                        masks[batch] = decode(self.model, found, [asked[z] for z in batch], size)
                    else:
                        for z, embedding in zip(batch, found, strict=True):
                            masks[z], agreed[z] = self._chosen(embedding, asked[z], size, [seed, z])
                bar.update(len(batch))
        return masks, agreed

    def _chosen(
        self, embedding: torch.Tensor, prompt: Prompt, size: tuple[int, int], seed: list[int]
    ) -> tuple[np.ndarray, float]:
        """One of several masks of a slice, `(y, x)` bool, and how much all of them agree."""
        settings = self.settings
        prompts = perturbed(prompt, settings.candidates, settings.jitter, size, np.random.default_rng(seed))
        candidates = decode_scored(self.model, embedding.expand(len(prompts), -1, -1, -1), prompts, size)
        return candidates.masks[choose(candidates, settings.choose)], agreement(candidates.masks)


def smoothed(masks: np.ndarray, edge: int) -> np.ndarray:
    """Open and close each slice's mask with a square, then fill its holes (C2S's clean-up).

    Args:
        masks: `(z, y, x)` bool.
        edge: of the square, in pixels; 0 leaves all as it is.
    """
    if not edge:
        return masks
    square = np.ones((1, edge, edge))
    padded = np.pad(masks, ((0, 0), (edge, edge), (edge, edge)))  # closing must not lose what touches the frame
    opened = ndimage.binary_closing(ndimage.binary_opening(padded, square), square)
    inside: np.ndarray = opened[:, edge:-edge, edge:-edge]
    return np.stack([ndimage.binary_fill_holes(mask) for mask in inside])
