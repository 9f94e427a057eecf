from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from nnunetv2_clisc.errors import ClisError
from nnunetv2_clisc.evaluation import (
    Evaluation,
    dice,
    evaluate_folders,
    hd95,
    measure_case,
    summarise,
    surface_distances,
)
from tests.volume_files import FLIPPED, cube, voxels, write

EMPTY = np.zeros((4, 5, 6), bool)


def blobs(seed: int, shape: tuple[int, int, int] = (14, 24, 20)) -> np.ndarray:
    """An irregular mask of several parts, some of them on the edge of the volume."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return noise > np.quantile(noise, 0.9)


PAIRS = [(blobs(1), blobs(2)), (blobs(3), ndimage.binary_dilation(blobs(3))), (blobs(4), blobs(4))]
SPACINGS = [(1.0, 1.0, 1.0), (6.09, 0.7, 0.9)]


class TestMetrics:
    @pytest.mark.parametrize(("prediction", "reference"), PAIRS)
    @pytest.mark.parametrize("spacing", SPACINGS)
    def test_equal_to_medpy(
        self, prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
    ) -> None:
        from medpy.metric import binary as medpy

        assert hd95(prediction, reference, spacing) == pytest.approx(
            medpy.hd95(prediction, reference, spacing), abs=1e-9
        )
        assert dice(prediction, reference) == pytest.approx(medpy.dc(prediction, reference), abs=1e-12)
        forth, _ = surface_distances(prediction, reference, spacing)
        assert forth.mean() == pytest.approx(medpy.asd(prediction, reference, spacing), abs=1e-9)

    @pytest.mark.parametrize(("prediction", "reference"), PAIRS)
    @pytest.mark.parametrize("spacing", SPACINGS)
    def test_larger_definition_equals_monai(
        self, prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
    ) -> None:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from monai.metrics import compute_dice, compute_hausdorff_distance

            batch = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
            theirs = compute_hausdorff_distance(*batch, include_background=True, percentile=95, spacing=spacing)
            overlap = compute_dice(*batch, include_background=True)
        assert hd95(prediction, reference, spacing, definition="larger") == pytest.approx(theirs.item(), abs=1e-4)
        assert dice(prediction, reference) == pytest.approx(overlap.item(), abs=1e-6)

    def test_two_definitions_differ(self) -> None:
        reference = np.zeros((10, 30, 30), bool)
        reference[2:8, 2:8, 2:8] = True
        prediction = reference.copy()
        prediction[4:6, 25:27, 25:27] = True  # a false island is far in one direction only
        pooled, larger = (hd95(prediction, reference, (1, 1, 1), definition=d) for d in ("pooled", "larger"))
        assert pooled < larger

    def test_shift_is_measured_in_mm_along_each_axis(self) -> None:
        base = np.zeros((12, 12, 12), bool)
        base[5, 5, 5] = True
        for axis, mm in enumerate((6.0, 0.5, 2.0)):
            assert hd95(np.roll(base, 2, axis), base, (6.0, 0.5, 2.0)) == pytest.approx(2 * mm)

    def test_symmetric_and_blind_to_the_margin(self) -> None:
        a, b = PAIRS[0]
        padded = [np.pad(mask, ((3, 0), (1, 7), (0, 2))) for mask in (a, b)]
        assert hd95(a, b, (2, 1, 1)) == pytest.approx(hd95(b, a, (2, 1, 1)))
        assert hd95(*padded, (2, 1, 1)) == pytest.approx(hd95(a, b, (2, 1, 1)))
        assert dice(*padded) == dice(a, b)

    def test_known_dice(self) -> None:
        a, b = EMPTY.copy(), EMPTY.copy()
        a[0, 0, :4] = True
        b[0, 0, 2:6] = True
        assert dice(a, b) == pytest.approx(0.5)
        assert dice(a, a) == 1.0
        assert dice(a, ~a) == 0.0

    def test_empty_masks(self) -> None:
        full = ~EMPTY
        assert dice(EMPTY, full) == 0.0
        assert dice(full, EMPTY) == 0.0
        assert math.isnan(dice(EMPTY, EMPTY))
        for pair in ((EMPTY, full), (full, EMPTY), (EMPTY, EMPTY)):
            assert math.isnan(hd95(*pair, (1, 1, 1)))

    def test_inputs_stay_as_they_are(self) -> None:
        a, b = PAIRS[0]
        before = a.copy(), b.copy()
        measure_case(a, b, (1, 1, 1))
        np.testing.assert_array_equal(a, before[0])
        np.testing.assert_array_equal(b, before[1])


class TestSummary:
    def test_nan_is_left_out_and_counted(self) -> None:
        result = summarise([1.0, math.nan, 3.0, 5.0])
        assert (result.mean, result.sd, result.n, result.nan) == (3.0, 2.0, 3, 1)

    def test_nothing_defined(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = summarise([math.nan])
        assert math.isnan(result.mean)
        assert (result.n, result.nan) == (0, 1)

    def test_a_new_metric_reaches_json_and_table(self) -> None:
        result = Evaluation("m", {"a": {"dsc": 0.5, "volume": 2.0}, "b": {"dsc": 0.7, "volume": math.nan}})
        assert result.to_json()["methods"]["m"]["volume"] == {"mean": 2.0, "sd": None, "n": 1, "nan": 1}
        assert "volume" in result.to_markdown()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases: a is off by one column, b has an empty prediction, c is exact; file formats differ."""
    for case in "abc":
        write(tmp_path / "gt" / f"{case}.nii.gz", cube(), direction=FLIPPED)
    write(tmp_path / "pred" / "a.nii.gz", np.roll(cube(), 1, axis=2), direction=FLIPPED)
    write(tmp_path / "pred" / "b.nii.gz", np.zeros_like(cube()), direction=FLIPPED)
    write(tmp_path / "pred" / "c.nrrd", cube(), direction=FLIPPED)
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):  # as nnUNetv2_predict leaves them
        (tmp_path / "pred" / name).write_text("{}")
    return tmp_path / "pred", tmp_path / "gt"


