"""Scores of masks against segment_anything's own predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.sam.decoder import decode, decode_scored
from pseudo_labeling.sam.encoder import SliceEmbeddings, SliceEncoder
from pseudo_labeling.settings import PromptSettings, SamSettings
from pseudo_labeling.slices import window_volume
from pseudo_labeling.weights import models


def test_scores_equal_sam_predictor() -> None:
    sam = models.load_sam("embedded", "cpu").model.eval()
    volume, roi = phantom_volume(np.random.default_rng(5), (18, 150, 110))
    images = window_volume(volume)
    prompts: list[Prompt] = []
    chosen = [z for z in range(len(images)) if roi[z].any()][:6]
    for turn, z in enumerate(chosen):  # prompts of several kinds in one call
        kind = ("box", "points", "both")[turn % 3]
        found = prompts_from_roi(roi[z : z + 1], images[z : z + 1], PromptSettings(kind=kind), 1.0)[0]  # type: ignore[arg-type]
        assert found is not None
        prompts.append(found)
    embeddings = SliceEmbeddings(SliceEncoder(sam, SamSettings(), torch.device("cpu")), images)
    size = (int(images.shape[1]), int(images.shape[2]))
    with torch.inference_mode():
        batches = [(rows, found) for rows, found in embeddings.batches(chosen)]
        stack = torch.cat([found for _, found in batches])
        order = [chosen.index(z) for rows, _ in batches for z in rows]
        asked = [prompts[row] for row in order]
        scored = decode_scored(sam, stack, asked, size)
        np.testing.assert_array_equal(scored.masks, decode(sam, stack, asked, size))
    predictor = SamPredictor(sam)
    for row, prompt, mask, confidence, stability in zip(
        order, asked, scored.masks, scored.confidence, scored.stability, strict=True
    ):
        predictor.set_image(np.repeat(images[chosen[row]][..., None], 3, axis=2))
        logits, estimate, _ = predictor.predict(
            point_coords=prompt.points,
            point_labels=prompt.point_labels,
            box=prompt.box,
            multimask_output=False,
            return_logits=True,
        )
        np.testing.assert_array_equal(mask, logits[0] > sam.mask_threshold)
        assert confidence == pytest.approx(float(estimate[0]), abs=1e-4)
        wide, narrow = (logits[0] > sam.mask_threshold - 1).sum(), (logits[0] > sam.mask_threshold + 1).sum()
        assert stability == pytest.approx(narrow / wide, abs=5e-3)
