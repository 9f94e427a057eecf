"""Slice labels from CLIP (Eq. 1), the vote, and the user's own table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset_conversion.errors import UserError
from pseudo_labeling import precision
from pseudo_labeling.settings import SliceLabelSettings
from pseudo_labeling.slice_labels import (
    encode_prompts,
    labels_from_probability,
    read_image_labels,
    tumour_probability,
)
from pseudo_labeling.weights import models

FULL = np.ones(7)


@pytest.mark.parametrize(("fast", "tolerance"), [(False, 1e-5), (True, 0.05)])
def test_probability_equals_open_clip_directly(fast: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _device: fast)
    clip = models.load_clip("embedded", "cpu")
    settings = SliceLabelSettings()
    images = np.random.default_rng(0).integers(0, 255, (3, 90, 80)).astype(np.uint8)
    found = tumour_probability(images, clip, encode_prompts(clip, settings, "cpu"), "cpu")
    with torch.no_grad():
        pixels = torch.stack([clip.preprocess(Image.fromarray(image).convert("RGB")) for image in images])
        image_logits, _ = clip.model.get_logits(
            pixels, clip.tokenizer([settings.normal_prompt, settings.tumour_prompt])
        )
    np.testing.assert_allclose(found, image_logits.softmax(dim=-1)[:, 1].numpy(), atol=tolerance)


def test_plain_argmax_is_the_papers() -> None:
    p = np.array([0.1, 0.6, 0.4, 0.9, 0.51, 0.2, 0.7])
    labels = labels_from_probability(p, FULL, SliceLabelSettings(vote_radius=0))
    assert labels.label.tolist() == [0, 1, 0, 1, 1, 0, 1]
    assert labels.confident.all()


def test_vote_overrules_a_lone_slice_and_keeps_ties() -> None:
    p = np.array([0.1, 0.1, 0.9, 0.1, 0.8, 0.8, 0.8])
    labels = labels_from_probability(p, FULL, SliceLabelSettings(vote_radius=1))
    assert labels.label.tolist() == [0, 0, 0, 1, 1, 1, 1]
    two = labels_from_probability(np.array([0.2, 0.9]), FULL[:2], SliceLabelSettings(vote_radius=1))
    assert two.label.tolist() == [0, 1]


def test_unsure_slices_neither_vote_nor_train() -> None:
    p = np.array([0.9, 0.45, 0.45, 0.9])
    settings = SliceLabelSettings(vote_radius=1, min_confidence=0.6)
    labels = labels_from_probability(p, FULL[:4], settings)
    assert labels.label.tolist() == [1, 1, 1, 1]
    assert labels.confident.tolist() == [True, False, False, True]


def test_slice_without_a_head_is_normal_and_silent() -> None:
    labels = labels_from_probability(
        np.array([0.9, 0.9, 0.1]), np.array([0.0, 0.5, 0.5]), SliceLabelSettings(vote_radius=1)
    )
    assert labels.label[0] == 0
    assert not labels.confident[0]


def test_smoothing_is_in_mm_and_fills_a_gap_between_sure_slices() -> None:
    p = np.array([0.01, 0.01, 0.99, 0.4, 0.99, 0.01, 0.01])
    settings = SliceLabelSettings(smoothing_mm=3.0)
    assert labels_from_probability(p, FULL, settings, slice_mm=5.0).label.tolist() == [0, 0, 1, 1, 1, 0, 0]
    # the same sd is nothing for slices 100 mm apart
    assert labels_from_probability(p, FULL, settings, slice_mm=100.0).label.tolist() == [0, 0, 1, 0, 1, 0, 0]


def test_the_cases_own_threshold_calls_fewer_and_never_more_than_argmax() -> None:
    biased = np.array([0.7, 0.7, 0.7, 0.999, 0.999, 0.7, 0.6])
    settings = SliceLabelSettings(threshold="otsu")
    assert labels_from_probability(biased, FULL, settings).label.tolist() == [0, 0, 0, 1, 1, 0, 0]
    healthy = np.array([0.01, 0.02, 0.2, 0.3, 0.2, 0.02, 0.01])
    assert not labels_from_probability(healthy, FULL, settings).label.any()
    constant = np.full(7, 0.9)
    assert labels_from_probability(constant, FULL, settings).label.all()


def test_one_run_is_that_with_most_evidence() -> None:
    p = np.array([0.6, 0.6, 0.6, 0.1, 0.99, 0.99, 0.1])
    labels = labels_from_probability(p, FULL, SliceLabelSettings(one_run=True))
    assert labels.label.tolist() == [0, 0, 0, 0, 1, 1, 0]
    assert labels.confident.all(), "a normal label given by the rule still trains the classifier"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_user_table_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", "case,slice,label,note\na,1,1,x\na,0,0,\nb,0,1,\n")
    found = read_image_labels(path, {"a": 2, "b": 1})
    assert {case: labels.tolist() for case, labels in found.items()} == {"a": [0, 1], "b": [1]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("case,label\na,1\n", "header 'case,slice,label'"),
        ("", "header"),
        ("case,slice,label\nz,0,1\n", "line 2: imagesTr has no case 'z'"),
        ("case,slice,label\na,0,0\na,2,1\n", "line 3: a has slices 0 to 1, not 2"),
        ("case,slice,label\na,-1,0\n", "slices 0 to 1"),
        ("case,slice,label\na,0,2\n", "label must be 0"),
        ("case,slice,label\na,x,1\n", "whole numbers"),
        ("case,slice,label\na,0,1\na,0,1\n", "has a label already"),
        ("case,slice,label\na,0,1\n", "slice 1 of a has no label"),
    ],
)
def test_bad_user_table_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path / "l.csv", text)
    with pytest.raises(UserError, match=says) as caught:
        read_image_labels(path, {"a": 2})
    assert "l.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_user_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv"):
        read_image_labels(tmp_path / "none.csv", {"a": 2})
