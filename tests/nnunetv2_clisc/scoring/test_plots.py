"""The pictures of a comparison."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nnunetv2_clisc.scoring.comparison import Comparison
from nnunetv2_clisc.scoring.plots import bland_altman, box_plots, dsc_by_volume, plots
from tests.helpers.methods import FAIR, GOOD, POOR, method

NAN = math.nan
AWKWARD = {
    "one case": Comparison([method("a_$b$", dsc=[0.5])]),
    "no tumour at all": Comparison([method("a", dsc=[NAN, NAN], hd95_mm=[NAN, NAN], reference_ml=[0.0, 0.0])]),
    "equal volumes": Comparison([method("a", dsc=[0.5, 0.6, 0.2], reference_ml=[2.0, 2.0, 2.0])]),
    "many methods": Comparison([method(f"method {i} with a very long name indeed", dsc=[0.1, 0.2]) for i in range(12)]),
}


def points(figure: Figure) -> list[np.ndarray]:
    """Places of the points of every cloud drawn."""
    return [np.asarray(cloud.get_offsets()) for ax in figure.axes for cloud in ax.collections]


def test_files_are_png_and_svg_and_the_same_in_every_run() -> None:
    files = plots(Comparison([GOOD, FAIR]))
    assert sorted(files) == [
        f"{name}.{kind}" for name in ("bland_altman", "boxplots", "dsc_by_volume") for kind in ("png", "svg")
    ]
    for name, data in files.items():
        if name.endswith("png"):
            assert np.ptp(np.asarray(Image.open(io.BytesIO(data)).convert("L"))) > 100
        else:
            assert ElementTree.fromstring(data).tag.endswith("svg")
    assert plots(Comparison([GOOD, FAIR])) == files


def test_look_does_not_depend_on_what_others_set() -> None:
    before = plots(Comparison([GOOD, FAIR]))
    with matplotlib.rc_context({"font.size": 30, "axes.labelsize": 30, "axes.facecolor": "red"}):
        assert plots(Comparison([GOOD, FAIR])) == before


@pytest.mark.parametrize("comparison", AWKWARD.values(), ids=AWKWARD.keys())
@pytest.mark.filterwarnings("error")
def test_awkward_data_is_drawn(comparison: Comparison) -> None:
    assert all(plots(comparison).values())


def test_every_case_is_a_point() -> None:
    comparison = Comparison([GOOD, FAIR, POOR])
    drawn = points(dsc_by_volume(comparison))
    for cloud, one in zip(drawn, comparison.methods, strict=True):
        np.testing.assert_allclose(cloud[:, 0], one.values("reference_ml"))
        np.testing.assert_allclose(cloud[:, 1], 100 * np.array(one.values("dsc")))
    boxes = points(box_plots(comparison))
    assert [len(cloud) for cloud in boxes] == [20] * 9
    np.testing.assert_allclose(boxes[3][:, 0], GOOD.values("hd95_mm"))


def test_bland_altman_lines() -> None:
    predicted = [3.0, 2.0, 7.0, 3.5]
    figure = bland_altman(Comparison([method("a", dsc=[1.0] * 4, prediction_ml=predicted)]))
    difference = np.array(predicted) - [1, 2, 3, 4]
    heights = sorted(line.get_ydata()[0] for line in figure.axes[0].lines)
    mean, spread = difference.mean(), 1.96 * difference.std(ddof=1)
    assert heights == pytest.approx(sorted([0, mean, mean - spread, mean + spread]))


def test_methods_differ_in_colour_and_marker() -> None:
    figure = dsc_by_volume(Comparison([method(f"m{i}", dsc=[0.5, 0.4]) for i in range(12)]))
    clouds = figure.axes[0].collections
    looks = {(tuple(cloud.get_facecolor()[0]), cloud.get_paths()[0].vertices.tobytes()) for cloud in clouds}
    assert len(looks) == 12
