"""Parts of the report: choice of cases, rank correlation, panels, strips and charts."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from nnunetv2_clisc.report.charts import Chart, strip, ticks
from nnunetv2_clisc.report.measures import pick, rank_correlation
from nnunetv2_clisc.report.pictures import INK, Line, draw, slices_to_show, view_of, whole_view


def test_picked_cases_are_best_median_and_worst_without_repeats() -> None:
    values = {f"c{i}": i / 10 for i in range(9)} | {"undefined": float("nan")}
    assert [(role, case) for role, case, _ in pick(values)] == [
        ("best", "c8"), ("best", "c7"), ("median", "c5"), ("median", "c4"), ("worst", "c1"), ("worst", "c0"),
    ]  # fmt: skip
    for count in range(9):
        cases = [case for _, case, _ in pick({f"c{i}": float(i) for i in range(count)})]
        assert len(cases) == len(set(cases)) <= count
        assert bool(cases) == bool(count)


def test_rank_correlation_agrees_with_scipy_and_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(30).round(1)  # with ties
    b = a + rng.normal(0, 0.3, 30)
    found = rank_correlation(a.tolist(), b.tolist())
    assert found.rho == pytest.approx(stats.spearmanr(a, b).statistic)
    assert -1 <= found.low < found.rho < found.high <= 1
    assert np.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).rho)


def test_panel_shows_the_head_at_its_true_aspect_with_the_outline_in_place() -> None:
    images = np.zeros((2, 60, 60), dtype=np.uint8)
    images[:, 10:50, 20:40] = 120
    images[0, 2, 2] = 255  # noise is no head
    view = view_of(images, (1.0, 2.0))
    assert view.box == (6, 54, 16, 44)
    assert view_of(images, (1.0, 2.0), [np.array([12.0, 30.0, 50.0, 57.0])]).box == (6, 60, 8, 55)
    assert view.size[0] / view.size[1] == pytest.approx(48 / (28 * 2.0), rel=0.02)
    mask = np.zeros((60, 60), dtype=bool)
    mask[20:30, 25:35] = True
    panel = draw("t", "a", images[1], view, lines=[Line(mask, "blue")])
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(panel.uri.split(",")[1]))).convert("RGB")).astype(int)
    rows, columns = np.nonzero(picture[..., 2] - picture[..., 0] > 60)
    (left, top), (right, bottom) = view.place(24.5, 19.5), view.place(34.5, 29.5)
    assert [columns.min(), rows.min()] == pytest.approx([left, top], abs=3)
    assert [columns.max(), rows.max()] == pytest.approx([right, bottom], abs=3)


def test_panel_of_a_picture_keeps_its_colours_under_outline_and_map() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[..., 0] = 200
    image[:, 30:] = (20, 160, 60)
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 5:15] = True
    view = whole_view((40, 60))
    for heat in (None, np.zeros((40, 60))):
        panel = draw("t", "a", image, view, lines=[Line(mask, "blue")], heat=heat)
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(panel.uri.split(",")[1]))).convert("RGB"))
        width = picture.shape[1]
        for place, expected in (((-3, 3), (200, 0, 0)), ((-3, -3), (20, 160, 60))):
            np.testing.assert_allclose(picture[place].astype(int), expected, atol=12)
        drawn = (picture == INK["blue"]).all(-1)
        assert drawn.any() == (heat is None)
        assert not drawn[:, width // 2 :].any()


def test_slices_shown_are_where_masks_are_largest() -> None:
    first, second, empty = np.zeros((3, 6, 4, 4), dtype=bool)
    first[2, :2] = first[1, 0] = True
    second[5] = True
    picks = {"a": first, "none": None, "b": second, "c": first.copy(), "empty": empty}
    assert slices_to_show(picks, 3) == [(2, "largest a, c"), (5, "largest b")]
    assert slices_to_show(picks, 1) == [(2, "largest a, c")]


def test_strip_runs_from_foot_to_head_and_names_the_files_slices() -> None:
    svg = str(strip([0.1, 0.9, 0.2], [0, 1, 0], [2, 1, 0], [False, True, True], "a<b"))
    assert svg.index("slice 2: 0.10, normal") < svg.index("slice 1: 0.90, tumour") < svg.index("slice 0: 0.20")
    assert svg.count('class="called"') == svg.count('class="truth"') == 1
    assert "a&lt;b" in svg


def test_chart_breaks_lines_at_undefined_values_and_survives_flat_ranges() -> None:
    chart = Chart("c", (1, 1), (0.5, 0.5))
    chart.line([(1, 0.5), (1, float("nan")), (1, 0.5), (1, 0.5)], "blue")
    assert str(chart.svg()).count("<polyline") == 2
    assert all(0 <= tick <= 30 for tick in ticks(0, 30))
