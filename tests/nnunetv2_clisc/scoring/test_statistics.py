"""Statistics over cases against scipy, pandas and worked examples."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunetv2_clisc.scoring.statistics import (
    SIZES,
    bootstrap_interval,
    correlation,
    holm,
    paired_test,
    size_groups,
    summarise,
)

RNG = np.random.default_rng(5)
FIRST = RNG.normal(0.8, 0.1, 30)
SECOND = FIRST - RNG.normal(0.03, 0.05, 30)


@pytest.fixture(autouse=True)
def no_warnings() -> object:
    """A user never sees numpy or scipy complain about few or equal cases."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class TestSummary:
    def test_nan_is_left_out_and_counted(self) -> None:
        result = summarise([1.0, math.nan, 3.0, 5.0])
        assert (result.mean, result.sd, result.n, result.nan) == (3.0, 2.0, 3, 1)

    def test_nothing_defined(self) -> None:
        result = summarise([math.nan])
        assert math.isnan(result.mean)
        assert (result.n, result.nan) == (0, 1)


class TestSizeGroups:
    def test_as_pandas_cuts(self) -> None:
        volumes = {f"c{i}": float(v) for i, v in enumerate(np.random.default_rng(1).lognormal(3, 1, 43))}
        groups = size_groups(volumes)
        cut = pd.qcut(pd.Series(volumes), 5, labels=SIZES)
        assert [group.name for group in groups] == ["tiny", "small", "medium", "large", "huge"]
        for group in groups:
            assert set(group.cases) == set(cut.index[cut == group.name])
            assert all(volumes[case] <= group.up_to_ml for case in group.cases)
        assert groups[0].above_ml == min(volumes.values())
        assert groups[-1].up_to_ml == max(volumes.values())

    def test_every_case_is_in_one_group(self) -> None:
        for volumes in ([5.0], [5.0] * 9, [1.0, 1.0, 1.0, 2.0], list(range(1, 8))):
            named = {str(i): float(v) for i, v in enumerate(volumes)}
            cases = [case for group in size_groups(named) for case in group.cases]
            assert sorted(cases) == sorted(named)

    def test_empty_references_have_no_size(self) -> None:
        assert size_groups({"a": 0.0}) == ()
        groups = size_groups({"a": 0.0, "b": 2.0, "c": 3.0})
        assert sorted(case for group in groups for case in group.cases) == ["b", "c"]
        assert groups[0].above_ml == 2.0


class TestPairs:
    def test_as_scipy_tests_pairs(self) -> None:
        ours = paired_test(FIRST, SECOND)
        assert ours.t_p == pytest.approx(stats.ttest_rel(FIRST, SECOND).pvalue)
        assert ours.wilcoxon_p == pytest.approx(stats.wilcoxon(FIRST, SECOND).pvalue)
        assert ours.difference == pytest.approx(FIRST.mean() - SECOND.mean())

    def test_undefined_pairs_are_left_out(self) -> None:
        holes = FIRST.copy()
        holes[[3, 7]] = math.nan
        kept = ~np.isnan(holes)
        assert paired_test(holes, SECOND) == paired_test(FIRST[kept], SECOND[kept])
        assert paired_test(holes, SECOND).n == 28

    def test_swapping_turns_the_sign(self) -> None:
        forth, back = paired_test(FIRST, SECOND), paired_test(SECOND, FIRST)
        assert back.difference == -forth.difference
        assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
        assert (back.t_p, back.wilcoxon_p) == pytest.approx((forth.t_p, forth.wilcoxon_p))

    def test_equal_methods_do_not_differ(self) -> None:
        ours = paired_test(FIRST, FIRST)
        assert (ours.difference, ours.low, ours.high, ours.t_p, ours.wilcoxon_p) == (0, 0, 0, 1, 1)

    @pytest.mark.parametrize("n", [0, 1, 2, 3])
    def test_few_cases(self, n: int) -> None:
        ours = paired_test([1.0] * n, [0.5] * n)
        assert ours.n == n
        assert math.isnan(ours.t_p) == math.isnan(ours.low) == (n < 2)

    def test_bootstrap_as_scipy(self) -> None:
        values = FIRST - SECOND
        theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
        width = theirs.high - theirs.low
        assert bootstrap_interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)

    def test_bootstrap_is_seeded(self) -> None:
        values = FIRST - SECOND
        assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
        assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


class TestHolm:
    def test_worked_example(self) -> None:
        # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not be below the one before
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_never_above_one_and_nan_does_not_count(self) -> None:
        corrected = holm([0.6, math.nan, 0.02])
        assert math.isnan(corrected[1])
        assert corrected[::2] == pytest.approx([0.6, 0.04])
        assert holm([0.7, 0.9]) == [1.0, 1.0]
        assert holm([]) == []


def test_correlation() -> None:
    assert correlation(list(FIRST), list(SECOND)) == pytest.approx(stats.pearsonr(FIRST, SECOND).statistic)
    assert math.isnan(correlation([1.0], [2.0]))
    assert math.isnan(correlation([1.0, 1.0], [2.0, 3.0]))
