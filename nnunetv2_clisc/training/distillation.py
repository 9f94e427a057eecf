"""Losses by which a network learns from SAM's features, a class at a time (UM-SAM, Eq. 6 to 8)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

SMALLEST = 1e-6  # weight of a class that a picture nearly lacks


def prototypes(features: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """Mean feature of each class in each picture: `g^c = sum_x F_x P_x^c / sum_x P_x^c` (UM-SAM, Eq. 6).

    Args:
        features: `(b, d, h, w)`, of a network's bottleneck or SAM's image encoder.
        probability: `(b, c, y, x)` of each class, brought to the features' grid by area.

    Returns:
        `(b, c, d)` float32.
    """
    weights = F.interpolate(probability.float(), size=features.shape[-2:], mode="area")
    total = weights.sum((2, 3)).clamp_min(SMALLEST)
    return torch.einsum("bdhw,bchw->bcd", features.float(), weights) / total[..., None]


def feature_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of prototypes, summed over classes, mean over pictures (UM-SAM, Eq. 7).

    Args:
        student, teacher: `(b, c, d)` of the same classes and width.
    """
    return (student - teacher).square().sum((1, 2)).mean()


def contrast_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """A class's student is to be nearer to its teacher than to other classes of either (UM-SAM, Eq. 8).

    Per picture `-sum_c log(E(g_c, g'_c) / (E(g_c, g'_c) + sum_(j != c) (E(g_c, g'_j) + E(g_c, g_j))))` with
    `E(a, b) = e^(cos(a, b) / t)`; mean over pictures.

    Args:
        student, teacher: `(b, c, d)` of the same classes and width.
        temperature: t, above 0.
    """
    own, others = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    to_teacher = torch.einsum("bcd,bjd->bcj", own, others) / temperature
    to_student = torch.einsum("bcd,bjd->bcj", own, own) / temperature
    same = torch.eye(student.shape[1], dtype=torch.bool, device=student.device)
    against = torch.cat([to_teacher, to_student.masked_fill(same, -torch.inf)], dim=-1)
    matching = to_teacher.diagonal(dim1=1, dim2=2)
    return (against.logsumexp(-1) - matching).sum(1).mean()
