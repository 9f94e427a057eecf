"""Slices a second of CLIP, the classifier's training, CAM, and SAM with its decoder, each by itself."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_check.labelling import settings_of
from benchmarks.gpu_check.networks import random_weights, slices
from benchmarks.gpu_check.parts import Job, Save
from benchmarks.speed.measure import timed, wait_for
from pseudo_labeling.cam import LayerCam, case_cam
from pseudo_labeling.classifier import build_classifier, classifier_slices, train_classifier
from pseudo_labeling.prompts import prompts_from_roi
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import PromptSettings
from pseudo_labeling.slice_labels import encode_prompts, tumour_probability
from pseudo_labeling.weights.models import load_clip, load_sam


def measure(job: Job, save: Save) -> dict[str, Any]:
    """Rates with networks loaded and warm; CLIP's and SAM's include resizing on the CPU, as labelling does."""
    settings = settings_of(job.small).merged({"classifier": {"epochs": 3, "patience": 3}})
    images, lesion = slices(8 if job.small else 128, job.small)
    result: dict[str, Any] = {"slices": len(images), "slices_per_second": {}}
    rates = result["slices_per_second"]
    with tempfile.TemporaryDirectory() as name:
        specs = random_weights(Path(name), job.small)
        clip, sam = load_clip(specs.clip, job.device), load_sam(specs.sam, job.device)
    text = encode_prompts(clip, settings.slice_labels, job.device)
    tumour_probability(images[:16], clip, text, job.device)
    seconds, _ = timed(lambda: tumour_probability(images, clip, text, job.device), job.device)
    rates["CLIP ViT-B/32"] = len(images) / seconds
    save(result)

    classifier, _ = build_classifier(settings.classifier, None, None, 0)
    small = classifier_slices(images, settings.classifier.image_size)
    ends = []

    def ended(_: Any) -> None:
        wait_for(job.device)
        ends.append(time.perf_counter())

    held_out = np.zeros(len(images), dtype=bool)
    labels = lesion.any((1, 2)).astype(np.int64)
    train_classifier(
        classifier, small, labels, held_out, settings.classifier, seed=0, device=job.device, on_epoch=ended
    )
    rates["classifier's training"] = len(images) * (len(ends) - 1) / (ends[-1] - ends[0])  # the first epoch is warming
    save(result)

    cam, size = LayerCam(classifier, settings.cam.layers), settings.classifier.image_size
    every = np.ones(len(images), dtype=np.int64)
    case_cam(images[:16], every[:16], size, cam, job.device)
    seconds, _ = timed(lambda: case_cam(images, every, size, cam, job.device), job.device)
    rates["CAM"] = len(images) / seconds
    save(result)

    segmenter = SamSegmenter(sam.model, settings.sam, job.device)
    prompts = prompts_from_roi(lesion, images, PromptSettings(margin=10), 1.0)
    segmenter.masks(images, prompts)
    seconds, _ = timed(lambda: segmenter.masks(images, prompts), job.device)
    rates["SAM ViT-B with decoder"] = sum(prompt is not None for prompt in prompts) / seconds
    return result
