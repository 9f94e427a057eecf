"""Controls of CLIP and of the CAM: on models whose answers are known, and through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pseudo_labeling.classifier import SliceClassifier, build_classifier
from pseudo_labeling.controls.cam_quality import area, deletion_and_insertion, hits, randomised
from pseudo_labeling.controls.prompt_controls import OWN, controlled_labels, kappa
from pseudo_labeling.settings import ClassifierSettings, SliceLabelSettings
from pseudo_labeling.slice_labels import encode_prompts, tumour_probability
from pseudo_labeling.slices import read_scan, window_volume
from pseudo_labeling.weights import models
from tests.helpers.commands import Run, files_of, last_line
from tests.helpers.tiny_nnunet import digest


class BrightCorner(nn.Module):
    """Says *tumour* as far as the upper left quarter is bright."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        half = inputs.shape[-1] // 2
        evidence = 20 * (inputs[:, 0, :half, :half].mean((1, 2)) - 0.5)
        return torch.stack([torch.zeros_like(evidence), evidence], dim=1)


def corner_slices() -> torch.Tensor:
    """Two grey slices `(2, 1, 32, 32)` whose upper left quarter is bright."""
    images = torch.full((2, 1, 32, 32), 0.3)
    images[:, :, :16, :16] = 0.9
    return images


def test_the_right_order_deletes_and_inserts_faster_than_the_wrong_one() -> None:
    images = corner_slices()
    right = images[:, 0].clone()
    curves = {
        name: deletion_and_insertion(BrightCorner(), images, order)  # type: ignore[arg-type]
        for name, order in {"right": right, "wrong": -right}.items()
    }
    for deletion, insertion in curves.values():
        assert deletion.shape == insertion.shape == (2, 21)
        np.testing.assert_allclose(deletion[:, 0], insertion[:, -1])  # the slice itself
        assert (deletion[:, -1] < 0.1).all()
    assert (area(curves["right"][0]) < area(curves["wrong"][0]) - 0.3).all()
    assert (area(curves["right"][1]) > area(curves["wrong"][1]) + 0.3).all()


def test_area_of_a_constant_curve_is_the_constant() -> None:
    np.testing.assert_allclose(area(np.full((3, 11), 0.25)), 0.25)


def test_hits_count_only_slices_with_both() -> None:
    cam, mask = np.zeros((4, 5, 5)), np.zeros((4, 5, 5), dtype=bool)
    cam[0, 1, 1] = cam[1, 1, 1] = cam[2, 1, 1] = 1
    mask[0, 1, 1] = mask[1, 3, 3] = mask[3, 0, 0] = True
    assert hits(cam, mask).tolist() == [True, False]


def test_randomised_network_forgets_and_leaves_the_trained_one_alone() -> None:
    settings = ClassifierSettings(backbone="resnet18", image_size=64)
    trained: SliceClassifier = build_classifier(settings, None, None, 0)[0].eval()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    images = torch.rand(3, 1, 64, 64)
    expected = trained(images)
    other, same = randomised(trained, 5), randomised(trained, 5)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())
    assert torch.equal(trained(images), expected)
    assert not torch.allclose(other(images), expected)
    assert torch.equal(other(images), same(images))
    assert torch.isfinite(other(images)).all()


def test_kappa_of_known_labellings() -> None:
    a = np.array([0, 0, 1, 1])
    assert kappa(a, a) == 1
    assert kappa(a, 1 - a) == -1
    assert kappa(a, np.array([0, 1, 0, 1])) == 0
    assert np.isnan(kappa(np.ones(4), np.ones(4)))


def test_controls_say_what_clip_says_with_those_prompts(scans: Path) -> None:
    scan = read_scan(scans / "images" / "p00.nii.gz")
    slices, clip, own = window_volume(scan.volume), models.load_clip("embedded"), SliceLabelSettings()
    found = controlled_labels(slices, scan.slice_mm, clip, own, "cpu")
    expected = tumour_probability(slices, clip, encode_prompts(clip, own, "cpu"), "cpu")
    np.testing.assert_allclose(found[OWN].probability, expected, atol=1e-5)
    np.testing.assert_allclose(found["swapped classes"].probability, 1 - expected, atol=1e-5)
    np.testing.assert_allclose(found["twice the normal prompt"].probability, 0.5, atol=1e-5)
    assert not found["twice the normal prompt"].label.any()


@pytest.mark.parametrize("with_masks", [True, False])
def test_table_and_json_of_a_dataset(
    with_masks: bool, labelled: Path, scans: Path, clisc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(labelled / "nnUNet_raw"))
    before = digest(labelled)
    arguments = ["sanity", "-d", 501, "-o", tmp_path / "out", "--cases", 3, "-device", "cpu"]
    done = clisc(*arguments, *(["--gt", scans / "labels"] if with_masks else []))
    assert digest(labelled) == before
    content = json.loads((tmp_path / "out" / "sanity.json").read_text())
    assert len(content["cases"]) == 3
    assert content["prompts"][OWN]["kappa"] == pytest.approx(1)
    assert content["prompts"]["swapped classes"]["kappa"] < 0.5
    assert content["prompts"]["twice the normal prompt"]["evidence"] == pytest.approx(0, abs=1e-4)
    cam = content["cam"]
    assert cam["trained classifier"]["deletion"]["mean"] < cam["random map"]["deletion"]["mean"]
    assert 0 <= cam["randomised classifier"]["roi_dice"]["mean"] < 1
    assert (content["prompts"][OWN]["auc"] is not None) == with_masks
    assert (cam["trained classifier"]["pointing"] is not None) == with_masks
    for name in (*content["prompts"], *cam):
        assert name in done.stdout
    assert set(files_of(tmp_path / "out")) == {"sanity.json", "sanity.md"}


def test_masks_of_other_cases_are_an_error(
    labelled: Path, clisc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(labelled / "nnUNet_raw"))
    assert "has no mask" in last_line(clisc("sanity", "-d", 501, "--gt", tmp_path, ok=False))


def test_cam_methods_beside_their_controls(
    labelled: Path, scans: Path, clisc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(labelled / "nnUNet_raw"))
    before = digest(labelled)
    arguments = ["sanity", "-d", 501, "-o", tmp_path / "out", "--cases", 2, "-device", "cpu", "--gt", scans / "labels"]
    done = clisc(*arguments, "--methods", "gradcam", "layercam", "--permuted")
    assert digest(labelled) == before
    methods = json.loads((tmp_path / "out" / "sanity.json").read_text())["methods"]
    assert set(methods) == {
        f"{name}{suffix}" for name in ("gradcam", "layercam", "randomcam") for suffix in ("", ", permuted labels")
    }
    for row in methods.values():
        assert row["deletion"]["n"] == row["insertion"]["n"] > 0
        assert row["iou"]["n"] == 2
    assert methods["layercam"]["iou"]["mean"] > methods["layercam, permuted labels"]["iou"]["mean"]
    assert "CAM methods" in done.stdout
    assert "no such CAM method" in last_line(clisc(*arguments, "--methods", "magic", ok=False))
