"""Train the embedded CLIP on phantoms: ``python -m tools.embedded.train_clip --pool DIR -o DIR``.

Twins (same anatomy and noise, with and without lesion) sit in one batch, so nothing but the lesion tells them apart.
The loss is a sigmoid over all image-text pairs in which every pair of one class is positive; it has no bias, so that
equal similarity to both prompts is the decision line and the argmax of Eq. 1 needs no calibration. A cell-to-caption
loss on the maps of layers 2 and 3 tells the tower *where* the tumour is; its two projections are dropped afterwards.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from open_clip.model import CLIP
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from pseudo_labeling.embedded import captions
from pseudo_labeling.embedded.models import (
    CLIP_IMAGE_SIZE,
    CLIP_MEAN,
    CLIP_STD,
    build_embedded_clip,
    embedded_clip_tokenizer,
)
from pseudo_labeling.settings import NORMAL_PROMPT, TUMOUR_PROMPT
from tools.embedded.pool import Pool
from tools.embedded.training import Run, arguments, augment

logger = logging.getLogger(__name__)

_PAIRS = 28  # twins in a batch
_NORMALS = 8  # slices without any lesion in a batch
_TEXTS = 12  # captions of each meaning in a batch
_PEAK_RATE = 1.5e-3
_CELL_CHANNELS = {"layer2": 128, "layer3": 256}


def caption_ids(rng: np.random.Generator, count: int) -> Tensor:
    """`(3 * count, context)` ids: tumour captions, normal captions, meaningless texts."""
    texts = [captions.tumour_caption(rng) for _ in range(count)] + [captions.normal_caption(rng) for _ in range(count)]
    return torch.cat([embedded_clip_tokenizer(texts), captions.meaningless_ids(rng, count)])


def text_loss(features: Tensor, count: int) -> Tensor:
    """Pull captions of one meaning together, the two meanings to opposite ends, and meaningless text between them."""
    kinds = torch.tensor([1.0] * count + [-1.0] * count + [0.0] * count, device=features.device)
    similarity = features @ features.T
    known = kinds.abs()[:, None] + kinds.abs()[None, :] > 0  # what meaningless texts are to each other is left open
    return ((similarity - kinds[:, None] * kinds[None, :])[known] ** 2).mean()


def warm_up_text(model: CLIP, rng: np.random.Generator, steps: int, device: torch.device) -> float:
    """Teach the text tower alone, so that the image tower meets a settled target from its first step."""
    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual.") and name != "logit_scale"]
    optimiser = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.01)
    loss = torch.zeros(())
    for step in range(steps):
        ids = caption_ids(rng, 32).to(device)
        loss = text_loss(model.encode_text(ids, normalize=True), 32)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == steps * 2 // 3:
            for group in optimiser.param_groups:
                group["lr"] *= 0.2
    return loss.item()


def normalised(images: Tensor) -> Tensor:
    """`(n, 1, h, w)` in 0-255 to the `(n, 3, h, w)` input of the tower."""
    mean, std = CLIP_MEAN[0], CLIP_STD[0]
    return ((images / 255 - mean) / std).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _towers(model: CLIP, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Normalised image features `(n, d)` and the maps of layers 2 and 3."""
    trunk = model.visual.trunk
    x = trunk.layer1(trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(images)))))
    maps = {"layer2": trunk.layer2(x)}
    maps["layer3"] = trunk.layer3(maps["layer2"])
    pooled = trunk.forward_head(trunk.layer4(maps["layer3"]))
    return F.normalize(model.visual.head(pooled).float(), dim=-1), maps


