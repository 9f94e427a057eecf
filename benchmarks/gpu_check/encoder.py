"""SAM ViT-B's encoder at batch 1, 8 and 32, and its share of what the device's matrix units can do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from segment_anything import SamPredictor

from benchmarks.gpu_check.networks import sam_of_random_weights, slices
from benchmarks.gpu_check.parts import Job, Save
from benchmarks.speed.encoder import bfloat16_peak, encoder_flop
from benchmarks.speed.measure import timed
from pseudo_labeling.sam.encoder import SliceEncoder
from pseudo_labeling.settings import SamSettings

BATCHES = (8, 32, 1)  # the one that labelling is closest to first


def measure(job: Job, save: Save) -> dict[str, Any]:
    """Images a second.

    `SamPredictor` takes one image at a time in float32: `set_image` resizes it on the CPU first, `set_torch_image` is
    the encoder alone. Ours gets slices that are resized already, as a thread does it ahead while labelling, and moves
    them to the device.
    """
    model = sam_of_random_weights(job.small, job.device)
    peak, flop = bfloat16_peak(job.device, 256 if job.small else 8192), encoder_flop(model, job.device)
    result: dict[str, Any] = {"bfloat16_peak_tflops": peak / 1e12, "tflop_per_image": flop / 1e12, "bf16": {}}
    save(result)
    images, _ = slices(1 if job.small else 16, job.small)
    repeats = 2 if job.small else 5

    def rate(work: Callable[[], Any], count: int) -> dict[str, float]:
        work()
        seconds = float(np.median([timed(work, job.device)[0] for _ in range(repeats)]))
        return {"images_per_second": count / seconds, "share_of_peak": flop * count / seconds / peak}

    result["predictor"] = _predictor(copy.deepcopy(model), images, job.device, rate)
    save(result)
    for compiled in (False, True):
        for batch in (1, 2) if job.small else BATCHES:
            settings = SamSettings(precision="bf16", compile=compiled)
            with _compiler(job):
                encoder = SliceEncoder(copy.deepcopy(model), settings, torch.device(job.device))
            inputs = encoder.inputs([images[z % len(images)] for z in range(batch)])
            found = result.setdefault("bf16_compiled" if compiled else "bf16", {})
            found[str(batch)] = rate(partial(encoder.encode, inputs), batch)
            save(result)
    return result


def _predictor(model: Any, images: np.ndarray, device: str, rate: Callable[..., dict[str, float]]) -> dict[str, Any]:
    predictor = SamPredictor(model)
    colour = [np.repeat(image[..., None], 3, axis=2) for image in images]
    ready = [
        torch.from_numpy(predictor.transform.apply_image(image)).permute(2, 0, 1)[None].to(device) for image in colour
    ]

    def whole() -> None:
        for image in colour:
            predictor.set_image(image)

    def alone() -> None:
        for image in ready:
            predictor.set_torch_image(image, images.shape[1:])

    return {"set_image": rate(whole, len(images)), "set_torch_image": rate(alone, len(images))}


def _compiler(job: Job) -> Any:
    """On a small run the compiler's front end only: its C++ for a CPU takes minutes and is not what is looked for."""
    torch.compiler.reset()  # each batch size is compiled for itself
    fast = torch.compile if not job.small else partial(torch.compile, backend="aot_eager")
    return mock.patch.object(torch, "compile", fast)
