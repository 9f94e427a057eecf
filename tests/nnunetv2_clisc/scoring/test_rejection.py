"""What a confidence is worth: against definitions by brute force, and through the installed commands."""

from __future__ import annotations

import csv
import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.rejection import Rejection, read_confidence, rejection, selective_means
from tests.helpers.commands import Run, last_line
from tests.helpers.volume_files import cube, write

RNG = np.random.default_rng(0)


def made(confidence: list[float], dsc: list[float]) -> Rejection:
    cases = [f"c{n}" for n in range(len(dsc))]
    return Rejection(dict(zip(cases, confidence, strict=True)), dict(zip(cases, dsc, strict=True)))


def test_the_curve_is_the_mean_over_all_ways_to_order_equal_confidences() -> None:
    for _ in range(20):
        order, values = RNG.integers(0, 3, 6).astype(float), RNG.random(6)
        ways = [
            np.cumsum(values[list(way)]) / np.arange(1, 7)
            for way in permutations(range(6))
            if (np.diff(order[list(way)]) <= 0).all()
        ]
        np.testing.assert_allclose(selective_means(order, values), np.mean(ways, axis=0), atol=1e-12)


def test_area_lies_between_the_best_order_and_the_worst_and_is_chances_without_any() -> None:
    dsc = list(RNG.random(30))
    best, worst = made(dsc, dsc), made([-value for value in dsc], dsc)
    middle = made([value + 0.3 * RNG.standard_normal() for value in dsc], dsc)
    assert best.aurc == pytest.approx(best.ideal)
    assert best.ideal < middle.aurc < best.random < worst.aurc
    assert made([1.0] * 30, dsc).aurc == pytest.approx(best.random)
    assert made([1.0] * 30, dsc).at(0.8) == pytest.approx(np.mean(dsc))
    assert math.isnan(made([1.0] * 30, dsc).spearman)
    assert middle.spearman == pytest.approx(stats.spearmanr(list(middle.confidence.values()), dsc).statistic)
    assert best.at(0.8) == pytest.approx(np.mean(sorted(dsc)[6:]))
    assert best.at(1) == pytest.approx(np.mean(dsc))


def test_shares_are_rounded_up_to_whole_cases() -> None:
    found = made([3, 2, 1], [0.9, 0.6, 0.3])
    assert found.at(0.9) == found.at(1.0) == pytest.approx(0.6)
    assert found.at(2 / 3) == pytest.approx(0.75)
    assert found.at(0.01) == pytest.approx(0.9)


def test_undefined_scores_are_left_out_and_missing_confidences_named() -> None:
    found = rejection({"a": 1.0, "b": 2.0, "d": 3.0}, {"a": 0.5, "b": math.nan}, "c.csv")
    assert list(found.dsc) == ["a"]
    with pytest.raises(UserError, match=r"--confidence c\.csv: has no row for case b \(and 1 more\)"):
        rejection({"a": 1.0}, {"a": 0.5, "b": 0.1, "c": 0.2}, "c.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,volume\na,1\n", "has no columns case and confidence or similarity or agreement"),
        ("", "has no columns case"),
        ("case,confidence\na,1\na,2\n", "has case a twice"),
        ("case,confidence\na,high\n", "confidence of case a is 'high', no number"),
        ("case,similarity\na,nan\n", "similarity of case a is 'nan', no number"),
        ("case,confidence\na\n", "confidence of case a is '', no number"),
    ],
)
def test_tables_that_are_none_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=message) as told:
        read_confidence(tmp_path / "c.csv")
    assert "\n" not in str(told.value)


def test_tables_of_ours_are_read(tmp_path: Path) -> None:
    (tmp_path / "similarities.csv").write_text("case,similarity,kept\na,0.5,1\nb,0.25,0\n")
    assert read_confidence(tmp_path / "similarities.csv") == {"a": 0.5, "b": 0.25}


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Ten references, one method that errs on the last cases, and a confidence that knows."""
    rows = []
    for number in range(10):
        whole, half = cube(), cube()
        half[:2] = 0
        write(tmp_path / "gt" / f"c{number}.nii.gz", whole)
        write(tmp_path / "ours" / f"c{number}.nii.gz", whole if number < 8 else half)
        write(tmp_path / "theirs" / f"c{number}.nii.gz", half)
        rows.append((f"c{number}", 1 - number / 10))
    with (tmp_path / "confidence.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "confidence"), *rows])
    return tmp_path


def test_evaluate_says_what_a_confidence_is_worth(masks: Path, clisc: Run) -> None:
    where = ["--pred", masks / "ours", "--gt", masks / "gt", "--confidence", masks / "confidence.csv"]
    shown = clisc("evaluate", *where, "--json", masks / "scores.json", "-o", masks / "out").stdout
    assert "DSC (%) of the best 80 %" in shown
    found = json.loads((masks / "scores.json").read_text())["rejection"]["ours"]
    assert found["dsc_at_coverage"]["0.8"] == 1.0
    assert found["dsc_at_coverage"]["1"] < 1
    assert found["aurc"] == pytest.approx(found["aurc_ideal"])
    assert found["aurc_ideal"] < found["aurc_random"]
    assert (masks / "out" / "risk_coverage.png").is_file()
    with (masks / "out" / "cases.csv").open(newline="") as file:
        assert {row["case"]: float(row["confidence"]) for row in csv.DictReader(file)}["c3"] == pytest.approx(0.7)


def test_compare_shows_it_for_the_methods_that_have_one(masks: Path, clisc: Run) -> None:
    methods = ["--method", f"ours={masks / 'ours'}", f"theirs={masks / 'theirs'}"]
    common = ["compare", "--gt", masks / "gt", *methods, "-o", masks / "out", "--confidence"]
    clisc(*common, f"ours={masks / 'confidence.csv'}")
    assert list(json.loads((masks / "out" / "summary.json").read_text())["rejection"]) == ["ours"]
    assert "set aside" in (masks / "out" / "table.md").read_text()
    wrong = clisc(*common, f"nobody={masks / 'confidence.csv'}", ok=False)
    assert "--confidence nobody=…: no such --method; there are ours, theirs" in last_line(wrong)


def test_without_a_confidence_nothing_is_added(masks: Path, clisc: Run) -> None:
    shown = clisc("evaluate", "--pred", masks / "ours", "--gt", masks / "gt", "-o", masks / "out").stdout
    assert "AURC" not in shown
    assert not (masks / "out" / "risk_coverage.png").exists()
    assert json.loads((masks / "out" / "summary.json").read_text())["rejection"] == {}
