"""The losses of UM-SAM against NumPy, term by term, and where their gradients go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunetv2_clisc.training.distillation import contrast_loss, feature_loss, prototypes


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def probability_of(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def prototypes_in_numpy(features: np.ndarray, probability: np.ndarray) -> np.ndarray:
    b, _, h, w = features.shape
    step = probability.shape[2] // h
    blocks = probability.reshape(b, -1, h, step, w, step).mean((3, 5))
    return np.array(
        [
            [(features[i] * blocks[i, c]).sum((1, 2)) / blocks[i, c].sum() for c in range(blocks.shape[1])]
            for i in range(b)
        ]
    )


def contrast_in_numpy(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    def s(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature))

    total = 0.0
    for g, t in zip(student, teacher, strict=True):
        for c in range(len(g)):
            others = [j for j in range(len(g)) if j != c]
            below = s(g[c], t[c]) + sum(s(g[c], t[j]) for j in others) + sum(s(g[c], g[j]) for j in others)
            total -= np.log(s(g[c], t[c]) / below)
    return total / len(student)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_losses_equal_numpy(classes: int, temperature: float) -> None:
    maps = drawn(0, 2, 5, 4, 4), drawn(1, 2, 5, 4, 4)
    probability = probability_of(3 * drawn(2, 2, classes, 16, 16))
    expected = [prototypes_in_numpy(each, probability) for each in maps]
    found = [prototypes(torch.from_numpy(each), torch.from_numpy(probability)) for each in maps]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    squared = ((expected[0] - expected[1]) ** 2).sum((1, 2)).mean()
    assert float(feature_loss(*found)) == pytest.approx(squared, rel=1e-4)
    assert float(contrast_loss(*found, temperature)) == pytest.approx(
        contrast_in_numpy(*expected, temperature), rel=1e-4
    )


def test_gradients_reach_network_and_probability() -> None:
    student = torch.from_numpy(drawn(0, 2, 5, 4, 4)).requires_grad_()
    teacher = torch.from_numpy(drawn(1, 2, 5, 4, 4))  # frozen
    logits = torch.from_numpy(drawn(2, 2, 2, 16, 16)).requires_grad_()
    p = logits.softmax(1)
    loss = feature_loss(prototypes(student, p), prototypes(teacher, p))
    loss = loss + contrast_loss(prototypes(student, p), prototypes(teacher, p), 0.5)
    loss.backward()
    for tensor in (student, logits):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().max() > 0
    assert teacher.grad is None


def test_a_student_that_is_its_teacher_has_no_distance_and_a_class_that_is_absent_no_nan() -> None:
    maps = torch.from_numpy(drawn(0, 2, 5, 4, 4))
    p = torch.zeros(2, 2, 16, 16)
    p[:, 0] = 1
    g = prototypes(maps, p)
    assert torch.isfinite(g).all()
    assert float(feature_loss(g, g)) == 0
    assert torch.isfinite(contrast_loss(g, g, 0.5))
