"""Train the embedded SAM on phantoms: ``python -m tools.embedded.train_sam --pool DIR -o DIR``.

A few slices a step (at first windows around their lesions, at last whole slices), three prompts each: two with box and
points, one with only a box or only points. Boxes are loose, off-centre or partial; the answer is always the whole
lesion they touch, and nothing where a slice has none. Loss: Dice and cross-entropy of the one mask that SAM returns
with `multimask_output=False`, and the error of its IoU estimate.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional as F

from pseudo_labeling.embedded.models import SAM_IMAGE_SIZE, SAM_STRIDE, build_embedded_sam
from tools.embedded.pool import Pool
from tools.embedded.prompt_noise import box_with_margin, corners_and_centre, noisy_box, prompt_points
from tools.embedded.training import Run, arguments, augment

Prompts = dict[str, Any]  # `boxes` and `points` as PromptEncoder takes them

_IMAGES = 8
_EMPTY_SHARE = 0.05  # of the images: a twin without its lesion; a prompt there is answered with an empty mask
_SECOND_SHARE = 0.7  # of the images: two lesions, of which the prompt chooses one
_PEAK_RATE = 1.2e-3
_CLOSE_SHARE, _WINDOW = 0.75, 160  # this share of the time, twice as many slices a step in windows of this edge
_MARGINS = (0, 10, 20)


def decode(sam: Sam, embeddings: Tensor, prompts: Prompts, corners: np.ndarray) -> tuple[Tensor, Tensor]:
    """One mask a prompt for a batch of windows; `MaskDecoder` itself takes several prompts of one whole image only.

    Args:
        sam: the model.
        embeddings: `(n, c, h, w)`, one a window.
        prompts: `boxes` `(n, 4)` or None, `points` (`(n, k, 2)`, `(n, k)`) or None, in pixels of the whole slice.
        corners: `(n, 2)` y, x of each window in cells of the whole slice's embedding.

    Returns:
        logits `(n, 4h, 4w)` and estimated IoU `(n,)`.
    """
    decoder = sam.mask_decoder
    sparse, dense = sam.prompt_encoder(points=prompts["points"], boxes=prompts["boxes"], masks=None)
    start = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([start.expand(len(sparse), -1, -1), sparse], 1)
    height, width = embeddings.shape[2:]
    whole = sam.prompt_encoder.get_dense_pe()[0]
    position = torch.stack([whole[:, y : y + height, x : x + width] for y, x in corners])
    hidden, source = decoder.transformer(embeddings + dense[:, :, :height, :width], position, tokens)
    upscaled = decoder.output_upscaling(source.transpose(1, 2).reshape(embeddings.shape))
    weights = decoder.output_hypernetworks_mlps[0](hidden[:, 1])
    logits = torch.einsum("nc,nchw->nhw", weights, upscaled)
    return logits.float(), decoder.iou_prediction_head(hidden[:, 0])[:, 0].float()


def mask_loss(logits: Tensor, estimated: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and mean Dice of `(n, h, w)` logits against `(n, h, w)` masks."""
    shares = torch.sigmoid(logits)
    overlap, total = (shares * masks).sum((1, 2)), shares.sum((1, 2)) + masks.sum((1, 2))
    dice = 1 - (2 * overlap + 20) / (total + 20)
    # a lesion of any size weighs the same in the cross-entropy, a far background little
    near = F.max_pool2d(F.max_pool2d(masks[:, None], 4), 7, 1, 3)  # coarse: at full size it took half of a step
    weight = 1 + 4 * F.interpolate(near, scale_factor=4.0)[:, 0]
    cross = (F.binary_cross_entropy_with_logits(logits, masks, reduction="none") * weight).sum((1, 2)) / weight.sum(
        (1, 2)
    )
    with torch.no_grad():
        called = (logits > 0).float()
        both = (called * masks).sum((1, 2))
        iou = (both + 1) / (called.sum((1, 2)) + masks.sum((1, 2)) - both + 1)
    loss = dice.mean() + 2 * cross.mean() + 0.3 * F.mse_loss(estimated, iou)
    return loss, (2 * iou / (1 + iou)).mean()


