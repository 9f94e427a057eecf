"""Masks as people have them: other values than 0 and 1, several classes, other axis orders, cases on one side only."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.scoring.folders import compare, evaluate
from nnunetv2_clisc.scoring.masks import Foreground, parse_foreground
from nnunetv2_clisc.scoring.metrics import MetricSettings
from tests.helpers.commands import Run
from tests.helpers.volume_files import OBLIQUE, cube, write

ORIENTATIONS = ("RAS", "LPI", "SRA", "PIR", "ILP", "ASL")


def classes() -> np.ndarray:
    """A `(z, y, x)` mask like BraTS: labels 1, 2 and 4, whose union is `cube()`."""
    mask = cube(value=2)
    mask[1:3, 3:5, 3:5] = 4
    mask[1:2, 2:3, 3:7] = 1
    return mask


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Folders `pred` and `gt` with the cases a (off by a column) and b."""
    for case in "ab":
        write(tmp_path / "gt" / f"{case}.nii.gz", cube())
        write(tmp_path / "pred" / f"{case}.nii.gz", np.roll(cube(), case == "a", axis=2))
    return tmp_path


def scores(folder: Path, **settings: Foreground) -> dict[str, dict[str, float]]:
    found = evaluate_folders(folder / "pred", folder / "gt", settings=MetricSettings(**settings))  # type: ignore[arg-type]
    return {case: dict(metrics) for case, metrics in found.cases.items()}


def refusal(folder: Path, **settings: Foreground) -> str:
    with pytest.raises(UserError) as caught:
        scores(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestValues:
    def test_a_mask_that_rounding_would_empty_is_refused(self, pair: Path) -> None:
        write(pair / "pred" / "b.nii.gz", cube().astype(np.float32) * np.float32(0.0009))
        with pytest.raises(UserError, match=r"b\.nii\.gz: its largest value is 0\.00089"):
            scores(pair)

    @pytest.mark.parametrize("foreground", [None, "any", (1, 2, 4)])
    def test_0_and_255_are_0_and_1(self, pair: Path, foreground: Foreground | None) -> None:
        expected = scores(pair)
        write(pair / "gt" / "a.nii.gz", cube(value=255))
        write(pair / "pred" / "b.nii.gz", cube(value=255).astype(np.float32))
        assert scores(pair, **({} if foreground is None else {"foreground": foreground})) == expected

    def test_a_value_almost_1_is_1(self, pair: Path) -> None:
        expected = scores(pair)
        write(pair / "gt" / "a.nii.gz", cube().astype(np.float32) * np.float32(0.99999994))
        write(pair / "pred" / "a.nii.gz", np.roll(cube(), 1, axis=2) * np.float32(1.0005) + np.float32(2e-6))
        assert scores(pair) == expected

    @pytest.mark.parametrize(
        ("value", "words"),
        [(0.5, "0.5"), (0.9985, "0.998499"), (1.0011, "1.00109"), (math.nan, "nan"), (-1.0, "-1")],
    )
    def test_other_values_are_shown_with_all_their_digits(self, pair: Path, value: float, words: str) -> None:
        (pair / "pred" / "b.nii.gz").unlink()
        write(pair / "pred" / "b.nrrd", np.where(cube() == 1, np.float32(value), np.float32(0)))
        assert f"pred/b.nrrd: has the value {words}" in refusal(pair)

    def test_a_scan_is_no_mask(self, pair: Path) -> None:
        write(pair / "gt" / "a.nii.gz", np.arange(5 * 8 * 9).reshape(5, 8, 9).astype(np.int16))
        assert "359 different values; is it a scan?" in refusal(pair, foreground="any")


class TestClasses:
    @pytest.mark.parametrize("foreground", ["any", (1, 2, 4)])
    def test_whole_tumour_against_a_binary_prediction(self, pair: Path, foreground: Foreground) -> None:
        expected = scores(pair)
        for case in "ab":
            write(pair / "gt" / f"{case}.nii.gz", classes())
        assert scores(pair, foreground=foreground) == expected

    def test_some_classes_on_both_sides(self, pair: Path) -> None:
        for case in "ab":
            write(pair / "gt" / f"{case}.nii.gz", classes())
            write(pair / "pred" / f"{case}.nii.gz", classes() % 4)  # label 4 is background here
        found = scores(pair, foreground=(1, 4))["a"]
        voxel_ml = 0.9 * 0.8 * 3 / 1000
        assert found["reference_ml"] == pytest.approx(np.isin(classes(), (1, 4)).sum() * voxel_ml)
        assert found["prediction_ml"] == pytest.approx((classes() == 1).sum() * voxel_ml)

    def test_predictions_with_labels_of_their_own(self, pair: Path) -> None:
        write(pair / "gt" / "a.nii.gz", classes())
        write(pair / "gt" / "b.nii.gz", classes())
        message = refusal(pair, foreground=(2, 4))
        assert "pred: its masks hold 1 beside 0, nothing of --foreground 2,4" in message
        assert "--pred-foreground 1" in message
        found = scores(pair, foreground=(2, 4), pred_foreground=(1,))
        assert found["b"]["recall"] == 1
        assert 0 < found["b"]["precision"] < 1

    def test_a_case_without_the_class_is_empty_not_an_error(self, pair: Path) -> None:
        write(pair / "gt" / "b.nii.gz", cube(value=4))
        assert scores(pair, foreground=(4,), pred_foreground="any")["a"]["reference_ml"] == 0

    def test_without_the_flag_it_is_named(self, pair: Path) -> None:
        write(pair / "gt" / "a.nii.gz", classes())
        message = refusal(pair)
        assert "gt/a.nii.gz: has the values 1, 2, 4, but a mask holds 0 and 1, or 0 and 255" in message
        assert "--foreground any or --foreground 1,2,4" in message

    @pytest.mark.parametrize("text", ["0", "1,-2", "", "1,,2", "1.5", "tumour", "1 2"])
    def test_odd_lists_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  (argparse adds the words)
            parse_foreground(text)

    def test_lists_and_any(self) -> None:
        assert (parse_foreground("4, 1,2,1"), parse_foreground("Any")) == ((1, 2, 4), "any")


class TestAxisOrder:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    @pytest.mark.parametrize("turned", ["pred", "gt"])
    def test_another_axis_order_on_the_same_grid_changes_nothing(
        self, tmp_path: Path, orientation: str, turned: str
    ) -> None:
        straight = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        random = np.random.default_rng(3)
        for case, direction in (("a", straight), ("b", OBLIQUE)):
            for folder in ("gt", "pred"):
                mask = cube() | (random.random(cube().shape) > 0.9)
                write(tmp_path / folder / f"{case}.nii.gz", mask.astype(np.uint8), direction=direction)
        expected = scores(tmp_path)
        for path in (tmp_path / turned).iterdir():
            image = sitk.ReadImage(str(path))
            sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path))
            assert sitk.ReadImage(str(path)).GetDirection() != image.GetDirection()
        found = scores(tmp_path)
        if turned == "pred":
            assert found == expected  # to the bit
        for case in expected:  # the order in which distances are summed and sides multiplied follows the reference
            assert found[case] == pytest.approx(expected[case], rel=1e-12, abs=1e-12)
            assert found[case]["dsc"] == expected[case]["dsc"] < 1

    @pytest.mark.parametrize("change", ["shifted", "mirrored", "cropped"])
    def test_another_grid_stays_an_error(self, pair: Path, change: str) -> None:
        path = pair / "pred" / "a.nii.gz"
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS")
        if change == "shifted":
            image.SetOrigin([place + 0.9 for place in image.GetOrigin()])
        if change == "mirrored":  # voxels stay in their order while the header says that the axis runs the other way
            image.SetDirection([-part for part in image.GetDirection()])
        if change == "cropped":
            image = image[1:]
        sitk.WriteImage(image, str(path))
        assert "pred/a.nii.gz: " in refusal(pair)
        assert "bring both to the same grid" in refusal(pair)