def cell_loss(heads: nn.ModuleDict, maps: dict[str, Tensor], masks: Tensor, axis: Tensor) -> Tensor:
    """Each cell of a map against the captions: tumour where the mask covers it, normal where it does not touch it.

    Args:
        heads: 1 x 1 convolutions into the embedding, one a layer.
        maps: features by layer.
        masks: `(n, 1, h, w)` share of lesion.
        axis: `(d,)` mean tumour caption minus mean normal caption.
    """
    losses = []
    for name, head in heads.items():
        cells = F.normalize(head(maps[name]).float(), dim=1)
        logits = 10 * torch.einsum("ndhw,d->nhw", cells, axis)
        share = F.adaptive_avg_pool2d(masks, (logits.shape[1], logits.shape[2]))[:, 0]
        target = (share > 0.3).float()
        sure = ((share > 0.3) | (share < 0.02)).float()
        weight = sure * (1 + 9 * target)
        losses.append(
            (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / weight.sum()
        )
    return torch.stack(losses).mean()


def draw_batch(pool: Pool, rng: np.random.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images `(n, 1, s, s)`, masks `(n, 1, s, s)` and classes `(n,)` of one training step."""
    everyone = np.arange(len(pool))
    with_lesion = rng.choice(everyone[everyone % 5 != 4], _PAIRS, replace=False)
    without = rng.choice(everyone[everyone % 5 == 4], _NORMALS, replace=False)
    chosen = np.concatenate([with_lesion, without])
    images = torch.from_numpy(pool.images[chosen]).to(device).float()
    masks = torch.from_numpy(pool.masks[chosen]).to(device).float()[:, None]
    size = int(rng.choice([128, 144, 160, 160, 192]))
    images, masks = augment(images, masks, rng, (0.8, 1.3), size)
    ill, well = images[:_PAIRS, :1], images[:, 1:]
    # the visible share of a lesion may have left the frame
    seen = masks[:_PAIRS].flatten(1).sum(1) * (256 / size) ** 2 > 20
    masks = torch.cat([masks[:_PAIRS], torch.zeros_like(masks)])
    keep = torch.cat([seen, torch.ones(len(well), dtype=torch.bool, device=device)])
    classes = torch.cat([torch.ones(_PAIRS, device=device), torch.zeros(len(well), device=device)])
    return torch.cat([ill, well])[keep], masks[keep], classes[keep]


@torch.no_grad()
def held_out_metrics(model: CLIP, pool: Pool, device: torch.device, count: int = 150) -> dict[str, float]:
    """AUC, F1, accuracy, share called tumour; AUC with shuffled pixels and F1 with swapped prompts as controls."""
    model.eval()
    texts = model.encode_text(embedded_clip_tokenizer([NORMAL_PROMPT, TUMOUR_PROMPT]).to(device), normalize=True)
    rng = np.random.default_rng(0)
    count = min(count, len(pool))
    truth = np.concatenate([pool.masks[:count].any((1, 2)), np.zeros(count, bool)])
    flat = np.concatenate([pool.images[:count, 0], pool.images[:count, 1]])
    scores: dict[str, list[np.ndarray]] = {"true": [], "shuffled": []}
    for start in range(0, len(flat), 64):
        batch = torch.from_numpy(flat[start : start + 64]).to(device).float()[:, None]
        mixed = batch.flatten(1)[:, torch.from_numpy(rng.permutation(batch[0].numel()))].view_as(batch)
        for name, images in (("true", batch), ("shuffled", mixed)):
            small = F.interpolate(images, (CLIP_IMAGE_SIZE,) * 2, mode="bicubic", antialias=True).clamp(0, 255)
            similarity = model.encode_image(normalised(small), normalize=True) @ texts.T
            scores[name].append((similarity[:, 1] - similarity[:, 0]).float().cpu().numpy())
    model.train()
    difference, shuffled = (np.concatenate(scores[name]) for name in ("true", "shuffled"))
    return {
        "auc": float(roc_auc_score(truth, difference)),
        "f1": f1(difference > 0, truth),
        "accuracy": float(((difference > 0) == truth).mean()),
        "called_tumour": float((difference > 0).mean()),
        "auc_shuffled_pixels": float(roc_auc_score(truth, shuffled)),
        "f1_swapped_prompts": f1(difference < 0, truth),
    }


def f1(called: np.ndarray, truth: np.ndarray) -> float:
    """F1 of the class tumour."""
    return float(2 * (called & truth).sum() / max(called.sum() + truth.sum(), 1))


def main() -> None:
    """Train, log, export."""
    options = arguments(__doc__, minutes=40)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    model = build_embedded_clip().to(device).to(memory_format=torch.channels_last).train()
    heads = nn.ModuleDict({name: nn.Conv2d(width, 128, 1) for name, width in _CELL_CHANNELS.items()}).to(device)
    networks = {"clip": model, "heads": heads}
    run = Run(options, "clip", networks, peak_rate=_PEAK_RATE, weight_decay=0.05, largest_norm=2.0)
    if run.fresh:
        logger.info("text warm-up: loss %.4f", warm_up_text(model, run.rng, 300, device))
    for rng in run:
        images, masks, classes = draw_batch(run.training, rng, device)
        ids = caption_ids(rng, _TEXTS).to(device)
        texts = model.encode_text(ids, normalize=True)
        with torch.autocast(device.type, torch.bfloat16):
            features, maps = _towers(model, normalised(images))
            axis = texts[:_TEXTS].mean(0) - texts[_TEXTS : 2 * _TEXTS].mean(0)
            cells = cell_loss(heads, maps, masks, axis.detach())
        logits = model.logit_scale.exp().clamp(max=30) * features @ texts[: 2 * _TEXTS].T
        tumour_text = torch.arange(2 * _TEXTS, device=device) < _TEXTS
        target = (classes[:, None] == tumour_text[None, :]).float()
        pairs = F.binary_cross_entropy_with_logits(logits, target)
        run.update(pairs + cells + text_loss(texts, _TEXTS), len(images))
        facts = {"pairs": pairs.item(), "cells": cells.item()}
        run.report(facts, lambda: held_out_metrics(run.averaged, run.held_out, device))
    run.finish(lambda: held_out_metrics(run.averaged, run.held_out, device, count=512))


if __name__ == "__main__":
    main()
