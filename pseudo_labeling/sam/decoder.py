"""Embeddings and prompts of many slices to masks in one go; `segment_anything`'s own decoder takes one image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide

from pseudo_labeling.prompts import Prompt


def decode(
    model: Sam,
    embeddings: torch.Tensor,
    prompts: Sequence[Prompt],
    size: tuple[int, int],
) -> np.ndarray:
    """One mask for each slice and its prompt, as `SamPredictor` gives it.

    Prompts with the same number of points go together. Filling the shorter ones up with `not a point` would change
    their masks, since SAM attends to such a point too; it adds one itself where there is no box, and so does this.

    Args:
        model: prompt encoder and mask decoder.
        embeddings: `(n, c, h, w)` float32.
        prompts: `n`, in pixels of the slice.
        size: `(y, x)` of the slices in pixels.

    Returns:
        `(n, y, x)` bool.
    """
    masks = np.zeros((len(prompts), *size), dtype=bool)
    for rows, low_resolution, _ in _decoded(model, embeddings, prompts, size):
        masks[rows] = (_full_size(model, low_resolution, size) > model.mask_threshold).cpu().numpy()
    return masks


@dataclass(frozen=True)
class ScoredMasks:
    """Masks with what SAM says of them.

    Attributes:
        masks: `(n, y, x)` bool.
        confidence: `(n,)` float32, SAM's own estimate of each mask's IoU with the object.
        stability: `(n,)` float32 in [0, 1], IoU of the masks at logits one above and one below the threshold; 0 where
            both are empty.
    """

    masks: np.ndarray
    confidence: np.ndarray
    stability: np.ndarray


def decode_scored(
    model: Sam, embeddings: torch.Tensor, prompts: Sequence[Prompt], size: tuple[int, int]
) -> ScoredMasks:
    """The masks of :func:`decode` with their scores; the same arguments."""
    masks = np.zeros((len(prompts), *size), dtype=bool)
    confidence, stability = np.zeros((2, len(prompts)), dtype=np.float32)
    for rows, low_resolution, estimate in _decoded(model, embeddings, prompts, size):
        logits = _full_size(model, low_resolution, size)
        masks[rows] = (logits > model.mask_threshold).cpu().numpy()
        confidence[rows] = estimate.float().cpu().numpy()
        stable = calculate_stability_score(logits, model.mask_threshold, 1.0)
        stability[rows] = stable.nan_to_num(0.0).cpu().numpy()
    return ScoredMasks(masks, confidence, stability)


def _decoded(
    model: Sam, embeddings: torch.Tensor, prompts: Sequence[Prompt], size: tuple[int, int]
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Rows of prompts that are alike, their mask logits `(n, 1, 4 h, 4 w)` and IoU estimates `(n,)`."""
    alike: defaultdict[tuple[bool, int], list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        alike[prompt.box is not None, 0 if prompt.points is None else len(prompt.points)].append(row)
    for rows in alike.values():
        sparse, dense = _encoded([prompts[row] for row in rows], model, size)
        yield rows, *_mask_logits(model, embeddings[rows], sparse, dense)


def _encoded(prompts: Sequence[Prompt], model: Sam, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse `(n, tokens, c)` and dense `(n, c, h, w)` embeddings of prompts that are alike."""
    resize = ResizeLongestSide(model.image_encoder.img_size)
    device = model.device
    points: tuple[torch.Tensor, torch.Tensor] | None = None
    boxes: torch.Tensor | None = None
    where = [p.points for p in prompts if p.points is not None]
    if where:
        labels = np.stack([p.point_labels for p in prompts if p.point_labels is not None])
        points = (
            torch.as_tensor(resize.apply_coords(np.stack(where), size), dtype=torch.float, device=device),
            torch.as_tensor(labels, dtype=torch.int, device=device),
        )
    corners = [p.box for p in prompts if p.box is not None]
    if corners:
        boxes = torch.as_tensor(resize.apply_boxes(np.stack(corners), size), dtype=torch.float, device=device)
    sparse, dense = model.prompt_encoder(points=points, boxes=boxes, masks=None)
    return sparse, dense


def _mask_logits(
    model: Sam, embeddings: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`MaskDecoder.predict_masks` with an image for each prompt: first mask `(n, 1, 4 h, 4 w)`, estimate `(n,)`."""
    decoder = model.mask_decoder
    n, c, h, w = embeddings.shape
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(n, -1, -1), sparse], dim=1)
    position = model.prompt_encoder.get_dense_pe().expand(n, -1, -1, -1)
    attended, image = decoder.transformer(embeddings + dense, position, tokens)
    upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(n, c, h, w))
    weights = decoder.output_hypernetworks_mlps[0](attended[:, 1])  # token 0 is for the quality, 1 for the single mask
    logits: torch.Tensor = (weights[:, None] @ upscaled.flatten(2)).view(n, 1, *upscaled.shape[-2:])
    estimate: torch.Tensor = decoder.iou_prediction_head(attended[:, 0])[:, 0]
    return logits, estimate


def _full_size(model: Sam, low_resolution: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Logits `(n, y, x)` at the slices' own size."""
    side = model.image_encoder.img_size
    input_size = ResizeLongestSide.get_preprocess_shape(*size, side)
    logits: torch.Tensor = model.postprocess_masks(low_resolution, input_size, size)
    return logits[:, 0]
