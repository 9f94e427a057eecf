"""Prompted slices to SAM masks (paper 2.2, Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from tqdm import tqdm

from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.roi import large_components
from pseudo_labeling.settings import PromptSettings, SamSettings

ENCODER_BATCH = 4  # slices; an embedding of the published ViT-B is 4 MB, its activations far more


class SamSegmenter:
    """A SAM that segments the prompted slices of a volume, each encoded once.

    Gives the masks that `segment_anything.SamPredictor` gives for the same prompts, one mask a slice.
    """

    def __init__(self, model: Sam, settings: SamSettings = SamSettings(), device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.settings = settings
        self._resize = ResizeLongestSide(model.image_encoder.img_size)

    def segment(
        self, images: np.ndarray, roi: np.ndarray, prompting: PromptSettings
    ) -> tuple[np.ndarray, list[Prompt | None]]:
        """Prompt SAM from a region, once or, with `SamSettings.passes` = 2, again from its own cleaned masks.

        The first labelling calls this with CAM regions, the S3F round with the network's prediction.

        Args:
            images: `(z, y, x)` uint8.
            roi: `(z, y, x)` bool.
            prompting: how a region becomes prompts.

        Returns:
            masks `(z, y, x)` bool, cleaned as `SamSettings.keep_fraction` says, and the prompts of the first pass.
        """
        first = prompts = prompts_from_roi(roi, images, prompting)
        mask = large_components(self.masks(images, prompts), self.settings.keep_fraction)
        for _ in range(self.settings.passes - 1):
            prompts = prompts_from_roi(mask, images, prompting)
            mask = large_components(self.masks(images, prompts), self.settings.keep_fraction)
        return mask, first

    @torch.inference_mode()
    def masks(self, images: np.ndarray, prompts: Sequence[Prompt | None], progress: bool = False) -> np.ndarray:
        """Segment every slice that has a prompt; the others stay empty (paper: `y = 0` slices are empty).

        Args:
            images: `(z, y, x)` uint8.
            prompts: one for each slice, in pixels of the slice.
            progress: show a bar over the prompted slices.

        Returns:
            `(z, y, x)` bool.
        """
        masks = np.zeros(images.shape, dtype=bool)
        todo = [z for z, prompt in enumerate(prompts) if prompt is not None]
        size = (int(images.shape[1]), int(images.shape[2]))
        with tqdm(total=len(todo), desc="SAM", unit="slice", leave=False, disable=not progress) as bar:
            for start in range(0, len(todo), ENCODER_BATCH):
                batch = todo[start : start + ENCODER_BATCH]
                inputs = torch.cat([self._input(images[z]) for z in batch])
                input_size = (inputs.shape[-2], inputs.shape[-1])
                embeddings = self.model.image_encoder(self.model.preprocess(inputs))
                for row, z in enumerate(batch):
                    prompt = prompts[z]
                    if prompt is not None:
                        masks[z] = self._decode(embeddings[row : row + 1], prompt, input_size, size)
                bar.update(len(batch))
        return masks

    def _input(self, image: np.ndarray) -> torch.Tensor:
        if self.settings.equalise:
            image = np.asarray(ImageOps.equalize(Image.fromarray(image)))
        resized = self._resize.apply_image(np.repeat(image[..., None], 3, axis=2))
        return torch.as_tensor(resized, device=self.device).permute(2, 0, 1)[None].contiguous().float()

    def _decode(
        self, embedding: torch.Tensor, prompt: Prompt, input_size: tuple[int, int], size: tuple[int, int]
    ) -> np.ndarray:
        points: tuple[torch.Tensor, torch.Tensor] | None = None
        if prompt.points is not None:
            coordinates = self._resize.apply_coords(prompt.points.astype(np.float64), size)
            points = (
                torch.as_tensor(coordinates, dtype=torch.float, device=self.device)[None],
                torch.as_tensor(prompt.point_labels, dtype=torch.int, device=self.device)[None],
            )
        boxes: torch.Tensor | None = None
        if prompt.box is not None:
            boxes = torch.as_tensor(
                self._resize.apply_boxes(prompt.box.astype(np.float64)[None], size),
                dtype=torch.float,
                device=self.device,
            )
        sparse, dense = self.model.prompt_encoder(points=points, boxes=boxes, masks=None)
        low_resolution, _ = self.model.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        logits = self.model.postprocess_masks(low_resolution, input_size, size)
        return (logits[0, 0] > self.model.mask_threshold).cpu().numpy()