def second_lesion(
    rng: np.random.Generator, pool: Pool, twin: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Another phantom's lesion, moved to a free place of this head; without it a model may ignore the prompt.

    Args:
        rng: source of randomness.
        pool: where the other lesion comes from.
        twin: `(h, w)` uint8, the head without a lesion.
        taken: `(h, w)` bool, the lesion it has.

    Returns:
        change of the image `(h, w)` float32, and mask `(h, w)` bool; both empty when no place was found.
    """
    index = int(rng.integers(len(pool)))
    index -= index % 5 == 4
    change = pool.images[index, 0].astype(np.float32) - pool.images[index, 1]
    mask, tissue = pool.masks[index], twin > 0.6 * np.median(twin[twin > 25]) if (twin > 25).any() else twin > 25
    for _ in range(5):
        shift, flip = tuple(rng.integers(-90, 91, 2)), int(rng.choice([-1, 1]))
        moved = np.roll(mask, shift, (0, 1))[:, ::flip]
        kept = moved & tissue
        near = np.roll(np.abs(change) > 1, shift, (0, 1))[:, ::flip]
        if kept.sum() > 0.7 * mask.sum() and not (near & taken).any():
            return np.roll(change, shift, (0, 1))[:, ::flip] * tissue, kept
    return np.zeros_like(change), np.zeros_like(mask)


def draw_batch(pool: Pool, rng: np.random.Generator, count: int = _IMAGES) -> tuple[Tensor, Tensor, Tensor]:
    """A random batch of `count` slices.

    Returns:
        images `(n, 1, 256, 256)` in 0-255; masks `(n, 2, 256, 256)` bool of own and second lesion; `(n,)` bool, own
        lesion left out.
    """
    everyone = np.arange(len(pool))
    chosen = rng.choice(everyone[everyone % 5 != 4], count, replace=False)
    empty = rng.random(count) < _EMPTY_SHARE
    drawn, found = [], []
    for index, left_out in zip(chosen, empty, strict=True):
        twin, mask = pool.images[index, 1], pool.masks[index]
        change, other = np.zeros(mask.shape, np.float32), np.zeros_like(mask)
        if rng.random() < _SECOND_SHARE:
            change, other = second_lesion(rng, pool, twin, mask)
        drawn.append(np.clip(pool.images[index, int(left_out)] + change, 0, 255))
        found.append(np.stack([mask, other]))
    images, masks = torch.from_numpy(np.stack(drawn)).float()[:, None], torch.from_numpy(np.stack(found)).float()
    images, masks = augment(images, masks, rng, (0.75, 1.6), SAM_IMAGE_SIZE)
    return images, masks > 0.5, torch.from_numpy(empty)


def draw_prompts(
    rng: np.random.Generator, images: Tensor, masks: Tensor, empty: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One prompt an image, for its own or for the second lesion.

    Returns:
        boxes `(n, 4)`, points `(n, 5, 2)`, labels `(n, 5)` and the masks to answer with `(n, 256, 256)`.
    """
    boxes, points, labels, targets = [], [], [], []
    for image, (own, other), left_out in zip(images[:, 0].numpy(), masks.numpy(), empty.tolist(), strict=True):
        second = other.sum() > 30 and (rng.random() < 0.5 or own.sum() < 10)
        mask = other if second else own
        target = np.zeros_like(mask) if left_out and not second else mask
        if mask.sum() < 10:  # the augmentation moved it out of the frame
            mask = np.zeros_like(mask)
            y, x = rng.integers(60, 190, 2)
            mask[y - 12 : y + 12, x - 12 : x + 12] = True
        boxes.append(noisy_box(rng, mask))
        place, label = prompt_points(rng, mask, image, boxes[-1])
        points.append(place)
        labels.append(label)
        targets.append(target)
    return np.stack(boxes), np.stack(points), np.stack(labels), np.stack(targets)


def draw_windows(rng: np.random.Generator, masks: Tensor, edge: int) -> np.ndarray:
    """Where to look closely: windows around the lesions, so that a step does not pay for far background.

    Args:
        rng: source of randomness.
        masks: `(n, 2, 256, 256)` bool.
        edge: of the windows in pixels.

    Returns:
        `(n, 2)` y, x of the upper left corners in cells of the embedding.
    """
    corners = []
    for mask in masks.any(1).numpy():
        places = np.argwhere(mask)
        centre = places.mean(0) if len(places) else np.array(mask.shape) / 2
        corner = centre + rng.normal(0, 16, 2) - edge / 2
        corners.append(np.clip(np.rint(corner / SAM_STRIDE), 0, (SAM_IMAGE_SIZE - edge) // SAM_STRIDE))
    return np.stack(corners).astype(int)


def cut(images: Tensor, corners: np.ndarray, edge: int) -> Tensor:
    """Windows `(n, ..., edge, edge)` of images `(n, ..., h, w)`; corners as :func:`draw_windows` gives them."""
    starts = (corners * SAM_STRIDE).tolist()
    return torch.stack([image[..., y : y + edge, x : x + edge] for image, (y, x) in zip(images, starts, strict=True)])


def dice(called: np.ndarray, mask: np.ndarray) -> float:
    """Dice of two bool masks."""
    return float(2 * (called & mask).sum() / max(called.sum() + mask.sum(), 1))


@torch.no_grad()
def held_out_metrics(sam: Sam, pool: Pool, count: int = 50) -> dict[str, float]:
    """Mean slice Dice on phantoms never trained on, by `SamPredictor`, for box margins of 0, 10 and 20 px.

    Controls: the same prompts on a blank image, and Otsu's threshold inside the same box.
    """
    sam.eval()
    predictor = SamPredictor(sam)
    scores: dict[str, list[float]] = {
        f"{kind}_{margin}": [] for margin in _MARGINS for kind in ("true", "blank", "otsu")
    }
    estimates = []
    chosen = [index for index in range(len(pool)) if index % 5 != 4][:count]
    for index in chosen:
        image, mask = pool.images[index, 0], pool.masks[index]
        for kind, shown in (("true", image), ("blank", np.zeros_like(image))):
            predictor.set_image(np.repeat(shown[..., None], 3, 2))
            for margin in _MARGINS:
                box = box_with_margin(mask, margin)
                points, labels = corners_and_centre(box)
                called, iou, _ = predictor.predict(points, labels, box, multimask_output=False)
                scores[f"{kind}_{margin}"].append(dice(called[0], mask))
                estimates.append((float(iou[0]), scores[f"{kind}_{margin}"][-1]))
        for margin in _MARGINS:
            x0, y0, x1, y1 = box_with_margin(mask, margin).astype(int)
            called, part = np.zeros_like(mask), image[y0 : y1 + 1, x0 : x1 + 1]
            called[y0 : y1 + 1, x0 : x1 + 1] = part > threshold_otsu(part) if part.min() < part.max() else True
            scores[f"otsu_{margin}"].append(dice(called, mask))
    sam.train()
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return means | {"iou_head_correlation": float(np.corrcoef(np.array(estimates).T)[0, 1])}


def main() -> None:
    """Train, log, export."""
    options = arguments(__doc__, minutes=45)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    sam = build_embedded_sam().to(device).to(memory_format=torch.channels_last).train()
    run = Run(options, "sam", {"sam": sam}, peak_rate=_PEAK_RATE, weight_decay=0.02, largest_norm=1.0)
    recent: list[float] = []
    for rng in run:
        close = run.clock.progress < _CLOSE_SHARE
        edge = _WINDOW if close else SAM_IMAGE_SIZE
        images, masks, empty = draw_batch(run.training, rng, 2 * _IMAGES if close else _IMAGES)
        corners = draw_windows(rng, masks, edge)
        shown = cut((images.to(device) - sam.pixel_mean[0]) / sam.pixel_std[0], corners, edge).expand(-1, 3, -1, -1)
        with torch.autocast(device.type, torch.bfloat16):
            embeddings = sam.image_encoder(shown.contiguous(memory_format=torch.channels_last))
            answers, targets = [], []
            for repeats in (2, 1):
                drawn = [draw_prompts(rng, images, masks, empty) for _ in range(repeats)]
                boxes, points, labels, target = (
                    torch.from_numpy(np.concatenate(parts)).float().to(device) for parts in zip(*drawn, strict=True)
                )
                everywhere = np.concatenate([corners] * repeats)
                targets.append(cut(target, everywhere, edge))
                only = None if repeats == 2 else ("box", "points")[int(rng.random() < 0.5)]
                prompts = {
                    "boxes": None if only == "points" else boxes,
                    "points": None if only == "box" else (points, labels),
                }
                answers.append(decode(sam, torch.cat([embeddings] * repeats), prompts, everywhere))
        logits = torch.cat([answer[0] for answer in answers])
        logits = F.interpolate(logits[:, None], (edge, edge), mode="bilinear", align_corners=False)[:, 0]
        loss, overlap = mask_loss(logits, torch.cat([answer[1] for answer in answers]), torch.cat(targets))
        run.update(loss, len(images))
        recent = [*recent[-19:], overlap.item()]
        run.report({"dice": float(np.mean(recent))}, lambda: held_out_metrics(run.averaged, run.held_out))
    sam.eval()
    run.finish(lambda: held_out_metrics(run.averaged, run.held_out, count=200))


if __name__ == "__main__":
    main()
