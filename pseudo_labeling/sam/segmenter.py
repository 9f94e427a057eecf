"""Prompted slices to SAM masks (paper 2.2, Eq. 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from segment_anything.modeling import Sam
from tqdm import tqdm

from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.roi import Region, large_components
from pseudo_labeling.sam.candidates import agreement, choose, perturbed
from pseudo_labeling.sam.decoder import ScoredMasks, decode, decode_scored
from pseudo_labeling.sam.encoder import KEPT_BYTES, SliceEmbeddings, SliceEncoder, autocast
from pseudo_labeling.settings import PromptSettings, SamSettings

Pick = Callable[[int, ScoredMasks], int]
"""A slice's number and its candidates to the place of the one to keep."""


class Segmented(NamedTuple):
    """What SAM made of one case.

    Attributes:
        mask: `(z, y, x)` bool, cleaned as `SamSettings` say.
        prompts: of the first pass and the first region.
        agreement: `(z,)`, mean IoU of the candidates of each prompted slice in the last pass; NaN elsewhere, and
            everywhere where there is one candidate.
        votes: `(z, y, x)` float16, share of the candidates that mark a pixel in the last pass; None with one candidate.
    """

    mask: np.ndarray
    prompts: list[Prompt | None]
    agreement: np.ndarray
    votes: np.ndarray | None = None


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
        regions: Sequence[Region],
        prompting: PromptSettings,
        pixel_mm: float,
        *,
        seed: int = 0,
        pick: Pick | None = None,
    ) -> Segmented:
        """Prompt SAM from a region, once or, with `SamSettings.passes` = 2, again from its own cleaned masks.

        The first labelling calls this with CAM regions, the S3F round with the network's prediction.

        Args:
            images: `(z, y, x)` or `(z, y, x, 3)` uint8.
            regions: where to look; several give each slice as many candidates, of which one is kept.
            prompting: how a region becomes prompts.
            pixel_mm: edge of a pixel.
            seed: of sampled points and perturbed prompts.
            pick: chooses among several candidates; by default the settings' rule does.
        """
        embeddings = SliceEmbeddings(self.encoder, images, KEPT_BYTES if self.settings.passes > 1 else 0)

        def asked(regions: Sequence[Region]) -> list[list[Prompt | None]]:
            return [
                prompts_from_roi(each.roi, images, prompting, pixel_mm, maps=each.maps, seed=seed) for each in regions
            ]

        first = asked(regions)
        found = self._masks(embeddings, first, seed, pick)
        for _ in range(self.settings.passes - 1):
            found = self._masks(
                embeddings, asked([Region(cleaned(found.mask, self.settings), regions[0].maps)]), seed, pick
            )
        return Segmented(cleaned(found.mask, self.settings), first[0], found.agreement, found.votes)

    def masks(self, images: np.ndarray, prompts: Sequence[Prompt | None], progress: bool = False) -> np.ndarray:
        """Segment every slice that has a prompt; the others stay empty (paper: `y = 0` slices are empty).

        Args:
            images: `(z, y, x)` or `(z, y, x, 3)` uint8.
            prompts: one for each slice, in pixels of the slice.
            progress: show a bar over the prompted slices.

        Returns:
            `(z, y, x)` bool.
        """
        return self._masks(SliceEmbeddings(self.encoder, images), [prompts], progress=progress).mask

    @torch.inference_mode()
    def _masks(
        self,
        embeddings: SliceEmbeddings,
        prompts: Sequence[Sequence[Prompt | None]],
        seed: int = 0,
        pick: Pick | None = None,
        *,
        progress: bool = False,
    ) -> Segmented:
        """One pass: the masks as SAM gives them."""
        pick = pick or (lambda _, candidates: choose(candidates, self.settings.choose))
        images = embeddings.images
        masks = np.zeros(images.shape[:3], dtype=bool)
        agreed = np.full(len(images), np.nan)
        size = (int(images.shape[1]), int(images.shape[2]))
        of_slice = ([prompt for prompt in each if prompt is not None] for each in zip(*prompts, strict=True))
        asked = {z: found for z, found in enumerate(of_slice) if found}
        single = self.settings.candidates == 1 and len(prompts) == 1
        votes = None if single else np.zeros(images.shape[:3], dtype=np.float16)
        with tqdm(total=len(asked), desc="SAM", unit="slice", leave=False, disable=not progress) as bar:
            for batch, found in embeddings.batches(list(asked)):
                with autocast(self.device, bfloat16=False):  # a trainer may call this from its own autocast
                    if votes is None:
                        masks[batch] = decode(self.model, found, [asked[z][0] for z in batch], size)
                    else:
                        for z, embedding in zip(batch, found, strict=True):
                            candidates = self.candidates(embedding, asked[z], size, [seed, z])
                            masks[z] = candidates.masks[pick(z, candidates)]
                            agreed[z], votes[z] = agreement(candidates.masks), candidates.masks.mean(0)
                bar.update(len(batch))
        return Segmented(masks, list(prompts[0]), agreed, votes)

    def candidates(
        self, embedding: torch.Tensor, asked: Sequence[Prompt], size: tuple[int, int], seed: Sequence[int]
    ) -> ScoredMasks:
        """All masks of one slice: those of each prompt and of the prompts around it, the unmoved one first.

        Args:
            embedding: `(c, h, w)`.
            asked: the prompts of each region.
            size: `(y, x)` of the slice.
            seed: of the perturbations; a second region's are others.
        """
        settings = self.settings
        rng = np.random.default_rng(seed)
        prompts = [each for one in asked for each in perturbed(one, settings.candidates, settings.jitter, size, rng)]
        return decode_scored(self.model, embedding.expand(len(prompts), -1, -1, -1), prompts, size)


def cleaned(masks: np.ndarray, settings: SamSettings) -> np.ndarray:
    """Stacked masks `(z, y, x)` without rough edges, holes and small components, as far as the settings say."""
    return large_components(smoothed(masks, settings.closing), settings.keep_fraction)


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
