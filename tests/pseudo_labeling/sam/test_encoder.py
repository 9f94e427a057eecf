"""SAM's encoder in both number formats against SamPredictor in float32, and how often a slice is encoded."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import nn

from dataset_conversion.errors import UserError
from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.precision import has_bfloat16
from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.roi import Region
from pseudo_labeling.sam import segmenter as sam
from pseudo_labeling.sam.encoder import uses_bfloat16
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import PromptSettings, SamSettings, Settings
from pseudo_labeling.slices import window_volume
from pseudo_labeling.weights import models

PROMPTING = PromptSettings(margin=10)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def embedded() -> Sam:
    return models.load_sam("embedded", "cpu").model


@pytest.fixture(scope="module")
def vit(embedded: Sam) -> Sam:
    """A small ViT in the official layout with windowed and global layers, in front of a trained decoder."""
    torch.manual_seed(0)
    model = copy.deepcopy(embedded)
    model.image_encoder = ImageEncoderViT(
        depth=2, embed_dim=128, img_size=256, norm_layer=partial(nn.LayerNorm, eps=1e-6), num_heads=4, patch_size=8,
        use_rel_pos=True, global_attn_indexes=(1,), window_size=7, out_chans=128,
    )  # fmt: skip
    for name, parameter in model.image_encoder.named_parameters():
        if "rel_pos" in name:
            nn.init.normal_(parameter, std=0.3)
        elif "pos_embed" in name:
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def phantom(seed: int, shape: tuple[int, int, int] = (18, 128, 128)) -> tuple[np.ndarray, np.ndarray]:
    volume, mask = phantom_volume(np.random.default_rng(seed), shape)
    return window_volume(volume), mask


def predicted(model: Sam, images: np.ndarray, prompts: list[Prompt | None]) -> dict[int, np.ndarray]:
    """SamPredictor's logits `(y, x)` of the prompted slices."""
    predictor = SamPredictor(model)
    logits = {}
    for z, prompt in enumerate(prompts):
        if prompt is not None:
            predictor.set_image(np.repeat(images[z][..., None], 3, axis=2))
            logits[z] = predictor.predict(
                point_coords=prompt.points,
                point_labels=prompt.point_labels,
                box=prompt.box,
                multimask_output=False,
                return_logits=True,
            )[0][0]
    return logits


def iou(first: np.ndarray, second: np.ndarray) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def test_embedded_sam_agrees_in_both_formats(embedded: Sam) -> None:
    found: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed, shape in ((5, (18, 150, 110)), (7, (18, 128, 128))):
        images, roi = phantom(seed, shape)
        prompts = prompts_from_roi(roi, images, PROMPTING, 1.0)
        expected = {z: logits > 0 for z, logits in predicted(embedded, images, prompts).items()}
        assert all(mask.any() for mask in expected.values())
        for precision, ious in found.items():
            masks = SamSegmenter(embedded, SamSettings(precision=precision)).masks(images, prompts)  # type: ignore[arg-type]
            ious += [iou(masks[z], mask) for z, mask in expected.items()]
    assert len(found["fp32"]) >= 12
    assert np.mean(found["fp32"]) == 1.0
    assert 0.99 <= np.mean(found["bf16"]) < 1.0  # below 1: it did compute in bfloat16


