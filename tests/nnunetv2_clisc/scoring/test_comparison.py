"""Comparing methods: places, tests, missing cases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.comparison import Comparison, compare_folders
from nnunetv2_clisc.scoring.comparison_files import latex, markdown, summary
from nnunetv2_clisc.scoring.comparison_tables import cases_table, further_table, main_table, notes
from nnunetv2_clisc.scoring.comparison_tables import tests_table as table_of_tests
from nnunetv2_clisc.scoring.evaluation import Evaluation
from nnunetv2_clisc.scoring.metrics import METRICS
from tests.helpers.methods import BASE, FAIR, GOOD, POOR, RNG, method
from tests.helpers.volume_files import cube, write


class TestPlaces:
    def test_higher_dsc_and_lower_distance_win(self) -> None:
        comparison = Comparison([POOR, GOOD, FAIR])
        assert comparison.order("dsc") == comparison.order("hd95_mm") == [["good"], ["fair"], ["poor"]]

    def test_equal_methods_share_a_place(self) -> None:
        twin = Evaluation("twin", GOOD.cases)
        assert Comparison([FAIR, twin, GOOD]).order("dsc") == [["twin", "good"], ["fair"]]

    def test_failing_on_hard_cases_does_not_win(self) -> None:
        skips = method("skips", dsc=[0.0, 0.9], hd95_mm=[math.nan, 1.0])
        whole = method("whole", dsc=[0.5, 0.9], hd95_mm=[40.0, 1.0])
        assert Comparison([skips, whole]).order("hd95_mm") == [["whole"], ["skips"]]

    def test_rightly_finding_nothing_is_no_failure(self) -> None:
        right = method("right", dsc=[math.nan, 0.9], reference_ml=[0.0, 3.0])
        wrong = method("wrong", dsc=[0.0, 0.8], reference_ml=[0.0, 3.0])
        assert Comparison([wrong, right]).order("dsc") == [["right"], ["wrong"]]


class TestTests:
    def test_everyone_meets_the_best_and_the_best_meets_the_second(self) -> None:
        rows = [one for one in Comparison([POOR, FAIR, GOOD]).versus if one.metric == "dsc"]
        assert {one.method: one.competitor for one in rows} == {"good": "fair", "fair": "good", "poor": "good"}

    def test_numbers_are_scipys_and_corrected_over_pairs_with_the_best(self) -> None:
        rows = {one.method: one for one in Comparison([POOR, FAIR, GOOD]).versus if one.metric == "dsc"}
        values = {one.name: one.values("dsc") for one in (POOR, FAIR, GOOD)}
        raw = {name: stats.ttest_rel(values[name], values["good"]).pvalue for name in ("fair", "poor")}
        assert rows["poor"].test.t_p == pytest.approx(raw["poor"])
        smaller, larger = sorted(raw, key=raw.__getitem__)
        assert rows[smaller].t_p_holm == pytest.approx(min(1, 2 * raw[smaller]))
        assert rows[larger].t_p_holm == pytest.approx(max(raw[larger], 2 * raw[smaller]))
        assert rows["good"].t_p_holm == rows["fair"].t_p_holm
        assert rows["good"].test.difference > 0 > rows["fair"].test.difference

    def test_one_method_has_no_competitor(self) -> None:
        assert Comparison([GOOD]).versus == []

    def test_seed_moves_the_intervals_only(self) -> None:
        one, other = (Comparison([GOOD, FAIR], seed=seed).versus[0] for seed in (0, 1))
        assert one.test.low != other.test.low
        assert one.test.t_p == other.test.t_p
        assert Comparison([GOOD, FAIR], seed=1).versus[0] == other


class TestMissing:
    part = GOOD.only([case for case in GOOD.cases if case not in ("c03", "c11")])

    def test_numbers_are_over_common_cases_and_the_rest_is_named(self) -> None:
        comparison = Comparison([self.part, FAIR])
        assert comparison.missing == {"good": ["c03", "c11"]}
        content = summary(comparison)
        assert content["missing"] == {"good": ["c03", "c11"]}
        expected = np.delete(BASE, [3, 11])
        assert content["methods"]["fair"]["dsc"]["mean"] == pytest.approx(expected.mean())
        assert content["methods"]["fair"]["dsc"]["n"] == 18
        status = {(row["method"], row["case"]): row["status"] for row in content["cases"]}
        assert len(status) == 40
        assert status["good", "c03"] == "missing"
        assert status["fair", "c03"] == "not compared"
        assert status["fair", "c04"] == "compared"

    def test_tables_say_so(self) -> None:
        comparison = Comparison([self.part, FAIR], unpredicted=["x", "y"])
        for text in (markdown(comparison), latex(comparison)):
            assert "Missing in good (2): c03, c11" in text
            assert "2 reference(s) that no method predicted" in text


class TestTables:
    def test_best_is_bold_second_underlined_and_significance_starred(self) -> None:
        rows = {
            line.split("|")[1].strip(): line
            for line in main_table(Comparison([POOR, GOOD, FAIR])).to_markdown().splitlines()
        }
        mean, sd = 100 * np.mean(GOOD.values("dsc")), 100 * np.std(GOOD.values("dsc"), ddof=1)
        assert rf"**{mean:.2f} ± {sd:.2f}\*** " in rows["good"]
        assert f"<u>{100 * BASE.mean():.2f} ±" in rows["fair"]
        assert "**" not in rows["poor"] + rows["fair"]
        assert "<u>" not in rows["poor"]

    def test_no_star_without_a_difference(self) -> None:
        close = method("close", dsc=BASE + RNG.normal(0.001, 0.1, 20))
        assert r"\*" not in main_table(Comparison([FAIR, close])).to_markdown().splitlines()[2].split("|")[2]

    def test_groups_hold_a_fifth_each_and_their_own_mean(self) -> None:
        header, _, line = main_table(Comparison([FAIR])).to_markdown().splitlines()
        assert [cell.strip() for cell in header.split("|")[4:9]] == [
            f"{size} (n=4)" for size in ("Tiny", "Small", "Medium", "Large", "Huge")
        ]
        assert f"{100 * BASE[:4].mean():.2f} ±" in line.split("|")[4]

    def test_one_method_is_neither_best_nor_tested(self) -> None:
        comparison = Comparison([FAIR])
        assert "**" not in main_table(comparison).to_markdown() + further_table(comparison).to_markdown()
        assert not any("Bold" in note for note in notes(comparison))

    def test_undefined_values_and_empty_masks_are_shown(self) -> None:
        gap = method("gap", dsc=[0.0, 0.5, 0.6], hd95_mm=[math.nan, 3.0, 5.0], prediction_ml=[0.0, 2.0, 3.0])
        comparison = Comparison([gap, method("full", dsc=[0.1, 0.5, 0.6])])
        assert [row[3] for row in main_table(comparison).rows] == ["1", "0"]
        assert "Empty mask in gap (1): c00." in notes(comparison)
        text = cases_table(comparison).to_markdown()
        assert "4.00 ± 1.41" in text
        tested = [row for row in table_of_tests(comparison).rows if row[:2] == ["HD95 (mm)", "gap"]]
        assert tested[0][3] == "2"

    def test_json_has_the_documented_shape(self) -> None:
        content = json.loads(json.dumps(summary(Comparison([GOOD, POOR])), allow_nan=False))
        assert content["methods"]["poor"]["hd95_mm"] == {
            "mean": pytest.approx(np.mean(POOR.values("hd95_mm"))), "sd": pytest.approx(8 * BASE.std(ddof=1)),
            "n": 20, "nan": 0,
        }  # fmt: skip
        assert content["methods"]["poor"]["volume_correlation"] == pytest.approx(1)
        assert content["size_groups"]["huge"]["methods"]["good"]["dsc"]["n"] == 4
        assert {one["metric"] for one in content["comparisons"]} == {m for m, about in METRICS.items() if about.better}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[dict[str, Path], Path]:
    """Masks of a, b, c, d; method one has a, b, c, method two a and b."""
    for folder, cases in (("gt", "abcd"), ("one", "abc"), ("two", "ab")):
        for case in cases:
            write(tmp_path / folder / f"{case}.nii.gz", np.roll(cube(), folder == "two", axis=2))
    return {name: tmp_path / name for name in ("one", "two")}, tmp_path / "gt"


class TestFolders:
    def test_only_predicted_cases_count(self, folders: tuple[Mapping[str, Path], Path]) -> None:
        comparison = compare_folders(*folders)
        assert comparison.cases == ["a", "b"]
        assert comparison.missing == {"two": ["c"]}
        assert comparison.unpredicted == ["d"]
        assert comparison.order("dsc") == [["one"], ["two"]]

    def test_prediction_without_reference_is_left_out_and_named(self, folders: tuple[dict[str, Path], Path]) -> None:
        before = compare_folders(*folders)
        write(folders[0]["two"] / "e.nii.gz", cube())
        comparison = compare_folders(*folders)
        assert [method.cases for method in comparison.methods] == [method.cases for method in before.methods]
        assert comparison.unreferenced == {"two": ["e"]}
        assert "1 prediction(s) of two without a reference are left out: e." in notes(comparison)
        status = {(row["method"], row["case"]): row["status"] for row in summary(comparison)["cases"]}
        assert (status["two", "e"], status["two", "d"], status["two", "c"]) == ("no reference", "missing", "missing")
        assert ("one", "e") not in status

    def test_nothing_in_common(self, folders: tuple[Mapping[str, Path], Path]) -> None:
        for case in "ab":
            (folders[0]["one"] / f"{case}.nii.gz").unlink()
        with pytest.raises(UserError, match=r"--method: no case is in all of .*one, .*two; .* they hold c, a, a, for"):
            compare_folders(*folders)
        for case in "abc":
            (folders[1] / f"{case}.nii.gz").unlink()
        write(folders[0]["one"] / "a.nii.gz", cube())
        with pytest.raises(UserError, match=r"no case is in all of .*one, .*two and in --gt .*gt; "):
            compare_folders(*folders)
