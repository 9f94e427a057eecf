"""Prompted slices to SAM masks (paper 2.2, Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from segment_anything.modeling import Sam
from tqdm import tqdm

from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.roi import large_components
from pseudo_labeling.sam.decoder import decode
from pseudo_labeling.sam.encoder import KEPT_BYTES, SliceEmbeddings, SliceEncoder, autocast
from pseudo_labeling.settings import PromptSettings, SamSettings


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
        self, images: np.ndarray, roi: np.ndarray, prompting: PromptSettings, pixel_mm: float
    ) -> tuple[np.ndarray, list[Prompt | None]]:
        """Prompt SAM from a region, once or, with `SamSettings.passes` = 2, again from its own cleaned masks.

        The first labelling calls this with CAM regions, the S3F round with the network's prediction.

        Args:
            images: `(z, y, x)` uint8.
            roi: `(z, y, x)` bool.
            prompting: how a region becomes prompts.
            pixel_mm: edge of a pixel.

        Returns:
            masks `(z, y, x)` bool, cleaned as `SamSettings.keep_fraction` says, and the prompts of the first pass.
        """
        embeddings = SliceEmbeddings(self.encoder, images, KEPT_BYTES if self.settings.passes > 1 else 0)
        first = prompts = prompts_from_roi(roi, images, prompting, pixel_mm)
        mask = large_components(self._masks(embeddings, prompts), self.settings.keep_fraction)
        for _ in range(self.settings.passes - 1):
            prompts = prompts_from_roi(mask, images, prompting, pixel_mm)
            mask = large_components(self._masks(embeddings, prompts), self.settings.keep_fraction)
        return mask, first

    def masks(self, images: np.ndarray, prompts: Sequence[Prompt | None], progress: bool = False) -> np.ndarray:
        """Segment every slice that has a prompt; the others stay empty (paper: `y = 0` slices are empty).

        Args:
            images: `(z, y, x)` uint8.
            prompts: one for each slice, in pixels of the slice.
            progress: show a bar over the prompted slices.

        Returns:
            `(z, y, x)` bool.
        """
        return self._masks(SliceEmbeddings(self.encoder, images), prompts, progress)

    @torch.inference_mode()
    def _masks(
        self, embeddings: SliceEmbeddings, prompts: Sequence[Prompt | None], progress: bool = False
    ) -> np.ndarray:
        images = embeddings.images
        masks = np.zeros(images.shape, dtype=bool)
        size = (int(images.shape[1]), int(images.shape[2]))
        asked = {z: prompt for z, prompt in enumerate(prompts) if prompt is not None}
        with tqdm(total=len(asked), desc="SAM", unit="slice", leave=False, disable=not progress) as bar:
            for batch, found in embeddings.batches(list(asked)):
                with autocast(self.device, bfloat16=False):  # a trainer may call this from its own autocast
                    masks[batch] = decode(self.model, found, [asked[z] for z in batch], size)
                bar.update(len(batch))
        return masks