def test_vit_agrees_in_both_formats(vit: Sam) -> None:
    images, roi = phantom(6)
    prompts = [p if z % 2 else None for z, p in enumerate(prompts_from_roi(roi, images, PROMPTING, 1.0))]
    logits = predicted(vit, images, prompts)
    fast = copy.deepcopy(vit)
    # random weights draw nothing above 0: a lower threshold makes masks of a fifth of the slice, with long outlines
    fast.mask_threshold = float(np.quantile(np.stack(list(logits.values())), 0.8))
    expected = {z: each > fast.mask_threshold for z, each in logits.items()}
    assert len(expected) >= 5
    for precision, least in (("fp32", 1.0), ("bf16", 0.99)):
        masks = SamSegmenter(fast, SamSettings(precision=precision)).masks(images, prompts)  # type: ignore[arg-type]
        assert np.mean([iou(masks[z], mask) for z, mask in expected.items()]) >= least
    for name, parameter in fast.image_encoder.named_parameters():
        if "rel_pos" in name:
            nn.init.zeros_(parameter)
    masks = SamSegmenter(fast, SamSettings(precision="fp32")).masks(images, prompts)
    assert np.mean([iou(masks[z], mask) for z, mask in expected.items()]) < 0.95, "this test would see a wrong position"


def test_auto_is_bfloat16_for_a_vit_where_it_is_fast(embedded: Sam, vit: Sam) -> None:
    assert not uses_bfloat16(embedded, "auto", CPU)
    assert uses_bfloat16(vit, "auto", CPU) == has_bfloat16(CPU)
    assert uses_bfloat16(embedded, "bf16", CPU)
    assert not uses_bfloat16(vit, "fp32", CPU)


def test_fp16_is_refused(embedded: Sam) -> None:
    with pytest.raises(UserError, match=r"sam\.precision.*fp16.*auto, fp32 or bf16"):
        uses_bfloat16(embedded, "fp16", CPU)
    with pytest.raises(UserError, match=r"sam\.precision.*fp16"):
        Settings().merged({"sam": {"precision": "fp16"}})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_callers_autocast_changes_nothing(embedded: Sam, precision: str) -> None:
    images, roi = phantom(7)
    prompts = [p if z in (7, 8, 9) else None for z, p in enumerate(prompts_from_roi(roi, images, PROMPTING, 1.0))]
    segmenter = SamSegmenter(embedded, SamSettings(precision=precision))  # type: ignore[arg-type]
    alone = segmenter.masks(images, prompts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(segmenter.masks(images, prompts), alone)
    assert alone.any()


@pytest.mark.parametrize(("kept", "times"), [(2**29, 1), (0, 2), (5 * 2**19, None)])
def test_each_slice_is_encoded_once_while_memory_allows(
    kept: int, times: int | None, embedded: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, roi = phantom(7)
    encoded: list[int] = []
    monkeypatch.setattr(sam, "KEPT_BYTES", kept)
    count = embedded.image_encoder.register_forward_hook(lambda _m, inputs, _o: encoded.append(len(inputs[0])))
    masks, prompts, *_ = SamSegmenter(embedded, SamSettings(passes=2)).segment(images, [Region(roi)], PROMPTING, 1.0)
    count.remove()
    asked = sum(p is not None for p in prompts)
    again = int(SamSegmenter(embedded).masks(images, prompts).any((1, 2)).sum())
    if times is not None:
        assert sum(encoded) == asked + (times - 1) * again
    else:
        assert asked < sum(encoded) < asked + again  # room for one batch of four: 512 KiB a slice
    monkeypatch.setattr(sam, "KEPT_BYTES", 0)
    np.testing.assert_array_equal(
        SamSegmenter(embedded, SamSettings(passes=2)).segment(images, [Region(roi)], PROMPTING, 1.0)[0], masks
    )
    assert masks.any()


@pytest.mark.slow
def test_compiled_encoder_agrees(vit: Sam) -> None:
    images, roi = phantom(6)
    prompts = [
        p if z in (7, 8, 9, 10, 11) else None for z, p in enumerate(prompts_from_roi(roi, images, PROMPTING, 1.0))
    ]
    fast = copy.deepcopy(vit)
    fast.mask_threshold = -6.4
    plain = SamSegmenter(fast, SamSettings(precision="fp32")).masks(images, prompts)
    compiled = SamSegmenter(fast, SamSettings(precision="fp32", compile=True)).masks(images, prompts)
    assert plain.any()
    assert iou(compiled, plain) > 0.999