class TestCasesOnOneSide:
    def test_evaluate_scores_the_rest_and_names_them_everywhere(self, pair: Path, clisc: Run) -> None:
        expected = scores(pair)["b"]
        (pair / "gt" / "a.nii.gz").unlink()
        write(pair / "gt" / "c.nii.gz", cube())
        printed = clisc(
            "evaluate", "--pred", pair / "pred", "--gt", pair / "gt", "--json", pair / "r.json", "-o", pair / "out"
        ).stdout
        content = json.loads((pair / "r.json").read_text())
        assert content["methods"]["pred"]["dsc"] == {"mean": expected["dsc"], "sd": None, "n": 1, "nan": 0}
        assert (content["unpredicted"], content["unreferenced"]) == (["c"], {"pred": ["a"]})
        for text in (printed, (pair / "out" / "table.md").read_text(), (pair / "out" / "table.tex").read_text()):
            assert "1 reference(s) that no method predicted are left out: c." in text
            assert "1 prediction(s) of pred without a reference are left out: a." in text
        with open(pair / "out" / "cases.csv", newline="") as file:
            rows = {row["case"]: row for row in csv.DictReader(file)}
        assert {case: row["status"] for case, row in rows.items()} == {
            "a": "no reference", "b": "compared", "c": "missing",
        }  # fmt: skip
        assert (rows["a"]["dsc"], rows["c"]["dsc"]) == ("", "")

    def test_many_are_counted_and_the_first_named(self, pair: Path) -> None:
        for number in range(30):
            write(pair / "pred" / f"z{number:02d}.nii.gz", cube())
        printed = evaluate(pair / "pred", pair / "gt")
        assert "30 prediction(s) of pred without a reference are left out: z00, z01, " in printed
        assert "z19 and 10 more." in printed


def test_flags_of_the_commands_and_what_is_recorded(pair: Path, clisc: Run) -> None:
    expected = scores(pair)
    for case in "ab":
        write(pair / "gt" / f"{case}.nii.gz", classes())
    arguments = ["evaluate", "--pred", pair / "pred", "--gt", pair / "gt", "--json", pair / "r.json"]
    printed = clisc(*arguments, "--foreground", "any").stdout
    content = json.loads((pair / "r.json").read_text())
    assert [row["dsc"] for row in content["cases"]] == [expected["a"]["dsc"], 1]
    assert content["settings"]["foreground"] == "any"
    assert "Labels that count as the tumour in the references: any above 0, in the predictions: any above 0." in printed
    refused = clisc(*arguments, "--foreground", "1,x", ok=False)
    assert refused.returncode == 2
    assert "--foreground: '1,x': give any, or labels above 0 such as 1,2,4" in refused.stderr


def test_compare_takes_methods_of_every_kind(pair: Path) -> None:
    for case in "ab":
        write(pair / "gt" / f"{case}.nii.gz", classes())
        write(pair / "grey" / f"{case}.nii.gz", cube(value=255))
        write(pair / "classes" / f"{case}.nii.gz", np.where(cube() == 1, 3, 0).astype(np.uint8))
    methods = [f"{name}={pair / name}" for name in ("pred", "grey", "classes")]
    compare(methods, pair / "gt", pair / "out", settings=MetricSettings(foreground="any"))
    content = json.loads((pair / "out" / "summary.json").read_text())["methods"]
    assert content["grey"]["dsc"]["mean"] == content["classes"]["dsc"]["mean"] == 1
    assert content["pred"]["dsc"]["mean"] < 1
