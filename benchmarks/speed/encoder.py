"""SAM ViT-B: our encoder and masks against `SamPredictor` in float32, slice by slice; random weights will do."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from benchmarks.speed.data import phantom
from benchmarks.speed.measure import timed
from pseudo_labeling.prompts import prompts_from_roi
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import PromptSettings
from pseudo_labeling.slices import window_volume


def compare(slices: int, repeats: int, device: str) -> dict[str, Any]:
    """Seconds a slice of both ways, alternating, and their ratios; on a GPU also the share of its bfloat16 peak.

    Args:
        slices: encoded by each way in each repeat.
        repeats: the median of them counts.
        device: of both ways.
    """
    from benchmarks.speed.figures import save_mask_figure  # what draws is not needed for the rest of this file
    from benchmarks.speed.one_by_one import predicted

    volume, mask = phantom(0, (24, 240, 240))
    images = window_volume(volume)
    prompts = prompts_from_roi(mask, images, PromptSettings(margin=10), 1.0)
    chosen = [z for z, p in enumerate(prompts) if p is not None][:slices]
    asked = [p if z in chosen else None for z, p in enumerate(prompts)]
    original = random_vit_b(device)
    segmenter = SamSegmenter(copy.deepcopy(original), device=device)
    predictor = SamPredictor(original)
    ours, theirs, ours_masks, theirs_masks = ([] for _ in range(4))
    apart = 0.0
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "figure"

        def encode_ours() -> torch.Tensor:
            batches = [chosen[i : i + segmenter.encoder.batch] for i in range(0, len(chosen), segmenter.encoder.batch)]
            inputs = (segmenter.encoder.inputs([images[z] for z in batch]) for batch in batches)
            return torch.cat([segmenter.encoder.encode(each) for each in inputs])

        def encode_theirs() -> torch.Tensor:
            found = []
            for z in chosen:
                predictor.set_image(np.repeat(images[z][..., None], 3, axis=2))
                found.append(predictor.get_image_embedding())
            return torch.cat(found)

        def mask_theirs() -> None:
            for z in chosen:
                save_mask_figure(images[z], predicted(predictor, images[z], prompts[z]), prompts[z], picture)

        if device.startswith("cuda"):  # kernels are chosen and memory is taken at the first call
            for warm in (encode_ours, encode_theirs, mask_theirs, lambda: segmenter.masks(images, asked)):
                warm()
        for _ in range(repeats):
            seconds, expected = timed(encode_theirs, device)
            theirs.append(seconds / len(chosen))
            seconds, found = timed(encode_ours, device)
            ours.append(seconds / len(chosen))
            apart = float((found - expected).norm() / expected.norm())
        for _ in range(repeats if device.startswith("cuda") else 1):
            theirs_masks.append(timed(mask_theirs, device)[0] / len(chosen))
            ours_masks.append(timed(lambda: segmenter.masks(images, asked), device)[0] / len(chosen))
    result = {
        "encode_ratio": float(np.median(theirs) / np.median(ours)),
        "mask_ratio": float(np.median(theirs_masks) / np.median(ours_masks)),
        "seconds_per_slice": float(np.median(ours)),
        "one_by_one_seconds_per_slice": float(np.median(theirs)),
        "mask_seconds_per_slice": float(np.median(ours_masks)),
        "one_by_one_mask_seconds_per_slice": float(np.median(theirs_masks)),
        "bfloat16": segmenter.encoder.bfloat16,
        "embedding_relative_difference": apart,
        "slices": len(chosen),
        "repeats": repeats,
    }
    if device.startswith("cuda"):
        result |= _peak_share(original, 1 / result["seconds_per_slice"], device)
        result["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def random_vit_b(device: str) -> Sam:
    """A SAM ViT-B of random weights; those that begin at zero too, else attention would be plain."""
    torch.manual_seed(0)
    model = sam_model_registry["vit_b"]()
    for name, parameter in model.image_encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.to(device).eval()


def _peak_share(model: Sam, slices_per_second: float, device: str) -> dict[str, float]:
    """The encoder's arithmetic against the fastest bfloat16 matrix product measured here."""
    flop, peak = encoder_flop(model, device), bfloat16_peak(device)
    return {
        "encoder_tflop_per_slice": flop / 1e12,
        "bfloat16_peak_tflops": peak / 1e12,
        "share_of_bfloat16_peak": flop * slices_per_second / peak,
    }


@torch.inference_mode()
def encoder_flop(model: Sam, device: str) -> float:
    """Floating point operations of SAM's encoder for one slice; of the original one, whose attention can be counted."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    side = model.image_encoder.img_size
    with counter:
        model.image_encoder(torch.zeros(1, 3, side, side, device=device))
    return float(counter.get_total_flops())


@torch.inference_mode()
def bfloat16_peak(device: str, edge: int = 8192) -> float:
    """Floating point operations a second of the fastest of twenty products of two square bfloat16 matrices."""
    a, b = (torch.randn(edge, edge, dtype=torch.bfloat16, device=device) for _ in range(2))
    a @ b
    fastest = min(timed(lambda: a @ b, device)[0] for _ in range(20))
    return float(2 * edge**3 / fastest)
