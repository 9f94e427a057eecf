"""Metrics of one pair: as medpy and MONAI measure them, in mm and ml, and what empty masks give."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import jaccard_score

from nnunetv2_clisc.scoring.metrics import (
    METRICS,
    MetricSettings,
    assd,
    dice,
    hd95,
    measure_case,
    precision,
    recall,
    surface_distances,
)

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
        assert assd(prediction, reference, spacing) == pytest.approx(
            medpy.assd(prediction, reference, spacing), abs=1e-9
        )
        assert precision(prediction, reference) == pytest.approx(medpy.precision(prediction, reference), abs=1e-12)
        assert recall(prediction, reference) == pytest.approx(medpy.recall(prediction, reference), abs=1e-12)
        case = measure_case(prediction, reference, spacing)
        assert case["volume_error_relative"] == pytest.approx(medpy.ravd(prediction, reference), abs=1e-12)

    def test_a_picture_has_an_outline_and_a_slice_of_a_volume_has_two_faces(self) -> None:
        from medpy.metric import binary as medpy

        ours, theirs, spacing = blobs(5)[7:8], blobs(6)[7:8], (999.0, 0.7, 0.9)
        assert hd95(ours, theirs, spacing) == pytest.approx(medpy.hd95(ours[0], theirs[0], spacing[1:]), abs=1e-9)
        assert assd(ours, theirs, spacing) == pytest.approx(medpy.assd(ours[0], theirs[0], spacing[1:]), abs=1e-9)
        case = measure_case(ours, theirs, spacing)
        assert case["hd95_mm"] == pytest.approx(medpy.hd95(ours[0], theirs[0], spacing[1:]), abs=1e-9)
        assert case["reference_ml"] == pytest.approx(theirs.sum() * 0.999 * 0.7 * 0.9)
        thick = [np.pad(mask, ((2, 2), (0, 0), (0, 0))) for mask in (ours, theirs)]
        expected = medpy.hd95(*thick, spacing)
        assert measure_case(*thick, spacing)["hd95_mm"] == pytest.approx(expected, abs=1e-9)
        assert expected < case["hd95_mm"]  # inner voxels are surface there, and most of them overlap

    @pytest.mark.parametrize(("prediction", "reference"), PAIRS)
    @pytest.mark.parametrize("spacing", SPACINGS)
    def test_larger_definition_equals_monai(
        self, prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
    ) -> None:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

            batch = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
            theirs = compute_hausdorff_distance(*batch, include_background=True, percentile=95, spacing=spacing)
            overlap = compute_dice(*batch, include_background=True)
            average = compute_average_surface_distance(*batch, include_background=True, symmetric=True, spacing=spacing)
        assert hd95(prediction, reference, spacing, definition="larger") == pytest.approx(theirs.item(), abs=1e-4)
        assert dice(prediction, reference) == pytest.approx(overlap.item(), abs=1e-6)
        assert assd(prediction, reference, spacing) == pytest.approx(average.item(), abs=1e-4)

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

    def test_case_has_what_the_functions_give(self) -> None:
        a, b = PAIRS[0]
        spacing = (6.09, 0.7, 0.9)
        case = measure_case(a, b, spacing)
        assert list(case) == list(METRICS)
        assert case["hd95_mm"] == pytest.approx(hd95(a, b, spacing))
        assert measure_case(a, b, spacing, MetricSettings(hd95="larger"))["hd95_mm"] == pytest.approx(
            hd95(a, b, spacing, definition="larger")
        )
        assert case["assd_mm"] == pytest.approx(assd(a, b, spacing))
        assert case["precision"] == precision(a, b)
        assert case["recall"] == recall(a, b)
        assert case["iou"] == pytest.approx(jaccard_score(b.ravel(), a.ravel()))
        assert case["iou"] == pytest.approx(case["dsc"] / (2 - case["dsc"]))
        assert case["reference_ml"] == pytest.approx(b.sum() * 6.09 * 0.7 * 0.9 / 1000)
        assert case["volume_error_ml"] == pytest.approx(case["prediction_ml"] - case["reference_ml"])

    def test_distances_equal_a_distance_transform(self) -> None:
        a, b = PAIRS[0]
        edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
        transform = ndimage.distance_transform_edt(~edges[1], sampling=(3, 1, 2))
        np.testing.assert_allclose(surface_distances(a, b, (3, 1, 2))[0], transform[edges[0]], atol=1e-9)


class TestEmpty:
    full = ~EMPTY
    spacing = (1.0, 2.0, 0.5)

    def measure(self, prediction: np.ndarray, reference: np.ndarray, policy: str) -> dict[str, float]:
        settings = MetricSettings(empty_policy=policy)  # type: ignore[arg-type]
        return measure_case(prediction, reference, self.spacing, settings)

    def test_nothing_stands_for_what_is_undefined(self) -> None:
        case = self.measure(EMPTY, self.full, "nan")
        undefined = {name for name, value in case.items() if math.isnan(value)}
        assert undefined == {"hd95_mm", "assd_mm", "precision"}
        assert (case["dsc"], case["recall"], case["volume_error_relative"]) == (0, 0, -1)
        case = self.measure(self.full, EMPTY, "nan")
        assert {name for name, value in case.items() if math.isnan(value)} == {
            "hd95_mm", "assd_mm", "recall", "volume_error_relative",
        }  # fmt: skip
        assert case["volume_error_ml"] == pytest.approx(4 * 5 * 6 / 1000)

    def test_worst_is_the_brats_penalty(self) -> None:
        brats = np.zeros((155, 240, 240), bool)
        tumour = brats.copy()
        tumour[70:75, 100:105, 100:105] = True
        for pair in ((brats, tumour), (tumour, brats)):
            case = measure_case(*pair, (1, 1, 1), MetricSettings(empty_policy="worst"))
            assert case["hd95_mm"] == pytest.approx(373.1287, abs=1e-4)  # the challenge's number
            assert (case["dsc"], case["precision"], case["recall"]) == (0, 0, 0)

    def test_worst_rewards_a_rightly_empty_prediction(self) -> None:
        case = self.measure(EMPTY, EMPTY, "worst")
        assert (case["dsc"], case["hd95_mm"], case["assd_mm"], case["precision"], case["recall"]) == (1, 0, 0, 1, 1)

    def test_public_code_counts_an_empty_prediction_as_perfect(self) -> None:
        assert self.measure(EMPTY, self.full, "public-code")["hd95_mm"] == 0
        assert math.isnan(self.measure(self.full, EMPTY, "public-code")["hd95_mm"])

    @pytest.mark.parametrize("policy", ["worst", "public-code"])
    def test_defined_values_stay(self, policy: str) -> None:
        a, b = PAIRS[0]
        assert self.measure(a, b, policy) == self.measure(a, b, "nan")


@pytest.mark.slow
def test_time_of_a_brats_size_pair(capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from medpy.metric import binary as medpy
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    torch.set_num_threads(1)
    z, y, x = np.ogrid[:155, :240, :240]
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((155, 240, 240)), 4)
    radius = [np.sqrt((z - 80) ** 2 + (y - 110 - s) ** 2 + (x - 100) ** 2) + 7 * noise / noise.std() for s in (0, 3)]
    reference, prediction = (one < 32 for one in radius)
    prediction[140:145, 200:205, 200:205] = True  # a false island, far away
    batch = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    distances = {
        "ours, all metrics": lambda: measure_case(prediction, reference, (1.0, 1.0, 1.0)),
        "medpy, HD95 and ASSD": lambda: (medpy.hd95(prediction, reference), medpy.assd(prediction, reference)),
        "MONAI, HD95 and ASSD": lambda: (
            compute_hausdorff_distance(*batch, include_background=True, percentile=95),
            compute_average_surface_distance(*batch, include_background=True, symmetric=True),
        ),
    }
    seconds, results = {}, {}
    for name, measure in distances.items():
        start = time.process_time()  # of this process, so that other work on the machine does not count
        results[name] = measure()
        seconds[name] = time.process_time() - start
    with capsys.disabled():
        print("\n" + "\n".join(f"{name}: {value:.2f} s" for name, value in seconds.items()))
    assert seconds["ours, all metrics"] < 0.3
    ours, theirs = results["ours, all metrics"], results["medpy, HD95 and ASSD"]
    assert (ours["hd95_mm"], ours["assd_mm"]) == pytest.approx(theirs)
