"""Folders of masks: which cases are compared, and what a mask must be."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.scoring.metrics import MetricSettings
from tests.helpers.volume_files import FLIPPED, cube, voxels, write


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
        exact = {"dsc": 1, "hd95_mm": 0, "assd_mm": 0, "precision": 1, "recall": 1, "volume_error_ml": 0}
        assert {name: result.cases["c"][name] for name in exact} == exact
        assert result.cases["c"]["reference_ml"] == pytest.approx(cube().sum() * 0.9 * 0.8 * 3 / 1000)
        summary = result.summary()
        assert summary["dsc"].mean == pytest.approx(1.75 / 3)
        assert summary["dsc"].sd == pytest.approx(np.std([0.75, 0, 1], ddof=1))
        assert (summary["hd95_mm"].mean, summary["hd95_mm"].nan) == (pytest.approx(0.45), 1)

    def test_threads_do_not_matter(self, folders: tuple[Path, Path]) -> None:
        one, three = (evaluate_folders(*folders, threads=threads).cases for threads in (1, 3))
        for case in one:
            assert one[case] == pytest.approx(three[case], nan_ok=True, abs=0)

    def test_settings_reach_every_case(self, folders: tuple[Path, Path]) -> None:
        result = evaluate_folders(*folders, settings=MetricSettings(empty_policy="worst"))
        assert result.cases["b"]["hd95_mm"] == pytest.approx(math.hypot(5 * 3, 8 * 0.8, 9 * 0.9))

    def test_volume_correlation(self, folders: tuple[Path, Path]) -> None:
        result = evaluate_folders(*folders)
        assert math.isnan(result.volume_correlation())  # all references have one size
        bigger = cube()
        bigger[1:4, 1:7, 3:7] = 1
        write(folders[1] / "a.nii.gz", bigger, direction=FLIPPED)
        ours = [result.cases[case]["prediction_ml"] for case in "abc"]
        expected = np.corrcoef(ours, [bigger.sum(), cube().sum(), cube().sum()])[0, 1]
        assert evaluate_folders(*folders).volume_correlation() == pytest.approx(expected)

    def test_named_cases_only(self, folders: tuple[Path, Path]) -> None:
        (folders[1] / "b.nii.gz").unlink()
        assert list(evaluate_folders(*folders, cases=["c", "a"]).cases) == ["a", "c"]
        with pytest.raises(UserError, match="gt: has no mask of case b, but it was asked for"):
            evaluate_folders(*folders, cases=["b"])

    def test_cases_that_both_folders_have_are_scored(self, folders: tuple[Path, Path]) -> None:
        every = evaluate_folders(*folders).cases
        (folders[0] / "b.nii.gz").unlink()
        (folders[1] / "a.nii.gz").unlink()
        assert evaluate_folders(*folders).cases == {"c": every["c"]}

    def test_no_case_in_common_names_one_of_each(self, folders: tuple[Path, Path]) -> None:
        for path in sorted(folders[1].iterdir()):
            path.rename(path.with_name(f"{path.name[0]}_seg.nii.gz"))
        with pytest.raises(UserError, match=r"no case is also in .*they hold a and a_seg, for example"):
            evaluate_folders(*folders)

    def test_empty_or_missing_folder_raises(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="empty: holds no"):
            evaluate_folders(tmp_path / "empty", folders[1])
        with pytest.raises(UserError, match="nowhere: no such folder"):
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
        with pytest.raises(UserError, match=rf"pred/a\.nii\.gz: {message}") as caught:
            evaluate_folders(*folders)
        assert "\n" not in str(caught.value)

    def test_reference_with_other_labels_is_named(self, folders: tuple[Path, Path]) -> None:
        write(folders[1] / "c.nii.gz", cube(value=4), direction=FLIPPED)
        with pytest.raises(UserError, match=r"gt/c\.nii\.gz: has the value 4"):
            evaluate_folders(*folders)

    def test_truncated_prediction_is_not_scored(self, folders: tuple[Path, Path]) -> None:
        path = write(folders[0] / "a.nii.gz", (voxels(shape=(5, 8, 9)) > 450).astype(np.uint8), direction=FLIPPED)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match=r"a\.nii\.gz: the file is truncated"):
            evaluate_folders(*folders)


def test_import_is_light() -> None:
    code = (
        "import sys, nnunetv2_clisc.scoring.evaluation; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
