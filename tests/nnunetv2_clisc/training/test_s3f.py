"""Similarity, the percentile rule, and the table of S3F."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.s3f import (
    Agreement,
    compare_case,
    decide,
    draw_case,
    keep_all,
    kept_cases,
    load_agreement,
    read_case,
    save_agreement,
    similarity,
    write_results,
)
from pseudo_labeling.settings import PromptSettings, WindowSettings
from tests.helpers.tiny_nnunet import lesion, write_image


def agreements(values: list[float]) -> list[Agreement]:
    return [Agreement(f"c{number:02d}", 100, 100, value) for number, value in enumerate(values)]


def kept(values: list[float], beta: float) -> list[int]:
    return [number for number, d in enumerate(decide(agreements(values), beta)[1]) if d.kept]


def test_similarity_is_volume_dice() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 4, 5, 6)) > 0.6
    together = sum(bool(a and b) for a, b in zip(first.ravel(), second.ravel(), strict=True))
    assert similarity(first, second) == pytest.approx(2 * together / (first.sum() + second.sum()))
    assert similarity(first, first) == 1.0
    assert similarity(first, ~first) == 0.0


def test_similarity_of_two_empty_masks_is_zero() -> None:
    nothing = np.zeros((2, 3, 3), dtype=bool)
    assert similarity(nothing, nothing) == 0.0


def test_cases_below_the_percentile_are_dropped() -> None:
    values = [0.9, 0.1, 0.8, 0.5, 0.7, 0.2, 0.95, 0.6, 0.85, 0.75]
    threshold, decisions = decide(agreements(values), 20.0)
    assert threshold == pytest.approx(0.44)  # a fifth of the way from the 2nd to the 3rd smallest of ten, by hand
    assert [d.agreement.similarity for d in decisions if not d.kept] == [0.1, 0.2]
    assert all("below 0.44" in d.reason for d in decisions if not d.kept)


def test_beta_zero_keeps_every_case_with_a_prediction() -> None:
    assert kept([0.3, 0.0, 0.9], 0.0) == [0, 1, 2]


def test_a_case_at_the_threshold_is_kept() -> None:
    assert kept([0.5, 0.5, 0.5], 20.0) == [0, 1, 2]


def test_without_any_overlap_a_case_is_dropped_even_at_threshold_zero() -> None:
    assert kept([0.0, 0.0, 0.0, 0.9, 0.8], 20.0) == [3, 4]


def test_empty_predictions_are_dropped_and_say_so() -> None:
    empty = Agreement("empty", 0, 0, 0.0)
    _, decisions = decide([*agreements([0.4, 0.5]), empty], 0.0)
    assert [(d.kept, d.reason) for d in decisions] == [(True, ""), (True, ""), (False, "empty prediction")]


def test_nothing_left_is_an_error_that_counts_empty_predictions() -> None:
    with pytest.raises(UserError, match=r"none of 2 training cases \(2 with an empty prediction\)"):
        decide([Agreement("a", 0, 0, 0.0), Agreement("b", 0, 0, 0.0)], 20.0)


def test_decisions_do_not_depend_on_the_order_of_the_cases() -> None:
    cases = agreements([0.9, 0.1, 0.8, 0.5])
    assert decide(cases, 30.0) == decide(cases[::-1], 30.0)


def test_table_and_training_list(tmp_path: Path) -> None:
    _, decisions = decide([*agreements([0.25, 0.75, 1 / 3]), Agreement("empty", 0, 0, 0.0)], 40.0)
    write_results(tmp_path, decisions, {"beta": 40.0})
    rows = list(csv.DictReader((tmp_path / "similarities.csv").open()))
    assert [row["case"] for row in rows] == ["c00", "c01", "c02", "empty"]
    assert [row["kept"] for row in rows] == ["0", "1", "1", "0"]
    assert rows[2]["similarity"] == "0.333333"
    assert rows[3]["reason"] == "empty prediction"
    assert kept_cases(tmp_path) == ["c01", "c02"]
    assert json.loads((tmp_path / "summary.json").read_text())["dropped"] == ["c00", "empty"]
    first = (tmp_path / "similarities.csv").read_bytes()
    write_results(tmp_path, decisions, {"beta": 40.0})
    assert (tmp_path / "similarities.csv").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["similarities.csv", "summary.json"]


def test_without_s3f_every_case_is_kept_and_has_no_similarity(tmp_path: Path) -> None:
    write_results(tmp_path, keep_all([Agreement("b", 5), Agreement("a", 0)]), {})
    assert kept_cases(tmp_path) == ["a", "b"]
    assert (tmp_path / "similarities.csv").read_text().splitlines()[1] == "a,,1,0,,"


def test_a_finished_case_is_read_back_exactly(tmp_path: Path) -> None:
    found = Agreement("c", 12, 17, 0.1 + 0.2)
    assert load_agreement(tmp_path, "c") is None
    save_agreement(tmp_path, found)
    assert load_agreement(tmp_path, "c") == found


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_case_is_compared_in_the_scans_own_geometry(tmp_path: Path, orientation: str) -> None:
    """SAM sees upright slices whatever the file's axis order, and its mask lands on the file's grid."""
    volume, mask = lesion(3)
    prediction = np.roll(mask, 2, axis=2)
    write_image(tmp_path / "scan.nii.gz", volume, orientation)
    write_image(tmp_path / "prediction.nii.gz", prediction.astype(np.uint8), orientation)
    seen = {}

    def segment(images: np.ndarray, roi: np.ndarray, *_: float) -> np.ndarray:
        seen["images"], seen["roi"] = images, roi
        return mask

    out = tmp_path / "sam.nii.gz"
    shown = read_case([tmp_path / "scan.nii.gz"], tmp_path / "prediction.nii.gz", WindowSettings())
    found = compare_case("c", shown, out, segment)
    np.testing.assert_array_equal(seen["roi"], prediction)
    assert seen["images"].dtype == np.uint8
    assert seen["images"].shape == volume.shape
    assert np.corrcoef(seen["images"].ravel(), volume.ravel())[0, 1] > 0.99
    assert found == Agreement("c", int(prediction.sum()), int(mask.sum()), similarity(prediction, mask))
    written, scan = sitk.ReadImage(str(out)), sitk.ReadImage(str(tmp_path / "scan.nii.gz"))
    assert written.GetSize() == scan.GetSize()
    assert written.GetDirection() == pytest.approx(scan.GetDirection())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(written, "LPS")) > 0, mask)


def test_missing_broken_or_misfitting_scan_names_the_file(tmp_path: Path) -> None:
    volume, mask = lesion(1)
    prediction = tmp_path / "p.nii.gz"
    write_image(prediction, mask[:-1].astype(np.uint8))
    scan = tmp_path / "scan.nii.gz"

    with pytest.raises(UserError, match=r"scan\.nii\.gz: the scan is missing"):
        read_case([scan], prediction, WindowSettings())
    write_image(scan, volume)
    with pytest.raises(UserError, match="preprocess again"):
        read_case([scan], prediction, WindowSettings())
    scan.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"scan\.nii\.gz"):
        read_case([scan], prediction, WindowSettings())


def test_dropped_case_gets_a_picture(tmp_path: Path) -> None:
    volume, mask = lesion(2)
    for name, array in (("scan", volume), ("prediction", mask.astype(np.uint8)), ("sam", mask.astype(np.uint8))):
        write_image(tmp_path / f"{name}.nii.gz", array)
    decision = decide([Agreement("c", 9, 9, 0.2), Agreement("d", 9, 9, 0.9)], 50.0)[1][0]
    assert not decision.kept
    paths = [tmp_path / f"{name}.nii.gz" for name in ("scan", "prediction", "sam")]
    draw_case(tmp_path / "c.png", decision, paths[:1], *paths[1:], WindowSettings(), PromptSettings())
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"case": "c00", "predic',
        "[1]",
        '{"case": "c00"}',
        '{"case": "c00", "predicted_voxels": 1, "more": 2}',
        '{"case": "c01", "predicted_voxels": 1}',
        '{"case": "c00", "predicted_voxels": "1"}',
        '{"case": "c00", "predicted_voxels": 1, "sam_voxels": 2, "similarity": NaN}',
    ],
)
def test_damaged_or_foreign_record_is_a_case_not_done(tmp_path: Path, content: str) -> None:
    save_agreement(tmp_path, Agreement("c00", 5, 4, 0.5))
    assert load_agreement(tmp_path, "c00") == Agreement("c00", 5, 4, 0.5)
    (tmp_path / "c00.json").write_text(content)
    assert load_agreement(tmp_path, "c00") is None
    (tmp_path / "c00.json").write_bytes(b"\xff\xfe")
    assert load_agreement(tmp_path, "c00") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"kept": []}', '{"kept": 3}', '{"kept": [1]}', None])
def test_damaged_list_of_kept_cases_is_named_with_the_cure(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json: does not say which cases S3F keeps; .*clisc_state\.json"):
        kept_cases(tmp_path)
