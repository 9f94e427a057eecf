"""Several masks of one slice: perturbed prompts, and the choice among masks."""

from __future__ import annotations

import numpy as np
import pytest

from pseudo_labeling.prompts import Prompt
from pseudo_labeling.sam.candidates import agreement, choose, pairwise_iou, perturbed
from pseudo_labeling.sam.decoder import ScoredMasks
from pseudo_labeling.settings import ChoiceRule

SHAPE = (60, 80)


def prompt() -> Prompt:
    return Prompt(
        np.array([20, 10, 60, 30], np.float32), np.array([[30, 15], [50, 25]], np.float32), np.array([1, 1], np.int64)
    )


def squares(*edges: int) -> np.ndarray:
    masks = np.zeros((len(edges), 30, 30), bool)
    for mask, edge in zip(masks, edges, strict=True):
        mask[:edge, :edge] = True
    return masks


def scored(masks: np.ndarray) -> ScoredMasks:
    rising = np.linspace(0.1, 0.9, len(masks), dtype=np.float32)
    return ScoredMasks(masks, rising, rising[::-1].copy())


def test_prompts_move_farther_one_after_another() -> None:
    draws = [perturbed(prompt(), 10, 0.05, SHAPE, np.random.default_rng(seed)) for seed in range(200)]
    assert all(draw[0].box is not None and (draw[0].box == prompt().box).all() for draw in draws)
    boxes = np.array([[each.box for each in draw] for draw in draws])
    deviation = (boxes - prompt().box).std(0)  # over the draws, (10, 4)
    expected = 0.05 * np.arange(10)[:, None] / 10 * np.array([40, 20, 40, 20])
    np.testing.assert_allclose(deviation, expected, rtol=0.2, atol=1e-6)
    points = np.array([[each.points for each in draw] for draw in draws])
    np.testing.assert_allclose((points - prompt().points).std(0)[..., 0], np.repeat(expected[:, :1], 2, 1), rtol=0.2)


def test_prompts_stay_prompts_of_the_slice() -> None:
    for seed in range(20):
        for each in perturbed(prompt(), 5, 3.0, SHAPE, np.random.default_rng(seed)):
            assert each.box is not None
            x0, y0, x1, y1 = each.box
            assert 0 <= x0 <= x1 <= 79
            assert 0 <= y0 <= y1 <= 59


def test_one_seed_gives_one_set_of_prompts() -> None:
    first, again = (perturbed(prompt(), 4, 0.1, SHAPE, np.random.default_rng(3)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.box, other.box)


def test_a_prompt_without_box_moves_within_its_points() -> None:
    alone = Prompt(None, prompt().points, prompt().point_labels)
    moved = perturbed(alone, 3, 0.1, SHAPE, np.random.default_rng(0))[2]
    assert moved.box is None
    assert moved.points is not None
    assert 0 < np.abs(moved.points - prompt().points).max() < 10


def test_iou_of_pairs() -> None:
    np.testing.assert_allclose(pairwise_iou(squares(10, 20, 0)), [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 0]], atol=1e-6)
    assert agreement(squares(10, 20)) == pytest.approx(0.25)
    assert agreement(squares(10)) == 1
    assert agreement(squares(10, 10, 10)) == pytest.approx(1)


@pytest.mark.parametrize(("rule", "place"), [("first", 0), ("confidence", 4), ("stability", 0), ("consensus", 2)])
def test_each_rule_keeps_its_mask(rule: ChoiceRule, place: int) -> None:
    assert choose(scored(squares(2, 17, 18, 20, 29)), rule) == place


@pytest.mark.parametrize("rule", ["first", "confidence", "stability", "consensus"])
def test_an_empty_mask_never_wins(rule: ChoiceRule) -> None:
    masks = squares(0, 0, 7, 0)
    assert choose(scored(masks), rule) == 2
    assert choose(scored(squares(0, 0)), rule) == 0