class TestFolders:
    def test_values_per_case_and_over_cases(self, folders: tuple[Path, Path]) -> None:
        result = evaluate_folders(*folders)
        assert list(result.cases) == ["a", "b", "c"]
        assert result.cases["a"]["dsc"] == pytest.approx(0.75)  # 3 of 4 columns overlap
        assert result.cases["a"]["hd95_mm"] == pytest.approx(0.9)  # a column is 0.9 mm wide, a slice 3 mm
        assert result.cases["b"]["dsc"] == 0.0
        assert math.isnan(result.cases["b"]["hd95_mm"])
        assert result.cases["c"] == {"dsc": 1.0, "hd95_mm": 0.0}
        summary = result.summary()
        assert summary["dsc"].mean == pytest.approx(1.75 / 3)
        assert summary["dsc"].sd == pytest.approx(np.std([0.75, 0, 1], ddof=1))
        assert (summary["hd95_mm"].mean, summary["hd95_mm"].nan) == (pytest.approx(0.45), 1)

    def test_threads_do_not_matter(self, folders: tuple[Path, Path]) -> None:
        one, three = (evaluate_folders(*folders, threads=threads).to_json() for threads in (1, 3))
        assert one == three

    def test_json_is_valid_and_has_the_documented_shape(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        evaluate_folders(*folders, name="CLISC").save_json(tmp_path / "out.json")
        content = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda word: pytest.fail(word))
        assert content["methods"]["CLISC"]["dsc"]["mean"] == pytest.approx(1.75 / 3)
        assert content["methods"]["CLISC"]["hd95_mm"]["nan"] == 1
        assert content["cases"][1] == {"method": "CLISC", "case": "b", "dsc": 0.0, "hd95_mm": None}
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.json"]

    def test_json_that_cannot_be_written(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(ClisError, match=r"out\.json: cannot be written"):
            evaluate_folders(*folders).save_json(tmp_path / "nowhere" / "out.json")

    def test_table_shows_every_case_and_the_undefined(self, folders: tuple[Path, Path]) -> None:
        lines = evaluate_folders(*folders).to_markdown().splitlines()
        assert [line.split("|")[1].strip() for line in lines[2:5]] == ["a", "b", "c"]
        assert [cell.strip() for cell in lines[3].split("|")[2:4]] == ["0.000", "–"]
        assert "0.583 ± 0.520" in lines[5]
        assert [cell.strip() for cell in lines[6].split("|")[2:4]] == ["0", "1"]
        assert len({len(line) for line in lines}) == 1

    def test_named_cases_only(self, folders: tuple[Path, Path]) -> None:
        (folders[1] / "b.nii.gz").unlink()
        assert list(evaluate_folders(*folders, cases=["c", "a"]).cases) == ["a", "c"]
        with pytest.raises(ClisError, match="gt: has no mask of case b, but it was asked for"):
            evaluate_folders(*folders, cases=["b"])

    def test_different_cases_raise(self, folders: tuple[Path, Path]) -> None:
        (folders[0] / "b.nii.gz").unlink()
        with pytest.raises(ClisError, match=r"pred: has no mask of case b, but .*gt has it"):
            evaluate_folders(*folders)
        (folders[0] / "b.nii.gz").write_bytes((folders[0] / "a.nii.gz").read_bytes())
        (folders[1] / "a.nii.gz").unlink()
        with pytest.raises(ClisError, match=r"gt: has no mask of case a, but .*pred has it"):
            evaluate_folders(*folders)

    def test_empty_or_missing_folder_raises(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ClisError, match="empty: holds no"):
            evaluate_folders(tmp_path / "empty", folders[1])
        with pytest.raises(ClisError, match="nowhere: no such folder"):
            evaluate_folders(folders[0], tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("array", "options", "message"),
        [
            (cube()[:-1], {"direction": FLIPPED}, "shape"),
            (cube(), {}, "direction"),
            (cube(), {"direction": FLIPPED, "spacing": (1.0, 0.8, 3.0)}, "spacing"),
            (cube(), {"direction": FLIPPED, "origin": (0.0, 0.0, 0.0)}, "origin"),
            (cube(value=2), {"direction": FLIPPED}, "has the value 2"),
            (cube() * 0.5, {"direction": FLIPPED}, r"has the value 0\.5"),
        ],
    )
    def test_prediction_that_does_not_fit_is_named(
        self, folders: tuple[Path, Path], array: np.ndarray, options: dict[str, tuple[float, ...]], message: str
    ) -> None:
        write(folders[0] / "a.nii.gz", array, **options)
        with pytest.raises(ClisError, match=rf"pred/a\.nii\.gz: {message}") as caught:
            evaluate_folders(*folders)
        assert "\n" not in str(caught.value)

    def test_reference_with_other_labels_is_named(self, folders: tuple[Path, Path]) -> None:
        write(folders[1] / "c.nii.gz", cube(value=4), direction=FLIPPED)
        with pytest.raises(ClisError, match=r"gt/c\.nii\.gz: has the value 4"):
            evaluate_folders(*folders)

    def test_truncated_prediction_is_not_scored(self, folders: tuple[Path, Path]) -> None:
        path = write(folders[0] / "a.nii.gz", (voxels(shape=(5, 8, 9)) > 450).astype(np.uint8), direction=FLIPPED)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ClisError, match=r"a\.nii\.gz: the file is truncated"):
            evaluate_folders(*folders)


def test_import_is_light() -> None:
    code = "import sys, nnunetv2_clisc.evaluation; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
